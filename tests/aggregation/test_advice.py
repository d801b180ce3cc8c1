"""Whom to trust, whom to drop, and what one more vote is expected to tell."""

import numpy as np
import pandas as pd
import pytest

from crlhf_ray.aggregation.advice import expected_bits, usual_rates, with_advice


def table(rates, width, labels=50):
    """Workers with these (sensitivity, specificity), each plus and minus ``width``."""
    columns = {}
    for name, rate in zip(("sensitivity", "specificity"), np.transpose(rates), strict=True):
        columns |= {name: rate, f"{name}_low": rate - width, f"{name}_high": rate + width}
    return pd.DataFrame(columns | {"labels": labels})


def test_who_surely_beats_guessing_is_trusted_and_who_surely_does_not_is_dropped():
    found = with_advice(table([(0.9, 0.8), (1.0, 0.0), (0.65, 0.6), (0.2, 0.1)], 0.1))
    assert found["advice"].tolist() == ["trust", "drop", "unsure", "drop"]
    assert found["skill"].tolist() == pytest.approx([0.7, 0.0, 0.25, -0.7])
    assert (found["skill_high"] - found["skill"]).tolist() == pytest.approx([0.2 * 2**-0.5] * 4)


def test_few_labels_allow_no_advice():
    assert with_advice(table([(0.9, 0.9), (0.1, 0.1)], 0.05, labels=9))["advice"].tolist() == ["unsure"] * 2


def test_one_rate_written_twice_counts_once():
    found = with_advice(table([(0.8, 0.8)], 0.1))
    assert (found["skill_high"] - found["skill"]).tolist() == pytest.approx([0.2])


def test_one_more_vote_tells_most_where_the_classes_are_even_and_nothing_where_all_is_known():
    p = np.array([[0.5, 0.5], [0.3, 0.7], [0.0, 1.0]])
    bits = expected_bits(p, np.array([0.8, 0.8]))
    assert bits[0] == pytest.approx(1 + 0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    assert bits[0] > bits[1] > bits[2] == 0


@pytest.mark.parametrize("k", [2, 3, 6])
def test_people_who_never_err_tell_all_and_people_who_guess_tell_nothing(k):
    p = np.random.default_rng(0).dirichlet(np.ones(k), 5)
    assert np.allclose(expected_bits(p, np.ones(k)), -(p * np.log2(p)).sum(axis=1))
    assert np.allclose(expected_bits(p, np.full(k, 1 / k)), 0)


def test_the_usual_rates_are_those_behind_a_vote_and_in_the_order_of_the_classes():
    frame = table([(0.9, 0.6), (0.5, 0.8)], 0.1, labels=[30, 10])
    assert usual_rates(frame).tolist() == pytest.approx([0.65, 0.8])
    many = pd.DataFrame(
        {f"recall_{c}{end}": [0.1 * i] for i, c in enumerate("cba", 1) for end in ("", "_low", "_high")}
    )
    assert usual_rates(many.assign(labels=5)).tolist() == pytest.approx([0.3, 0.2, 0.1])
