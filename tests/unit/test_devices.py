"""`crlhf plan --devices`: larger models from their configuration alone, on the nodes that one means to rent."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.config import load_config
from crlhf_ray.devices import Devices, check_devices
from crlhf_ray.errors import ConfigError
from crlhf_ray.memory import memory_of, shape_of, sync_items
from crlhf_ray.policy.support import divides

FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
#: The published sizes of code models, by their rough number of billion parameters.
SIZES = {1.5: (1536, 8960, 28, 12, 2), 7: (3584, 18944, 28, 28, 4), 32: (5120, 27648, 64, 40, 8)}
BF16 = ("model.dtype=bfloat16", "rollout.dtype=bfloat16", "learner.gpus_per_rank=1", "rollout.gpus_per_replica=1")


def dense(billions):
    return AutoConfig.for_model(
        "qwen2",
        vocab_size=151936 if billions == 1.5 else 152064,
        tie_word_embeddings=billions == 1.5,
        **dict(zip(FIELDS, SIZES[billions], strict=True)),
    )


def experts():
    return AutoConfig.for_model(
        "qwen3_moe",
        vocab_size=151936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        tie_word_embeddings=False,
        **dict(zip(FIELDS, (2048, 6144, 48, 32, 4), strict=True)),
    )


def settings(*changes):
    return load_config(None, ["learner.lr=1e-5", *BF16, *changes])


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(dense(1.5), 1.54e9), (dense(7), 7.62e9), (dense(32), 32.8e9), (experts(), 30.5e9)],
    ids=["1.5B", "7B", "32B", "30B of experts"],
)
def test_parameters_are_those_that_the_models_are_published_with(config, parameters):
    assert shape_of(config, None).parameters == pytest.approx(parameters, rel=0.01)


def test_a_small_model_fits_two_large_devices():
    check_devices(dense(1.5), settings(), Devices.parse("1x2x80"))


def test_a_7b_model_in_full_is_refused_on_one_device_and_fits_the_shards_that_are_proposed():
    with pytest.raises(ConfigError, match=r"a learner rank takes \d+\.\d GiB, .*with learner\.ranks=4.*zero_stage=3"):
        check_devices(dense(7), settings(), Devices.parse("1x8x80"))
    check_devices(dense(7), settings("learner.ranks=4", "learner.zero_stage=3"), Devices.parse("1x8x80"))


def test_a_replica_that_one_device_cannot_hold_is_split_over_several():
    changes = ("model.lora={r: 8}", "rollout.dtype=float32")
    with pytest.raises(ConfigError, match=r"process of a replica .*with rollout\.tensor_parallel=2"):
        check_devices(dense(32), settings(*changes), Devices.parse("1x8x80"))


def test_a_32b_model_in_full_that_no_device_holds_is_divided_over_many_ranks_or_offloaded():
    with pytest.raises(ConfigError, match=r"takes .*with learner\.ranks=16, learner\.zero_stage=3 it would take"):
        check_devices(dense(32), settings(), Devices.parse("4x8x80"))
    with pytest.raises(ConfigError, match=r"with learner\.ranks=2, learner\.zero_stage=3, learner\.offload=optimizer"):
        check_devices(dense(32), settings(), Devices.parse("1x3x80"))
    with pytest.raises(ConfigError, match=r"takes .*with learner\.zero_stage=3, learner\.offload=all"):
        check_devices(dense(32), settings(), Devices.parse("1x2x80"))


def test_a_proposed_split_divides_the_heads_and_reserves_its_gpus():
    changes = ("model.lora={r: 8}", "rollout.dtype=float32", "learner.checkpoint_activations=true")
    with pytest.raises(ConfigError, match=r"with rollout\.tensor_parallel=4, rollout\.gpus_per_replica=4 it would"):
        check_devices(dense(7), settings(*changes), Devices.parse("1x8x12"))  # 28 heads: 5, 6 and 8 do not divide them
    with pytest.raises(ConfigError, match=r"stays on one node, which has 3 devices; set .* to 1 or 2$"):
        check_devices(dense(7), settings("rollout.tensor_parallel=4", "rollout.gpus_per_replica=4"), Devices(1, 3, 80))


def test_heads_are_divided_by_the_rules_of_vllm():
    assert [parts for parts in range(1, 30) if divides(dense(7), parts)] == [1, 2, 4]  # 28 not: the vocabulary
    sizes = {"hidden_size": 3584, "num_attention_heads": 28, "vocab_size": 28 * 64}
    alike = AutoConfig.for_model("llama", intermediate_size=28 * 400, **sizes)
    assert [parts for parts in range(1, 30) if divides(alike, parts)] == [1, 2, 4, 7, 14, 28]
    odd = AutoConfig.for_model("llama", intermediate_size=14 * 401, **sizes)
    assert [parts for parts in range(1, 30) if divides(odd, parts)] == [1, 2, 7, 14]


def test_replicas_that_share_a_device_share_its_room():
    half = ("rollout.gpus_per_replica=0.5", "rollout.replicas=2")
    check_devices(dense(1.5), settings(*half), Devices.parse("1x2x80"))
    with pytest.raises(ConfigError, match=r"device of 40 GiB, shared by 2, has room for 18\.0 GiB: with rollout"):
        check_devices(dense(1.5), settings(*half, "rollout.kv_cache_gib=20"), Devices.parse("1x3x40"))
    with pytest.raises(ConfigError, match=r"shared by 2, has room for 18\.0 GiB: with rollout\.kv_cache_gib=10 it"):
        check_devices(dense(1.5), settings(*half, "rollout.kv_cache_gib=20"), Devices.parse("1x2x40"))


def test_a_smaller_kv_cache_and_fewer_tokens_a_row_are_proposed_before_it_says_that_nothing_helps():
    with pytest.raises(ConfigError, match=r"process of a replica .*with rollout\.kv_cache_gib=37\.5 it would take"):
        check_devices(dense(1.5), settings("rollout.kv_cache_gib=75"), Devices.parse("1x2x80"))
    wide = ("learner.minibatch_samples=1024", "run.problems_per_round=256", "learner.micro_batch_tokens=65536")
    with pytest.raises(ConfigError, match=r"learner rank .*with learner\.micro_batch_tokens=\d+ it would take"):
        check_devices(dense(1.5), settings(*wide), Devices.parse("1x2x80"))


def test_processes_beyond_the_heads_of_keys_hold_a_copy_of_one_each():
    shape = shape_of(dense(7), None)

    def held(parts):
        changes = (f"rollout.tensor_parallel={parts}", f"rollout.gpus_per_replica={parts}")
        cache = memory_of(shape, settings(*changes))[0][2][1]
        return int(cache.formula.split(": ")[1].split(" tokens")[0].replace(",", ""))

    assert held(4) == pytest.approx(4 * held(1), rel=0.01)
    assert held(28) == held(4)


def test_models_that_are_not_causal_are_refused_by_name():
    with pytest.raises(ConfigError, match="type t5 is an encoder with a decoder; a causal language model is needed"):
        shape_of(AutoConfig.for_model("t5"), None)


def test_where_nothing_helps_it_says_so():
    with pytest.raises(ConfigError, match="no setting of this model helps"):
        check_devices(dense(32), settings("model.lora={r: 8}"), Devices.parse("1x2x24"))


def test_more_processes_than_devices_are_refused():
    with pytest.raises(ConfigError, match="need 9 devices, and there are 8"):
        check_devices(dense(1.5), settings("learner.ranks=8"), Devices.parse("1x8x80"))
    with pytest.raises(ConfigError, match="2x8x80"):
        Devices.parse("eight")
    for text in ("1x1x" + "9" * 400, "9" * 5000 + "x1x80"):
        with pytest.raises(ConfigError, match="below a million"):
            Devices.parse(text)


def test_a_transfer_sends_every_weight_to_every_replica():
    shape = shape_of(dense(1.5), None)
    assert sync_items(shape, settings("rollout.replicas=4"))[0].bytes == 4 * 2 * shape.parameters


def test_the_command_needs_a_config_alone_and_refuses_experts_after_showing_what_they_take(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(experts().to_dict()))
    found = CliRunner().invoke(app, ["plan", "--devices", "2x8x80", "--set", f"model.name={tmp_path}"])
    assert found.exit_code != 0
    assert "Memory of each learner rank" in found.output
    assert "mixture of experts" in found.output + str(found.exception)
