"""Importance weights of samples that older weights drew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlhf_ray.learner.loss import policy_loss
from crlhf_ray.learner.staleness import CorrectionSettings, correct

torch = pytest.importorskip("torch")


def test_a_policy_that_has_not_moved_gives_every_token_the_weight_1():
    logprobs = [np.log([0.5, 0.25]), np.log([0.1])]
    found = correct(logprobs, logprobs, CorrectionSettings())
    assert [one.tolist() for one in found.weights] == [[1.0, 1.0], [1.0]]
    assert (found.effective_share, found.truncated, found.left_out) == (1.0, 0.0, 0.0)


def test_a_token_counts_by_how_much_likelier_it_has_become_up_to_the_cap():
    found = correct([np.log([0.5, 0.6])], [np.log([0.4, 0.2])], CorrectionSettings(token_cap=2.0, sample_drift=None))
    assert found.weights[0] == pytest.approx([1.25, 2.0])
    assert found.truncated == 0.5


def test_a_sample_that_has_drifted_too_far_teaches_nothing():
    near, far = np.zeros(4), np.full(4, -3.0)
    found = correct([near, far], [near, np.zeros(4)], CorrectionSettings(sample_drift=0.5))
    assert found.weights[1].tolist() == [0.0] * 4
    assert found.left_out == 0.5


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_effective_share_lies_between_one_token_and_all(moves):
    found = correct([np.array(moves)], [np.zeros(len(moves))], CorrectionSettings())
    assert 1 / len(moves) - 1e-9 <= found.effective_share <= 1 + 1e-9


def test_weights_make_the_expected_gradient_that_of_samples_from_the_policy_itself():
    """Two tokens: mu draws the first with .5, pi with .8. Without a cap, the surrogate's gradient over what mu draws,
    weighted, is the one over what pi draws."""
    pi, mu = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    advantages = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def gradient(draws, weights):
        logits = torch.tensor(np.log(pi), requires_grad=True)
        logprobs = logits.log_softmax(0)
        loss, *_ = policy_loss(logprobs, logprobs.detach(), advantages, 0.2, torch.tensor(draws * weights))
        loss.backward()
        return logits.grad.numpy()

    weights = np.array(
        [
            one[0]
            for one in correct(
                [np.log(pi[:1]), np.log(pi[1:])],
                [np.log(mu[:1]), np.log(mu[1:])],
                CorrectionSettings(token_cap=1e6, sample_drift=None),
            ).weights
        ]
    )
    assert gradient(mu, weights) == pytest.approx(gradient(pi, np.ones(2)))
    assert gradient(mu, np.ones(2)) != pytest.approx(gradient(pi, np.ones(2)))
