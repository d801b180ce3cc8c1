"""pass@k: the probability that at least one of k programs drawn from a problem's n samples passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate ``1 - C(n-c, k) / C(n, k)`` for one problem (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    n: samples drawn; c: how many of them passed. The quotient of the exact integers is rounded once, so the result is
    the float nearest to the true value. Raises ValueError unless ``1 <= k <= n`` and ``0 <= c <= n``.
    """
    if k < 1:
        raise ValueError(f"pass@k needs k >= 1, not k = {k}")
    if n < k:
        raise ValueError(f"pass@{k} cannot be estimated from n = {n} samples: draw at least {k} per problem or lower k")
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} passing samples is not between 0 and n = {n}")
    draws = comb(n, k)
    return (draws - comb(n - c, k)) / draws


@dataclass(frozen=True)
class PassAtK:
    """Mean pass@k over problems with its interval. All four of mean, low and high are probabilities."""

    k: int
    mean: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return f"pass@{self.k} = {self.mean:.1%} [{self.low:.1%}, {self.high:.1%}] over {self.problems} problems"


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Mean of `pass_at_k` over problems; counts holds one (n, c) per problem."""
    return pass_at_k_interval(counts, k, resamples=1).mean


def pass_at_k_interval(
    counts: Sequence[tuple[int, int]], k: int, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PassAtK:
    """Mean pass@k with a percentile bootstrap interval over problems.

    counts: one (n, c) per problem. Problems are what is resampled, because samples of one problem are not independent
    evidence about the next problem. Raises ValueError for no problems, or as `pass_at_k` does, naming the problem.
    """
    if not counts:
        raise ValueError("pass@k over no problems is undefined: give at least one (n, c)")
    found = [pass_at_k(n, c, k) for n, c in counts]
    if len(found) == 1:  # of other problems it says nothing
        return PassAtK(k=k, mean=found[0], low=0.0, high=1.0, problems=1)
    import numpy as np  # takes longer to import than a program to check

    values = np.array(found)
    generator = np.random.default_rng(seed)
    picks = generator.integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return PassAtK(k=k, mean=float(values.mean()), low=float(low), high=float(high), problems=len(values))
