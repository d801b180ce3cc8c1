"""Real DeepSpeed ranks as Ray actors, on the tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import ray
from batches import batch, sampled_by

from crlhf_ray.errors import DataError, EngineError, ResourceError
from crlhf_ray.learner.group import KLSettings, LearnerGroup, LearnerSettings
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

pytestmark = pytest.mark.engine

TINY = ModelSettings(name="tiny", lora=LoraSettings(r=4))
ONE = LearnerSettings(
    lr=1e-3,
    epochs=2,
    minibatch_samples=4,
    micro_batch_tokens=64,
    threads_per_rank=1,
    stop_kl=None,
    kl=KLSettings(target=0.01, horizon=100),
)
TWO = ONE.model_copy(update={"ranks": 2, "zero_stage": 3, "checkpoint_activations": True})


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def start(cluster, tmp_path_factory):
    groups = []

    def started(settings, model=TINY):
        groups.append(LearnerGroup(settings, model, log_dir=tmp_path_factory.mktemp("logs")))
        groups[-1].start()
        return groups[-1]

    yield started
    for group in groups:
        group.close()


@pytest.fixture(scope="module")
def alone(start):
    """One rank at stage 0, and its first three updates."""
    group = start(ONE)
    return group, curve(group, 3)


@pytest.fixture(scope="module")
def pair(start):
    """Two ranks at stage 3, and their first three updates."""
    group = start(TWO)
    return group, curve(group, 3)


def curve(group, updates):
    samples = sampled_by(group.logprobs(batch()), batch())
    return [group.update(samples) for _ in range(updates)]


def assert_alike(*curves):
    for name in ("loss", "policy_loss", "value_loss", "grad_norm", "approx_kl", "entropy"):
        expected, found = ([metrics[name] for metrics in side] for side in curves)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name


def test_two_ranks_at_stage_3_learn_what_one_rank_at_stage_0_learns(alone, pair):
    assert_alike(alone[1], pair[1])
    for one, two in zip(alone[0].logprobs(batch()), pair[0].logprobs(batch()), strict=True):
        assert np.abs(one - two).max() < 1e-3
    assert alone[1][2]["value_loss"] < alone[1][0]["value_loss"], "three updates must have learnt something"


def assert_goes_back(group, folder):
    before = group.logprobs(batch())
    group.save(folder, {"round": 3})
    curve(group, 1)
    assert group.load(folder) == {"round": 3}
    for one, other in zip(before, group.logprobs(batch()), strict=True):
        assert np.array_equal(one, other)


def test_sharded_ranks_go_back_to_their_checkpoint(pair, tmp_path):
    assert_goes_back(pair[0], tmp_path)


def test_offloaded_weights_and_optimizer_learn_the_same_and_go_back_to_their_checkpoint(alone, start, tmp_path):
    group = start(TWO.model_copy(update={"offload": "all"}))
    assert_alike(alone[1], curve(group, 3))
    assert_goes_back(group, tmp_path)


def test_a_rank_that_dies_is_named(pair):
    group = pair[0]
    ray.kill(group._ranks[1])
    with pytest.raises(EngineError, match=r"learner rank 1 died during update.*learner-rank1\.log"):
        group.update(batch())


def test_a_resumed_run_equals_an_uninterrupted_one(alone, start, tmp_path):
    first = alone[0]
    samples = sampled_by(first.logprobs(batch()), batch())
    first.save(tmp_path, {"round": 1, "digest": "abc"})
    uninterrupted = [first.update(samples) for _ in range(2)]

    second = start(ONE)
    assert second.load(tmp_path) == {"round": 1, "digest": "abc"}
    resumed = [second.update(samples) for _ in range(2)]
    for ours, theirs in zip(resumed, uninterrupted, strict=True):
        timeless = [name for name in theirs if not name.startswith("seconds")]
        assert {n: ours[n] for n in timeless} == pytest.approx({n: theirs[n] for n in timeless}, rel=1e-6)
    for one, other in zip(first.logprobs(batch()), second.logprobs(batch()), strict=True):
        assert np.array_equal(one, other)


def test_the_gap_between_rollout_and_learner_is_measured_before_the_first_step(alone):
    group = alone[0]
    exact = group.logprobs(batch())
    shifted = [own + 0.25 for own in exact]
    metrics = group.update(sampled_by(shifted, batch()))
    assert metrics["logprob_gap_mean"] == pytest.approx(0.25, abs=1e-4)
    assert metrics["logprob_gap_max"] == pytest.approx(0.25, abs=1e-4)


def test_an_update_ends_early_when_the_policy_has_moved_too_far(start):
    group = start(ONE.model_copy(update={"lr": 0.05, "stop_kl": 0.01, "epochs": 10}))
    (metrics,) = curve(group, 1)
    assert metrics["stopped_early"] == 1
    assert metrics["optimizer_steps"] < 10


def test_full_fine_tuning_measures_kl_against_the_model_it_began_with(start):
    group = start(ONE.model_copy(update={"algorithm": "rloo", "lr": 1e-3}), ModelSettings(name="tiny"))
    before = group.logprobs(batch())
    assert curve(group, 1)[0]["kl"] == pytest.approx(0, abs=1e-5)
    metrics = curve(group, 1)[0]  # the old policy is now the moved one
    moved = np.concatenate(group.logprobs(batch())) - np.concatenate(before)
    assert np.abs(moved).max() > 1e-3
    assert abs(metrics["kl"]) > 1e-4


def test_a_cluster_that_is_too_small_is_named_before_waiting():
    group = LearnerGroup(ONE.model_copy(update={"ranks": 3, "cpus_per_rank": 4.0}), TINY)
    with pytest.raises(ResourceError, match=r"need 12 CPU \(the cluster has 8\)"):
        group.start()


def test_a_checkpoint_of_another_shape_is_refused(alone, start, tmp_path):
    with pytest.raises(DataError, match="no finished checkpoint"):
        alone[0].load(tmp_path / "nowhere")
    alone[0].save(tmp_path, {})
    other = start(ONE.model_copy(update={"zero_stage": 2, "offload": "optimizer"}))
    with pytest.raises(EngineError, match=r"written with learner.zero_stage=0, this run has 2"):
        other.load(tmp_path)
    assert_alike(alone[1], curve(other, 3))  # with the optimizer's state in host memory


def test_an_update_whose_scores_hardly_differ_takes_no_step_and_says_so(alone):
    group = alone[0]
    before = group.logprobs(batch())
    flat = [replace(sample, token_rewards=sample.token_rewards * 1e-4) for sample in sampled_by(before, batch())]
    metrics = group.update(flat)
    assert (metrics["skipped"], metrics["signal"] < 1e-3, "optimizer_steps" in metrics) == (1, True, False)
    assert metrics["logprob_gap_max"] < 1e-5
    for one, other in zip(before, group.logprobs(batch()), strict=True):
        assert np.array_equal(one, other)


def test_a_warm_up_lowers_the_first_steps(start):
    group = start(ONE.model_copy(update={"lr_warmup": 4}))
    assert [metrics["lr_factor"] for metrics in curve(group, 2)] == [0.25, 0.5]
