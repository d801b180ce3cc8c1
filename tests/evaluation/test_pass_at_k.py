from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlhf_ray.evaluation.pass_at_k import mean_interval, mean_pass_at_k, pass_at_k, pass_at_k_interval


def by_enumeration(n: int, c: int, k: int) -> Fraction:
    draws = list(combinations(range(n), k))
    return Fraction(sum(any(sample < c for sample in draw) for draw in draws), len(draws))


@pytest.mark.parametrize("n, c, k", [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)])
def test_equals_the_share_of_draws_that_hold_a_passing_sample(n, c, k):
    assert pass_at_k(n, c, k) == float(by_enumeration(n, c, k))


@given(st.data())
def test_is_the_float_nearest_to_the_rational_product(data):
    n = data.draw(st.integers(1, 400))
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    missed = Fraction(1)
    for i in range(k):
        missed *= Fraction(max(n - c - i, 0), n - i)
    assert pass_at_k(n, c, k) == float(1 - missed)


def test_fewer_samples_than_k_are_refused():
    with pytest.raises(ValueError, match=r"pass@10 cannot be estimated from n = 4 samples"):
        pass_at_k(4, 2, 10)


@pytest.mark.parametrize("n, c, k", [(5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_no_problems_are_refused():
    with pytest.raises(ValueError, match="no problems"):
        pass_at_k_interval([], 1)


def test_mean_is_over_problems():
    assert mean_pass_at_k([(4, 4), (4, 0), (4, 1), (4, 1)], 1) == pytest.approx(0.375)


def test_interval_holds_the_mean_and_repeats_for_a_seed():
    counts = [(10, c) for c in (0, 0, 1, 3, 10, 10, 7)]
    first, second = pass_at_k_interval(counts, 1, seed=3), pass_at_k_interval(counts, 1, seed=3)
    assert first == second
    assert first.low < first.mean < first.high


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    import numpy as np

    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        difficulty = generator.beta(1, 1, size=60)
        counts = [(10, int(generator.binomial(10, p))) for p in difficulty]
        interval = pass_at_k_interval(counts, 1, resamples=500, seed=trial)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("problems, passed", [(3, 0), (3, 3), (100, 0), (5, 2)])
def test_where_resamples_are_too_much_alike_the_interval_of_rates_is_clopper_and_pearsons(problems, passed):
    from scipy.stats import beta

    counts = [(4, 4 * (i < passed)) for i in range(problems)]
    found = pass_at_k_interval(counts, 1)
    low = beta.ppf(0.025, passed, problems - passed + 1) if passed else 0
    high = beta.ppf(0.975, passed + 1, problems - passed) if passed < problems else 1
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)


@pytest.mark.parametrize("problems", [3, 6, 12])
def test_an_interval_over_few_problems_covers_at_least_as_often_as_it_says(problems):
    import numpy as np

    generator = np.random.default_rng(problems)
    hits = 0
    for trial in range(200):
        low, high = mean_interval(generator.beta(0.3, 0.7, size=problems), resamples=500, seed=trial)
        hits += low <= 0.3 <= high
    assert hits / 200 >= 0.93


def test_differences_that_are_all_nought_may_still_differ_elsewhere():
    import numpy as np

    low, high = mean_interval(np.zeros(50), (-1.0, 1.0))
    assert -0.1 < low < 0 < high < 0.1
