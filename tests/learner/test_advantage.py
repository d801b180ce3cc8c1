import numpy as np
import pytest

from crlhf_ray.learner.advantage import explained_variance, gae, leave_one_out, penalised, whiten

RNG = np.random.default_rng(0)


def test_gae_is_the_discounted_sum_of_temporal_differences():
    rewards, values, gamma, lambda_ = RNG.normal(size=6), RNG.normal(size=6), 0.9, 0.8
    deltas = rewards + gamma * np.append(values[1:], 0) - values
    expected = [sum((gamma * lambda_) ** (k - t) * deltas[k] for k in range(t, 6)) for t in range(6)]
    advantages, returns = gae(rewards, values, gamma=gamma, lambda_=lambda_)
    assert advantages == pytest.approx(expected)
    assert returns == pytest.approx(advantages + values)


def test_gae_with_lambda_one_is_return_minus_value():
    rewards, values = RNG.normal(size=5), RNG.normal(size=5)
    advantages, returns = gae(rewards, values, gamma=1.0, lambda_=1.0)
    assert advantages == pytest.approx(rewards[::-1].cumsum()[::-1] - values)
    assert returns == pytest.approx(rewards[::-1].cumsum()[::-1])


def test_leave_one_out_compares_a_sample_with_the_others_of_its_problem_only():
    rewards = [np.array([0.0, 1.0]), np.array([0.25]), np.array([0.0, 0.0, 0.5]), np.array([9.0])]
    advantages = leave_one_out(rewards, ["p", "p", "p", "q"])
    assert advantages[0] == pytest.approx([1 - 0.375] * 2)
    assert advantages[1] == pytest.approx([0.25 - 0.75])
    assert advantages[2] == pytest.approx([0.5 - 0.625] * 3)


def test_a_sample_alone_in_its_problem_teaches_nothing():
    assert leave_one_out([np.array([3.0, 1.0])], ["only"])[0].tolist() == [0.0, 0.0]


def test_whitening_runs_over_all_tokens_of_the_batch():
    white = np.concatenate(whiten([RNG.normal(3, 2, size=5), RNG.normal(-1, 2, size=9)]))
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.std() == pytest.approx(1, abs=1e-6)


def test_whitening_equal_advantages_gives_zeros_and_no_division_by_zero():
    assert np.concatenate(whiten([np.full(3, 0.7), np.full(2, 0.7)])) == pytest.approx(np.zeros(5), abs=1e-6)


def test_the_kl_penalty_is_taken_from_each_tokens_reward():
    out = penalised([np.array([0.0, 1.0])], [np.array([-1.0, -2.0])], [np.array([-1.5, -1.0])], 0.2)
    assert out[0] == pytest.approx([-0.1, 1.2])


def test_explained_variance_is_one_for_a_perfect_value_function_and_zero_for_a_constant():
    returns = [RNG.normal(size=4), RNG.normal(size=3)]
    assert explained_variance(returns, returns) == pytest.approx(1)
    assert explained_variance([np.ones(4), np.ones(3)], returns) == pytest.approx(0)
    assert np.isnan(explained_variance(returns, [np.ones(4), np.ones(3)]))
