"""No committee violates the bounds, and the exact error is what a simulation finds."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crlhf_ray.aggregation.bounds import (
    berend_kontorovich,
    bhattacharyya,
    error_with_honeypots,
    exact_error,
    honeypots_needed,
)
from crlhf_ray.aggregation.one_coin import log_odds
from crlhf_ray.errors import ConfigError

committees = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=9)


@settings(max_examples=200)
@given(p=committees, prior=st.floats(0.05, 0.95))
def test_the_bhattacharyya_bounds_hold_for_every_committee_and_prior(p, prior):
    low, high = bhattacharyya(p, prior)
    assert low - 1e-12 <= exact_error(p, prior) <= high + 1e-12


@settings(max_examples=200)
@given(p=committees)
def test_the_berend_kontorovich_bounds_hold_for_every_committee(p):
    low, high = berend_kontorovich(p)
    assert low - 1e-12 <= exact_error(p) <= high + 1e-12


@settings(max_examples=100)
@given(p=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_no_other_weights_beat_log_odds(p, seed):
    weights = np.random.default_rng(seed).normal(size=len(p))
    assert exact_error(p) <= exact_error(p, weights=weights) + 1e-12


@settings(max_examples=50)
@given(p=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=8))
def test_another_annotator_never_hurts(p):
    assume(len(p) > 1)
    assert exact_error(p) <= exact_error(p[:-1]) + 1e-12


def test_the_exact_error_is_what_a_simulation_finds():
    rng, p = np.random.default_rng(0), np.array([0.9, 0.7, 0.6, 0.55])
    truth = np.where(rng.random(200_000) < 0.3, 1, -1)
    votes = np.where(rng.random((200_000, 4)) < p, truth[:, None], -truth[:, None])
    found = (np.sign(log_odds(votes, p, prior=0.3)) != truth).mean()
    assert exact_error(p, prior=0.3) == pytest.approx(found, abs=0.003)


def test_three_annotators_of_equal_skill_by_hand():
    assert exact_error([0.8] * 3) == pytest.approx(0.2**3 + 3 * 0.2**2 * 0.8)


def test_more_honeypots_lower_the_error_towards_the_best_possible():
    p = [0.95, 0.8, 0.6, 0.5, 0.5, 0.5]
    few, many = error_with_honeypots(p, 5), error_with_honeypots(p, 100)
    assert exact_error(p) < many < few


def test_the_honeypots_needed_reach_the_wanted_error():
    p = [0.95, 0.8, 0.6, 0.5, 0.5, 0.5]
    needed = honeypots_needed(p, 0.06)
    assert error_with_honeypots(p, needed) <= 0.06 < error_with_honeypots(p, max(needed // 2, 0))


def test_what_cannot_be_had_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="more or better annotators"):
        honeypots_needed([0.6, 0.6], 0.01)
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        exact_error([1.0])
    with pytest.raises(ConfigError, match="use the bounds"):
        exact_error([0.6] * 30)
