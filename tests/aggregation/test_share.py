"""Most lines are correct, and honeypots do not say how many: the share is learnt from the work."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, logit
from scipy.stats import beta

from crlhf_ray.aggregation.actor import AggregationSettings
from crlhf_ray.aggregation.base import reliability_columns
from crlhf_ray.aggregation.encoding import Votes
from crlhf_ray.aggregation.one_coin import OneCoinRates
from crlhf_ray.aggregation.state import CrowdState
from crlhf_ray.aggregation.two_coin import TwoCoinRates
from tests.aggregation.tables import HONEST, annotations, gold, keeper, reviewed_programs, rows_of

SHARES = (0.5, 0.7, 0.8, 0.9)
HONEST_ONES = np.arange(4)
RATES = ("sensitivity", "specificity")


def learnt(share, seed, prior=None, **settings):
    """``(state, accuracy on the work, majority vote's, the work's true share)``."""
    truth, marks, known = reviewed_programs(np.random.default_rng(seed), share)
    z, v = np.concatenate(list(truth.values())), np.concatenate(list(marks.values())).astype(np.int8)
    task, who = np.indices(v.shape)
    votes = Votes(task.ravel(), who.ravel(), v.ravel(), np.ones(v.size), np.zeros(v.size, np.int64))
    golden = sum(len(truth[item]) for item in known)
    state = CrowdState(TwoCoinRates(), prior=prior, **settings)
    state.update(votes.take(votes.task < golden), np.arange(golden), z[:golden])
    state.update(votes.take(votes.task >= golden))
    work, p = z[golden:], expit(state.log_odds(np.arange(golden, len(z))))
    majority = np.sign(v[golden:].sum(axis=1))
    return state, ((p >= 0.5) == (work > 0)).mean(), (majority == work).mean(), (work > 0).mean()


@pytest.mark.parametrize("share", SHARES)
def test_reviewers_are_known_for_what_they_are_whatever_share_of_lines_is_correct(share):
    found = [learnt(share, seed) for seed in range(24)]
    held, specificity, inside = [], [], []
    for state, _, _, true_share in found:
        rates = reliability_columns(state, HONEST_ONES)
        held += [(rates[f"{rate}_low"] <= HONEST) & (rates[f"{rate}_high"] >= HONEST) for rate in RATES]
        specificity.append(rates["specificity"].mean())
        low, high = beta.ppf([0.025, 0.975], *state.share())
        inside.append(low <= true_share <= high)
    assert np.mean([one[1] for one in found]) >= np.mean([one[2] for one in found]) - 0.01
    assert np.mean(held) >= 0.9
    assert np.mean(specificity) == pytest.approx(HONEST.mean(), abs=0.05)
    assert np.mean(inside) >= 0.9


def test_the_papers_one_half_can_be_chosen_and_takes_good_reviewers_for_bad_ones():
    found = {prior: [learnt(0.9, seed, prior)[0] for seed in range(8)] for prior in (0.5, None)}
    assert all(state.prior_log_odds() == 0 for state in found[0.5])
    specificity = {prior: np.mean([s.rates(HONEST_ONES)[1] for s in states]) for prior, states in found.items()}
    assert specificity[0.5] < specificity[None] - 0.02


def test_honeypots_alone_may_teach_rates_while_the_work_teaches_the_share():
    found = [learnt(0.9, seed, learn_from="honeypots") for seed in range(8)]
    assert np.mean([expit(state.prior_log_odds()) for state, _, _, _ in found]) == pytest.approx(0.9, abs=0.05)
    assert (found[0][0].worker_counts[:5].sum(axis=1) == 36).all()


@pytest.fixture
def aggregator(tmp_path):
    """One that has had the marks on 50 programs, nine lines in ten correct."""
    truth, marks, known = reviewed_programs(np.random.default_rng(3), 0.9)
    aggregator = keeper(tmp_path, AggregationSettings())
    aggregator.add_gold(gold([(item, n, z) for item in known for n, z in enumerate(truth[item])]))
    aggregator.ingest(annotations(rows_of(marks)))
    yield aggregator
    aggregator.close()


def test_the_actor_learns_it_by_default_and_says_how_sure_it_is(aggregator):
    share = aggregator.share()
    assert share["low"] < share["share"] < share["high"]
    assert share["share"] == pytest.approx(0.9, abs=0.05)


def test_evidence_is_the_posterior_without_the_prior(aggregator):
    table = aggregator.consensus([f"w{n}" for n in range(50)])
    p, evidence = table["p_correct"].to_numpy(), table["evidence"].to_numpy()
    assert evidence == pytest.approx(logit(p) - logit(aggregator.share()["share"]), abs=1e-6)
    assert aggregator.consensus(["p0"])["evidence"].to_pylist() == [np.inf] * 3


def test_a_prior_that_is_a_number_is_the_share_whatever_comes(tmp_path):
    aggregator = keeper(tmp_path, AggregationSettings(prior=0.8))
    aggregator.ingest(annotations([("a", n, who, 1) for n in range(30) for who in "xyz"]))
    assert aggregator.share() == pytest.approx({"share": 0.8, "low": 0.8, "high": 0.8})
    aggregator.close()


def test_the_papers_estimator_has_the_papers_prior_unless_told_otherwise():
    assert AggregationSettings(estimator="one_coin").prior == 0.5
    assert AggregationSettings(estimator="one_coin", prior="learnt").prior == "learnt"
    assert AggregationSettings().prior == "learnt"


def test_majority_vote_has_no_share_to_learn():
    with pytest.raises(ValidationError, match="majority learns nothing"):
        AggregationSettings(estimator="majority", prior="learnt")


def test_an_annotator_whose_one_rate_nothing_moves_has_it_and_the_share_stays_even():
    state = CrowdState(OneCoinRates(), prior=None)
    assert state.prior_log_odds() == 0.0
