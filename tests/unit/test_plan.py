"""`crlhf plan`: what a run would do, reckoned from its settings, and nothing started."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import ray
from rich.console import Console
from transformers import AutoConfig

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.memory import GIB, memory_of, shape_of
from crlhf_ray.plan import batch_arithmetic, on_one_machine, print_plan, warnings
from crlhf_ray.policy.model import resolve

QUICKSTART = Path(__file__).parents[2] / "jobs" / "quickstart.yaml"


def arithmetic(*changes: str) -> dict[str, str]:
    return dict(batch_arithmetic(load_config(QUICKSTART, ["model.name=tiny", *changes])))


def test_batches_are_reckoned_in_samples():
    rows = arithmetic("learner.epochs=2", "evaluation.every=5")
    assert rows["samples a round"] == "8 problems x 6 samples = 48"
    assert rows["optimizer steps a round"] == "6: 2 x 48 samples in steps of 16"
    assert rows["samples in all"] == "480"
    assert rows["training problems"].startswith("102, each seen 0.8 times")
    assert rows["held-out evaluation"].startswith("3 times 57 problems x 4 samples = 684")


def test_a_plan_refuses_a_prompt_that_leaves_no_room_for_its_completion():
    with pytest.raises(
        ConfigError, match=r"the prompt of '\S+' has \d+ tokens.*rollout\.context is 128: raise that to"
    ):
        arithmetic("rollout.context=128")


def test_a_plan_refuses_a_round_of_more_problems_than_there_are():
    with pytest.raises(ConfigError, match=r"run\.problems_per_round=103, and starter has 102 .*use 1 to 102"):
        arithmetic("run.problems_per_round=103")


def memory(config):
    return memory_of(shape_of(AutoConfig.from_pretrained(resolve(config.model.name)), config.model.lora), config)


def tiny(*changes: str):
    return memory(load_config(QUICKSTART, ["model.name=tiny", *changes]))


def test_memory_grows_with_replicas_and_context_and_shrinks_with_shards():
    def needed(*changes: str) -> float:
        return on_one_machine(tiny(*changes)) / GIB

    assert needed("rollout.replicas=2") == pytest.approx(needed() + 1.5 + 0.6, abs=0.05)  # KV cache and process
    large = ("learner.minibatch_samples=48", "learner.micro_batch_tokens=4096")
    assert needed(*large) > needed(large[0])
    assert needed(*large, "learner.checkpoint_activations=true") < needed(*large)


def test_a_row_holds_no_more_than_a_minibatch_however_many_tokens_it_may_have():
    fits, vast = ([item.bytes for item in tiny(f"learner.micro_batch_tokens={n}")[1][2]] for n in (4096, 10**6))
    assert vast == fits


def test_zero_divides_what_its_stage_says_over_the_ranks():
    def rank(stage: int, ranks: int = 4) -> dict[str, int]:
        changes = ("model.lora=null", "learner.lr=1e-5", f"learner.zero_stage={stage}", f"learner.ranks={ranks}")
        return {item.name: item.bytes for item in tiny(*changes)[1][2]}

    whole = rank(0)
    for stage in (1, 2, 3):
        sharded = rank(stage)
        for name, since in (("optimizer", 1), ("gradients", 2), ("weights", 3), ("reference", 3)):
            assert sharded[name] == pytest.approx(whole[name] / (4 if stage >= since else 1), abs=4), (stage, name)


def test_zero_3_divides_a_rank_from_its_start_on():
    whole, parts = (tiny(f"learner.zero_stage={stage}", "learner.ranks=4")[2][2] for stage in (2, 3))
    assert whole[0].name == "whole model"
    assert parts[0].bytes < whole[0].bytes / 4


@pytest.mark.parametrize(("offload", "moved"), [("optimizer", 3), ("all", 5)])
def test_what_is_offloaded_leaves_the_device_and_is_counted_in_host_memory(offload, moved):
    shared = ("learner.zero_stage=3", "learner.ranks=2", "model.lora=null", "learner.lr=1e-5")
    before, after = tiny(*shared), tiny(*shared, f"learner.offload={offload}")
    (name, ranks, host) = after[3]
    assert ("host memory" in name, ranks, len(host)) == (True, 2, moved)
    gone = {item.name for item in before[1][2]} - {item.name for item in after[1][2]}
    assert gone == {item.name for item in host} - {"master weights"}  # in fp32 a copy that only offloading makes


@pytest.mark.parametrize(
    ("offload", "stage", "needed"), [("optimizer", 0, "2 or 3"), ("optimizer", 1, "2 or 3"), ("all", 2, "3")]
)
def test_offloading_what_the_zero_stage_leaves_whole_is_refused(offload, stage, needed):
    with pytest.raises(ConfigError, match=rf"zero_stage={stage} leaves it whole: set zero_stage to {needed}"):
        load_config(QUICKSTART, [f"learner.offload={offload}", f"learner.zero_stage={stage}"])


def test_tensor_parallelism_divides_a_replicas_weights():
    (_, one, alone), (_, two, halves) = tiny()[0], tiny("rollout.tensor_parallel=2")[0]
    assert (one, two) == (1, 2)
    assert halves[0].bytes == alone[0].bytes // 2


def test_it_prints_settings_batches_memory_and_bundles_and_starts_nothing():
    out = io.StringIO()
    print_plan(load_config(QUICKSTART, ["model.name=tiny", "learner.lr=0.002"]), Console(file=out, width=120))
    text = out.getvalue()
    for part in ("lr: 0.002", "= 48", "All on one machine", "Ray bundles: 1 x 0.5 CPU for rollouts"):
        assert part in text
    assert not ray.is_initialized()


def test_a_pool_that_grows_is_counted_at_its_most():
    config, out = load_config(QUICKSTART, ["model.name=tiny", "rollout.autoscale.most=4"]), io.StringIO()
    assert memory(config)[0][1] == 4
    print_plan(config, Console(file=out, width=120))
    assert "each rollout replica (up to 4 in all)" in out.getvalue()
    assert "Ray bundles: up to 4 x 0.5 CPU for rollouts" in out.getvalue()


def test_a_plan_warns_of_what_biases_the_policy_and_refuses_a_learning_rate_that_no_model_survives():
    found = warnings(load_config(QUICKSTART, ["rollout.top_p=0.5", "model.lora=null"]))
    assert [text.split("=")[0] for text in found] == ["rollout.top_p", "learner.lr"]
    assert warnings(load_config(QUICKSTART)) == []
    with pytest.raises(ConfigError, match=r"learner\.lr: .*less than or equal to 1"):
        load_config(QUICKSTART, ["learner.lr=1000"])


def test_what_judges_will_ask_for_and_cost_is_reckoned():
    rows = arithmetic(
        "feedback.annotators=[{kind: checks}, {kind: tests}, {kind: llm, model: m, prompts: [review, faults], "
        "votes: 3, price_in: 1, price_out: 4, budget: {money: 5}}]"
    )
    web = arithmetic("feedback.source=web", "feedback.annotators=[{kind: checks}]")
    assert web["checks"] == rows["checks"]
    requests = (480 + 12 + 9 * 2) * 2 * 3
    assert rows["checks"] == "510 programs"
    assert rows["tests"] == "every program, as a whole"
    assert rows["llm m"].startswith(f"{requests:,} requests, at most about ")
    assert rows["llm m"].endswith("in money, budget 5")
