"""How alike a crowd is: the strength by which each annotator's rates are drawn to everybody's (empirical Bayes)."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

#: Of the classes' shares, tasks without gold tell at most so many times what honeypots tell.
_FREE_SHARES = 3.0
#: Logarithms of the strengths that are tried.
_STEPS = np.linspace(0, np.log(100), 19)


def class_shares(gold: np.ndarray, free: np.ndarray, even_weight: float) -> np.ndarray:
    """P(class) [K] from the honeypots of each class and the soft counts of the other tasks.

    A weak crowd lets EM explain errors by wrong shares, so tasks without gold count for a multiple of the honeypots at
    the most. Honeypots that lack a class were chosen, not drawn, and say nothing of shares. even_weight: tasks that
    the guess of even shares is worth.
    """
    if gold.all():
        most = _FREE_SHARES * gold.sum()
        free = gold + free * (most / max(free.sum(), most))
    shares = free + even_weight / len(free)
    return shares / shares.sum()


def fitted_strength(counts: np.ndarray, mean: np.ndarray, *, centre: float = 8.0, near: float | None = None) -> float:
    """The Dirichlet strength, 1 to 100, that makes annotators' counts [n, K] most likely, around ``centre`` by a factor
    of e. near: an earlier answer, looked around first."""
    steps = _STEPS
    if near is not None:
        at = int(np.argmin(np.abs(steps - np.log(near))))
        steps = steps[max(at - 2, 0) : at + 3]
    score = _log_probability(steps, counts, mean, centre)
    best = int(np.argmax(score))
    if near is not None and best in (0, len(steps) - 1) and steps[best] not in (_STEPS[0], _STEPS[-1]):
        return fitted_strength(counts, mean, centre=centre)
    if 0 < best < len(steps) - 1:  # the vertex of the parabola through the three highest points
        left, middle, right = score[best - 1 : best + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        return float(np.exp(steps[best] + shift * (steps[1] - steps[0])))
    return float(np.exp(steps[best]))


def drawn_strength(counts: np.ndarray, mean: np.ndarray, rng: np.random.Generator, centre: float) -> float:
    """A strength, drawn from its distribution given these counts; as in `fitted_strength`."""
    score = _log_probability(_STEPS, counts, mean, centre)
    cumulative = np.exp(score - score.max()).cumsum()
    return float(np.exp(_STEPS[np.searchsorted(cumulative, rng.random() * cumulative[-1])]))


def _log_probability(steps: np.ndarray, counts: np.ndarray, mean: np.ndarray, centre: float) -> np.ndarray:
    """Up to a constant, of the strengths ``exp(steps)``: Dirichlet-multinomial likelihood and log-normal prior."""
    total = counts.sum(axis=1)
    counts, total = counts[total > 1e-9], total[total > 1e-9]
    prior = np.exp(steps)[:, None] * mean
    likelihood = len(counts) * (gammaln(np.exp(steps)) - gammaln(prior).sum(axis=1))
    for start in range(0, len(counts), 20_000):  # bounds the memory for crowds of a million
        some, sums = counts[start : start + 20_000], total[start : start + 20_000]
        likelihood += gammaln(prior[:, None, :] + some).sum(axis=(1, 2))
        likelihood -= gammaln(np.exp(steps)[:, None] + sums).sum(axis=1)
    return likelihood - 0.5 * (steps - np.log(centre)) ** 2
