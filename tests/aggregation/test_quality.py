"""How good an answer is: what majority vote would have said, to compare with."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from crlhf_ray.aggregation.quality import majority_consensus, pairwise_kappa
from tests.aggregation.tables import annotations


def test_majority_is_the_share_of_correct_among_those_who_were_sure():
    table = annotations([("a", 0, "x", 1), ("a", 0, "y", -1), ("a", 0, "z", 0), ("b", 2, "x", -1), ("b", 3, "x", 0)])
    assert majority_consensus(table) == {"a": {0: pytest.approx(0.5)}, "b": {2: 0.0}}


def test_agreement_in_pairs_is_cohens_kappa_on_the_lines_that_both_marked():
    rng = np.random.default_rng(3)
    said = rng.choice([-1, 1], (40, 4), p=[0.3, 0.7])
    task, annotator = np.nonzero(rng.random(said.shape) < 0.6)
    pairs, tasks, agreement, kappa = pairwise_kappa(task, annotator, said[task, annotator])
    given = np.zeros(said.shape, bool)
    given[task, annotator] = True
    assert len(pairs) == 6
    for (one, other), n, share, found in zip(pairs, tasks, agreement, kappa, strict=True):
        both = given[:, one] & given[:, other]
        assert (n, share) == (both.sum(), pytest.approx((said[both, one] == said[both, other]).mean()))
        assert found == pytest.approx(cohen_kappa_score(said[both, one], said[both, other]))


def test_two_who_said_the_same_of_every_line_have_no_kappa_and_who_share_no_line_are_no_pair():
    pairs, tasks, agreement, kappa = pairwise_kappa(np.array([0, 0, 1]), np.array([0, 1, 2]), np.array([1, 1, -1]))
    assert (pairs.tolist(), tasks.tolist(), agreement.tolist()) == ([[0, 1]], [1], [1.0])
    assert np.isnan(kappa).all()
