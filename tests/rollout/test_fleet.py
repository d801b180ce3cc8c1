"""The fleet on the real engine: vLLM replicas in Ray actors, and a stand-in learner that holds a Hugging Face model."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from crlhf_ray.errors import EngineError, ResourceError
from crlhf_ray.learner.group import Experience, LearnerGroup, LearnerSettings
from crlhf_ray.policy.model import load_tokenizer, resolve
from crlhf_ray.policy.settings import LoraSettings, ModelSettings
from crlhf_ray.rollout.fleet import Fleet, Request, RolloutSettings
from crlhf_ray.rollout.weights import Senders

pytestmark = pytest.mark.engine

# Ray's workers do not have the tests on their path, so this module's classes travel by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

STOPS = ("\ndef ", "\nclass ", "\nprint", "\n#")
PROMPTS = {
    "add": 'def add(a, b):\n    """Return the sum of a and b."""',
    "evens": 'def evens(numbers):\n    """Return the even numbers of a list, in their order."""',
    "greet": 'def greet(name):\n    """Return a greeting such as \'Grüß dich, Ana! 👋\'."""',
}


class HfModel:
    """A learner's rank 0 without the learning: a Hugging Face model that can be shaken and sent."""

    def __init__(self, name):
        torch.set_num_threads(2)
        self.model = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=torch.float32).eval()
        self.senders = Senders()
        self.kept = {}

    def shake(self, scale):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight += scale * weight.abs().mean() * torch.randn(weight.shape, generator=generator)

    def keep(self, version):
        self.kept[version] = {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def return_to(self, version):
        self.model.load_state_dict(self.kept[version])

    def connect(self, specs):
        weights = self.model.named_parameters()
        return self.senders.connect(
            specs, [(n, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for n, w in weights]
        )

    def send_weights(self, only):
        return self.senders.send(self.model.named_parameters(), only)

    @torch.no_grad()
    def logprobs(self, sequences, temperature=1.0):
        found = []
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logits = self.model(ids).logits[0, :-1] / temperature
            found.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy())
        return found


class StandIn:
    """The learner group's two entry points over one `HfModel` actor."""

    def __init__(self, name, **options):
        self.rank = ray.remote(HfModel).options(num_cpus=0, **options).remote(name)

    def connect(self, specs):
        return [self.rank.connect.remote(specs)]

    def send_weights(self, only=None):
        return [self.rank.send_weights.remote(only)]

    def logprobs(self, sequences, temperature=1.0):
        return ray.get(self.rank.logprobs.remote(sequences, temperature))

    def shake(self, scale):
        ray.get(self.rank.shake.remote(scale))


@pytest.fixture(scope="module")
def smollm2(cluster):
    """One replica of the real model and its learner, whose weights are still the same."""
    fleet = Fleet(RolloutSettings(kv_cache_gib=0.5), ModelSettings(name="smollm2-135m"), log_dir=cluster)
    fleet.start()
    learner = StandIn("smollm2-135m")
    yield fleet, learner
    fleet.close()
    ray.kill(learner.rank)


@pytest.fixture(scope="module")
def tiny(cluster):
    """Two replicas of the tiny model and their learner."""
    settings = RolloutSettings(replicas=2, threads=1, kv_cache_gib=0.25, cpus_per_replica=0.5, transfer_seconds=60)
    fleet = Fleet(settings, ModelSettings(name="tiny"), log_dir=cluster)
    fleet.start()
    learner = StandIn("tiny")
    yield fleet, learner
    fleet.close()
    ray.kill(learner.rank)


def requests(model, n=2, prompts=PROMPTS):
    tokenizer = load_tokenizer(model)
    return [Request(name, tuple(tokenizer.encode(prompt)), STOPS, n) for name, prompt in prompts.items()]


def gap(samples, learner, temperature):
    """The largest difference between behaviour log-probs and the learner's."""
    wanted = learner.logprobs([[*s.prompt_token_ids, *s.token_ids] for s in samples], temperature)
    return max(
        np.abs(s.logprobs - w[len(s.prompt_token_ids) - 1 :]).max() for s, w in zip(samples, wanted, strict=True)
    )


def test_samples_keep_text_tokens_log_probs_and_lines_consistent(smollm2):
    fleet, _ = smollm2
    tokenizer = load_tokenizer("smollm2-135m")
    finished = []
    samples = fleet.generate(requests("smollm2-135m", n=3), seed=1, tag="r0", max_tokens=48, progress=finished.append)
    assert [s.sample_id for s in samples] == [f"r0-{name}-{i}" for name in PROMPTS for i in range(3)]
    assert sum(finished) == 9
    for sample in samples:
        assert sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        assert "\n".join(line.text for line in sample.lines) == sample.text
        assert sample.lines[-1].token_end == len(sample.token_ids) == len(sample.logprobs) <= 48
        assert (sample.logprobs <= 0).all()
        assert sample.weight_version == 0
        assert sample.finish_reason in ("eos", "stop", "length")
        assert (sample.finish_reason == "eos") == (tokenizer.eos_token_id in sample.token_ids)


def test_behaviour_log_probs_equal_the_learners_at_the_sampling_temperature(smollm2):
    fleet, learner = smollm2
    samples = fleet.generate(requests("smollm2-135m"), seed=2, tag="r0", temperature=0.7, max_tokens=32)
    assert gap(samples, learner, 0.7) < 1e-3


def test_after_a_sync_log_probs_of_fixed_sequences_equal_the_learners(smollm2):
    """A tied output head that kept its repacked copy of the old embedding would be off by 0.3 and more here."""
    fleet, learner = smollm2
    tokenizer = load_tokenizer("smollm2-135m")
    sequences = [tokenizer.encode(prompt + "\n    return 1\n") for prompt in PROMPTS.values()]
    before = learner.logprobs(sequences)
    fleet.generate(requests("smollm2-135m"), seed=3, max_tokens=8)  # leaves the prompts in the prefix cache
    learner.shake(0.1)
    fleet.sync(learner, 1)
    wanted = learner.logprobs(sequences)
    assert max(np.abs(b - w).max() for b, w in zip(before, wanted, strict=True)) > 0.1
    found = ray.get(fleet.members.actors["0"].logprobs.remote(sequences))
    assert max(np.abs(f - w).max() for f, w in zip(found, wanted, strict=True)) < 1e-3
    # The same prompts again: a prefix that was cached under the old weights would show.
    samples = fleet.generate(requests("smollm2-135m"), seed=3, max_tokens=8)
    assert {sample.weight_version for sample in samples} == {1}
    assert gap(samples, learner, 1.0) < 1e-3


def experiences(samples):
    """The samples as the learner takes them; within a group the longer one is the better."""
    return [
        Experience(
            sample_id=sample.sample_id,
            group=sample.problem_id,
            prompt_token_ids=sample.prompt_token_ids,
            token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            token_rewards=np.append(np.zeros(len(sample.token_ids) - 1), len(sample.token_ids)),
        )
        for sample in samples
    ]


def largest_gap(samples, logprobs):
    return max(np.abs(s.logprobs - own).max() for s, own in zip(samples, logprobs, strict=True))


def test_what_deepspeed_has_learnt_is_what_vllm_samples_after_a_sync(smollm2, cluster):
    fleet, _ = smollm2
    learner = LearnerGroup(
        LearnerSettings(algorithm="rloo", epochs=1, lr=1e-3, stop_kl=None),
        ModelSettings(name="smollm2-135m", lora=LoraSettings(r=8)),
        log_dir=cluster,
    )
    learner.start()
    try:
        fleet.sync(learner, 2)
        before = fleet.generate(requests("smollm2-135m", n=4), seed=4, max_tokens=16)
        assert largest_gap(before, learner.logprobs(experiences(before))) < 1e-3
        learner.update(experiences(before))
        assert largest_gap(before, learner.logprobs(experiences(before))) > 0.05, "the update must have moved it"
        fleet.sync(learner, 3)
        after = fleet.generate(requests("smollm2-135m", n=4), seed=4, max_tokens=16)
        assert largest_gap(after, learner.logprobs(experiences(after))) < 1e-3
    finally:
        learner.close()


def test_the_same_seed_gives_the_same_samples_and_another_gives_others(tiny):
    fleet, _ = tiny
    first, again, other = (fleet.generate(requests("tiny", n=4), seed=seed, max_tokens=16) for seed in (5, 5, 6))
    assert [s.token_ids for s in first] == [s.token_ids for s in again]
    assert [s.token_ids for s in first] != [s.token_ids for s in other]
    assert {s.replica_id for s in first} == set(fleet.replicas())
    assert len(fleet.replicas()) == 2
    assert len({s.token_ids for s in first[:4]}) == 4


def test_seeded_prompts_that_exceed_one_batch_are_drawn(tiny):
    """A prompt that is prefilled in pieces makes the CPU build fail on the request's own generator."""
    fleet, _ = tiny
    long = {f"p{k}": f"# {k}\n" + "x = 1\n" * 130 for k in range(16)}
    assert len(fleet.generate(requests("tiny", n=1, prompts=long), seed=0, max_tokens=4)) == 16


def process_of(fleet, replica):
    return ray.get(fleet.members.actors[replica].pid.remote())


def test_a_replica_killed_while_it_draws_loses_no_sample_and_changes_none(tiny):
    fleet, learner = tiny
    asked = requests("tiny", n=20)
    whole = fleet.generate(asked, seed=1, max_tokens=100)
    victim = fleet.replicas()[0]
    process = process_of(fleet, victim)
    kills = []

    def kill_at_the_first_sample(_):
        if not kills:
            kills.append(os.kill(process, signal.SIGKILL))

    samples = fleet.generate(asked, seed=1, max_tokens=100, progress=kill_at_the_first_sample)
    assert [s.sample_id for s in samples] == [s.sample_id for s in whole]
    assert [s.token_ids for s in samples] == [s.token_ids for s in whole]
    assert victim not in fleet.replicas()
    fleet.sync(learner, fleet.version + 1)
    assert victim not in fleet.replicas(), "the other goes on alone, and waits for nobody"
    while fleet.starting():
        time.sleep(0.2)
    fleet.sync(learner, fleet.version + 1)
    assert victim not in fleet.replicas()
    assert len(fleet.replicas()) == 2


def test_when_all_replicas_are_gone_new_ones_get_the_learners_weights_before_they_serve(tiny):
    fleet, learner = tiny
    learner.shake(0.1)
    fleet.sync(learner, fleet.version + 1)
    dead = fleet.replicas()
    for replica in dead:
        os.kill(process_of(fleet, replica), signal.SIGKILL)
    samples = fleet.generate(requests("tiny"), seed=1, max_tokens=16)
    assert not {s.replica_id for s in samples} & set(dead)
    assert gap(samples, learner, 1.0) < 1e-3


def test_a_fresh_replica_refuses_to_draw_and_one_whose_learner_never_comes_ends_its_process(cluster):
    settings = RolloutSettings(kv_cache_gib=0.25, threads=1, transfer_seconds=2.0)
    fresh = Fleet(settings, ModelSettings(name="tiny"), log_dir=cluster).members.actor("fresh")
    stream = fresh.draw.options(num_returns="streaming").remote(0, [])
    with pytest.raises(EngineError, match="replica fresh holds no synced weights, wanted is version 0"):
        ray.get(next(stream))
    process = ray.get(fresh.pid.remote())
    ray.get(fresh.open_transfer.remote())
    with pytest.raises(EngineError, match=r"replica fresh failed in join: the learner did not join within 2 s"):
        ray.get(fresh.join.remote())
    for _ in range(100):
        if not os.path.exists(f"/proc/{process}"):
            break
        time.sleep(0.2)
    assert not os.path.exists(f"/proc/{process}")


def test_a_cluster_that_is_too_small_is_named_with_what_it_lacks(cluster):
    settings = RolloutSettings(replicas=3, cpus_per_replica=2, resources={"rollout": 1})
    with pytest.raises(ResourceError, match=r"6 CPU \(the cluster has 4\), 3 rollout \(the cluster has 0\)"):
        Fleet(settings, ModelSettings(name="tiny")).start()


def test_what_the_engine_prints_goes_to_the_replicas_log(tiny, cluster, capfd):
    fleet, _ = tiny
    fleet.generate(requests("tiny", n=1), seed=0, max_tokens=4)
    assert "vllm" not in "".join(capfd.readouterr()).lower()
    assert (cluster / "replica-0.log").stat().st_size > 0


def test_a_replica_of_two_processes_draws_what_one_draws_and_takes_the_learners_weights(tiny, cluster):
    one, learner = tiny
    settings = RolloutSettings(tensor_parallel=2, threads=1, kv_cache_gib=0.25, transfer_seconds=60)
    fleet = Fleet(settings, ModelSettings(name="tiny"), log_dir=cluster)
    fleet.start()
    try:
        learner.shake(0.1)
        one.sync(learner, one.version + 1)
        fleet.sync(learner, 1)
        drawn, wanted = (each.generate(requests("tiny", n=4), seed=3, max_tokens=16) for each in (fleet, one))
        assert [s.token_ids for s in drawn] == [s.token_ids for s in wanted]
        assert gap(drawn, learner, 1.0) < 1e-3
    finally:
        fleet.close()


def test_a_pool_that_grows_and_shrinks_while_tasks_are_open_draws_each_once_and_from_the_current_weights(tiny):
    fleet, learner = tiny
    learner.shake(0.1)
    fleet.sync(learner, fleet.version + 1)
    fleet.resize(1)
    stays, samples, asked, end = fleet.replicas(), [], 0, time.monotonic() + 120
    fleet.resize(2)
    while {sample.replica_id for sample in samples} <= set(stays) and time.monotonic() < end:
        if asked - len(samples) < 20:  # tasks are open until the second one draws
            fleet.submit(fleet.tasks(requests("tiny", n=20), seed=9, tag=f"g{asked}", max_tokens=60))
            asked += 60
        samples += fleet.poll(1.0)
    fleet.submit(fleet.tasks(requests("tiny", n=20), seed=9, tag="last", max_tokens=60))
    asked += 60
    fleet.resize(1)
    assert len(fleet.replicas()) == 1
    while len(samples) < asked and time.monotonic() < end:
        samples += fleet.poll(1.0)
    assert len(samples) == asked
    assert set(Counter(sample.sample_id for sample in samples).values()) == {1}
    assert len({sample.replica_id for sample in samples}) == 2
    assert gap(samples, learner, 1.0) < 1e-3
    assert list(fleet.members.actors) == fleet.replicas()


@pytest.mark.parametrize("on_update", ["keep", "restart"])
def test_what_is_drawn_during_an_update_goes_on_with_the_new_weights(cluster, on_update):
    settings = RolloutSettings(on_update=on_update, threads=1, kv_cache_gib=0.25, transfer_seconds=60)
    fleet, learner = Fleet(settings, ModelSettings(name="tiny"), log_dir=cluster), StandIn("tiny")
    fleet.start()
    try:
        ray.get(learner.rank.keep.remote(0))
        # Many tokens: the updates come one after the other, and the first of them while these are being drawn.
        fleet.submit(fleet.tasks(requests("tiny", n=2), seed=7, max_tokens=900))
        for version in range(1, 5):
            learner.shake(0.1)
            ray.get(learner.rank.keep.remote(version))
            fleet.sync(learner, version)
        samples = []
        while len(samples) < 6:
            samples += fleet.poll(5.0)
        wanted = []
        for version in range(5):
            ray.get(learner.rank.return_to.remote(version))
            told = learner.logprobs([[*one.prompt_token_ids, *one.token_ids] for one in samples])
            wanted.append([w[len(one.prompt_token_ids) - 1 :] for one, w in zip(samples, told, strict=True)])
        gaps, gaps_of_the_first = [], []
        for place, one in enumerate(samples):
            own = wanted[one.weight_version][place].copy()
            gaps_of_the_first.append(np.abs(own - one.logprobs).max())
            for version, first in one.newer:
                own[first:] = wanted[version][place][first:]
            gaps.append(np.abs(own - one.logprobs).max())
        assert max(gaps) < 1e-3
        assert (max(gaps_of_the_first) > 0.01) == (on_update == "keep")
        assert any(one.newer for one in samples) == (on_update == "keep")
        assert max(one.newer[-1][0] if one.newer else one.weight_version for one in samples) > 1
        assert len({one.sample_id for one in samples}) == 6
    finally:
        fleet.close()
        ray.kill(learner.rank)
