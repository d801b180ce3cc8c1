import numpy as np
import pytest

from crlhf_ray.learner.advantage import (
    ALGORITHMS,
    Rewarded,
    credited,
    explained_variance,
    gae,
    grpo,
    normalised,
    penalised,
    reinforce_pp,
    rloo,
    signal,
    to_go,
)

RNG = np.random.default_rng(0)


def batch(*rewards, groups=None, values=None, **more) -> Rewarded:
    arrays = [np.array(one, dtype=float) for one in rewards]
    zeros = [np.zeros(len(one)) for one in arrays]
    return Rewarded(arrays, values or zeros, groups or ["p"] * len(arrays), **more)


def test_gae_is_the_discounted_sum_of_temporal_differences():
    rewards, values, gamma, lambda_ = RNG.normal(size=6), RNG.normal(size=6), 0.9, 0.8
    deltas = rewards + gamma * np.append(values[1:], 0) - values
    expected = [sum((gamma * lambda_) ** (k - t) * deltas[k] for k in range(t, 6)) for t in range(6)]
    (advantages,) = gae(batch(rewards, values=[values], gamma=gamma, lambda_=lambda_))
    assert advantages == pytest.approx(expected)


def test_gae_with_lambda_one_is_return_to_go_minus_value():
    rewards, values = RNG.normal(size=5), RNG.normal(size=5)
    (advantages,) = gae(batch(rewards, values=[values], gamma=1.0, lambda_=1.0))
    assert advantages == pytest.approx(to_go(rewards) - values)


def test_rloo_compares_a_sample_with_the_others_of_its_problem_only():
    advantages = rloo(batch([0, 1.0], [0.25], [0, 0, 0.5], [9.0], groups=["p", "p", "p", "q"]))
    assert advantages[0] == pytest.approx([1 - 0.375] * 2)
    assert advantages[1] == pytest.approx([0.25 - 0.75])
    assert advantages[2] == pytest.approx([0.5 - 0.625] * 3)


def test_grpo_divides_by_the_spread_of_the_group():
    advantages = grpo(batch([0, 1.0], [0.0], [5.0], [7.0], groups=["p", "p", "q", "q"]))
    assert [one[0] for one in advantages] == pytest.approx([1, -1, -1, 1])


def test_grpo_does_not_blow_up_a_group_whose_scores_hardly_differ():
    advantages = grpo(batch([0.5], [0.5 + 1e-6], floor=0.02))
    assert np.abs(np.concatenate(advantages)).max() < 1e-4


@pytest.mark.parametrize("estimate", [rloo, grpo])
def test_a_sample_alone_in_its_problem_teaches_nothing(estimate):
    assert estimate(batch([3.0, 1.0]))[0].tolist() == [0.0, 0.0]


def test_reinforce_pp_is_the_return_to_go_whose_baseline_whitening_takes():
    assert reinforce_pp(batch([1.0, 0.0, 2.0]))[0].tolist() == [3.0, 2.0, 2.0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_reward_by_line_changes_the_advantages_of_every_algorithm(name):
    """Two programs with the same scores: at their ends, and as what is left to earn from each line on."""
    values = [RNG.normal(size=4), RNG.normal(size=4)]
    at_the_end = batch([0, 0, 0, 0.2], [0, 0, 0, 0.8], values=values)
    by_line = batch([0, -0.7, 0, 0.9], [0, 0, 0, 0.8], values=values)
    assert signal([0.2, 0.8], None) == pytest.approx(signal([one.sum() for one in by_line.rewards], None))
    one, other = (ALGORITHMS[name].estimate(rewards) for rewards in (at_the_end, by_line))
    gained = other[0] - one[0]
    assert gained[2:].min() > gained[:2].max() + 0.1, "what comes after the fault is no longer charged with it"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_blame_changes_the_advantages_of_every_algorithm_where_they_are_below_zero_only(name):
    algorithm = ALGORITHMS[name]
    values = [np.full(4, 0.5)] * 2 if algorithm.needs_values else None
    advantages = algorithm.estimate(batch([0, 0, 0, 0.2], [0, 0, 0, 0.8], values=values))
    advantages = normalised(advantages, centre=not algorithm.needs_groups, floor=0.02)
    blame = np.array([0.0, 1.0, 1.0, 0.1])
    worse, better = credited(advantages, [np.ones(4)] * 2, [blame] * 2)
    assert (advantages[0] < 0).all()
    assert worse == pytest.approx(advantages[0] * blame)
    assert better.tolist() == advantages[1].tolist()


def test_praise_weighs_advantages_above_zero():
    (found,) = credited([np.array([2.0, -2.0])], [np.array([0.5, 0.5])], [np.array([0.25, 0.25])])
    assert found.tolist() == [1.0, -0.5]


def test_whitening_runs_over_all_tokens_of_the_batch():
    advantages = [RNG.normal(3, 2, size=5), RNG.normal(-1, 2, size=9)]
    white = np.concatenate(normalised(advantages, centre=True, floor=0.02))
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.std() == pytest.approx(1, abs=1e-6)


def test_what_a_group_centred_is_scaled_and_keeps_its_sign():
    scaled = normalised([np.full(3, 0.5), np.full(1, -0.5)], centre=False, floor=0.02)
    assert (scaled[0] > 0).all()
    assert (scaled[1] < 0).all()


@pytest.mark.parametrize("spread", [1e-4, 1e-7, 0.0])
def test_whitening_does_not_blow_up_differences_below_the_floor(spread):
    white = normalised([np.full(3, 0.7), np.full(3, 0.7 + spread)], centre=True, floor=0.02)
    assert np.abs(np.concatenate(white)).max() <= spread / 0.02 + 1e-12


def test_the_signal_is_the_spread_of_the_scores_and_of_those_within_problems_for_group_baselines():
    scores, groups = [0.2, 0.2, 0.8, 0.8], ["easy", "easy", "hard", "hard"]
    assert signal(scores, None) == pytest.approx(0.3)
    assert signal(scores, groups) == pytest.approx(0.0)
    assert signal([0.2, 0.8, 0.2, 0.8], groups) == pytest.approx(0.3)


def test_the_kl_penalty_is_taken_from_each_tokens_reward():
    out = penalised([np.array([0.0, 1.0])], [np.array([-1.0, -2.0])], [np.array([-1.5, -1.0])], 0.2)
    assert out[0] == pytest.approx([-0.1, 1.2])


def test_explained_variance_is_one_for_a_perfect_value_function_and_zero_for_a_constant():
    returns = [RNG.normal(size=4), RNG.normal(size=3)]
    assert explained_variance(returns, returns) == pytest.approx(1)
    assert explained_variance([np.ones(4), np.ones(3)], returns) == pytest.approx(0)
    assert np.isnan(explained_variance(returns, [np.ones(4), np.ones(3)]))
