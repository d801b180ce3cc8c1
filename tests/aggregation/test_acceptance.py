"""The method's acceptance numbers, and what each estimator must see through."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.one_coin import OneCoin, log_odds
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import ConfigError
from tests.aggregation.tables import crowd

SKILLS = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.65, 0.6, 0.55, 0.5, 0.5])


def test_the_weight_of_a_reliability_of_090_is_22():
    assert logit(0.9) == pytest.approx(2.1972, abs=5e-5)


@pytest.mark.parametrize("against, expected", [(3, 0.7273), (5, 0.5424), (6, 0.4414)])
def test_one_expert_against_several_poor_annotators(against, expected):
    p = expit(log_odds([1] + [-1] * against, [0.9] + [0.6] * against))
    assert p == pytest.approx(expected, abs=5e-5)


def accuracy_after_honeypots(estimator, runs):
    rng, found = np.random.default_rng(7), []
    for _ in range(runs):
        truth = rng.integers(0, 2, 171)
        votes = crowd(rng, truth, SKILLS, SKILLS)
        answer = estimator.fit_predict(votes, true_labels=pd.Series(truth[:60]))
        found.append((answer.loc[range(60, 171)].to_numpy() == truth[60:]).mean())
    return np.mean(found)


def test_ten_annotators_with_60_honeypot_lines_by_majority():
    assert accuracy_after_honeypots(Majority(), 300) == pytest.approx(0.923, abs=0.01)


def test_ten_annotators_with_60_honeypot_lines_by_the_papers_log_odds():
    assert accuracy_after_honeypots(OneCoin(learn_from="honeypots"), 300) == pytest.approx(0.979, abs=0.005)


def test_one_coin_without_gold_from_one_half_never_moves():
    rng = np.random.default_rng(0)
    votes = crowd(rng, rng.integers(0, 2, 50), SKILLS, SKILLS)
    estimator = OneCoin().fit(votes)
    assert (estimator.reliability()["sensitivity"] == 0.5).all()
    assert (estimator.probas_ == 0.5).all(axis=None)


def test_two_coin_without_gold_starts_as_a_majority_vote_and_beats_it():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    votes = crowd(rng, truth, SKILLS, SKILLS)
    two, majority = ((e.fit_predict(votes).loc[range(400)] == truth).mean() for e in (TwoCoin(), Majority()))
    assert two > majority


@pytest.mark.parametrize("strength", [0, -1.0, float("inf"), float("nan")])
def test_two_coin_takes_a_strength_of_more_than_no_label(strength):
    with pytest.raises(ConfigError, match="is not a number of labels above 0; None learns it"):
        TwoCoin(strength=strength)


def test_two_coin_gives_no_weight_to_one_who_calls_everything_correct():
    rng = np.random.default_rng(0)
    truth = (rng.random(300) < 0.8).astype(int)
    votes = crowd(rng, truth, np.array([0.85] * 5 + [1.0]), np.array([0.85] * 5 + [0.0]))
    rates = TwoCoin().fit(votes, true_labels=pd.Series(truth[:60])).reliability().loc["w5"]
    weight = np.log(rates["sensitivity"] / (1 - rates["specificity"]))
    assert abs(weight) < 0.15


def test_batches_of_a_stream_come_to_what_one_fit_would_say():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500)
    votes = crowd(rng, truth, SKILLS, SKILLS, density=0.5)
    gold = pd.Series(truth[:50])
    streamed = TwoCoin().partial_fit(votes[votes.task < 50], gold)
    for start in range(50, 500, 10):
        streamed.partial_fit(votes[(votes.task >= start) & (votes.task < start + 10)])
    fitted = TwoCoin().fit(votes, gold)
    assert (streamed.labels_.loc[fitted.labels_.index] == fitted.labels_).mean() > 0.99
