"""How alike a crowd is: the strength by which each annotator's rates are drawn to everybody's (empirical Bayes)."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln


def fitted_strength(
    counts: np.ndarray, mean: np.ndarray, *, centre: float = 8.0, low: float = 1.0, high: float = 100.0
) -> float:
    """The Dirichlet strength that makes annotators' counts [n, K] most likely, around ``centre`` by a factor of e."""
    total = counts.sum(axis=1)
    counts, total = counts[total > 1e-9], total[total > 1e-9]

    steps = np.linspace(np.log(low), np.log(high), 19)
    prior = np.exp(steps)[:, None] * mean
    likelihood = len(counts) * (gammaln(np.exp(steps)) - gammaln(prior).sum(axis=1))
    for start in range(0, len(counts), 20_000):  # bounds the memory for crowds of a million
        some, sums = counts[start : start + 20_000], total[start : start + 20_000]
        likelihood += gammaln(prior[:, None, :] + some).sum(axis=(1, 2))
        likelihood -= gammaln(np.exp(steps)[:, None] + sums).sum(axis=1)
    score = likelihood - 0.5 * (steps - np.log(centre)) ** 2
    best = int(np.argmax(score))
    if 0 < best < len(steps) - 1:  # the vertex of the parabola through the three highest points
        left, middle, right = score[best - 1 : best + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        return float(np.exp(steps[best] + shift * (steps[1] - steps[0])))
    return float(np.exp(steps[best]))
