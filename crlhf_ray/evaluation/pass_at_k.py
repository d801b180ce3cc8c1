"""pass@k: the probability that at least one of k programs drawn from a problem's n samples passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # takes longer to import than a program to check
    import numpy as np

#: With fewer problems the percentile bootstrap covers too little.
FEW = 30


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
    """Mean pass@k with a `mean_interval` over problems.

    counts: one (n, c) per problem. Problems are what is resampled, because samples of one problem are not independent
    evidence about the next problem. Raises ValueError for no problems, or as `pass_at_k` does, naming the problem.
    """
    if not counts:
        raise ValueError("pass@k over no problems is undefined: give at least one (n, c)")
    if len(counts) == 1:  # which says nothing of other problems, and needs no numpy
        return PassAtK(k=k, mean=pass_at_k(*counts[0], k), low=0.0, high=1.0, problems=1)
    import numpy as np

    values = np.array([pass_at_k(n, c, k) for n, c in counts])
    low, high = mean_interval(values, confidence=confidence, resamples=resamples, seed=seed)
    return PassAtK(k=k, mean=float(values.mean()), low=low, high=high, problems=len(values))


def mean_interval(
    values: np.ndarray,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean over all problems of a quantity that lies within ``bounds``; values: shape [problems].

    A percentile bootstrap. Where there are fewer than FEW problems, or all have the same value, resamples are too much
    alike (of three that fail, all are 0): there it is Gaffke's bound (Phan et al. 2021, arXiv 2106.03163), the mean
    under uniform Dirichlet weights on the values and one more at the bound; of zeros and ones, Clopper and Pearson's.
    A single problem says nothing of the others.
    """
    import numpy as np

    if len(values) == 1:
        return bounds
    generator, tails = np.random.default_rng(seed), ((1 - confidence) / 2, (1 + confidence) / 2)
    if len(values) >= FEW and np.ptp(values) > 0:
        picks = generator.integers(len(values), size=(resamples, len(values)))
        low, high = np.quantile(values[picks].mean(axis=1), tails)
        return float(low), float(high)
    weights = generator.dirichlet(np.ones(len(values) + 1), size=resamples)
    low, high = (
        np.quantile(weights @ np.append(values, bound), tail) for bound, tail in zip(bounds, tails, strict=True)
    )
    return float(low), float(high)
