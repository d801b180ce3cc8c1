"""How far annotators' rates are known where the truth is only estimated: Gibbs sampling from where EM ended."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import reduce

import numpy as np
from scipy.sparse import csr_array

from crlhf_ray.aggregation.shrinkage import class_shares, drawn_strength

#: Cells of votes, tasks and confusion matrices visited in all: bounds the time, within the numbers of sweeps below.
_VISITS = 1e8
_FEWEST, _MOST = 20, 120
#: Where the strengths start, in labels; sweeps between two draws of them, which cost as much as all else.
_STRENGTH, _EVERY = 4.0, 3


def normalised(log_p: np.ndarray) -> np.ndarray:
    """Softmax over the columns, column by column: with few of them several times faster than over an axis."""
    p = np.exp(log_p - reduce(np.maximum, log_p.T)[:, None])
    p /= reduce(np.add, p.T)[:, None]
    return p


def by_name(names: Sequence[Hashable]) -> np.ndarray:
    """Codes in the order of their names, so that chance does not depend on the order of rows."""
    return np.array(sorted(range(len(names)), key=lambda code: repr(names[code])), np.int64)


def sampled_betas(
    votes: csr_array,
    gold: np.ndarray,
    posterior: np.ndarray,
    orders: tuple[np.ndarray, np.ndarray],
    *,
    start: float,
    start_weight: float,
    share_weight: float,
    trust: float,
    honeypots_drawn: bool = True,
    shares: np.ndarray | None = None,
    strength: float | None = None,
) -> np.ndarray:
    """Beta parameters (right, wrong) [n workers, K, 2] of P(vote = truth | truth).

    Intervals made of EM's soft counts are too narrow: they take the truth, how alike the crowd is and its mean for
    certain. Here all three are drawn in turn with the confusion matrices (the model of Kim and Ghahramani, AISTATS
    2012, with the crowd's Dirichlet learnt); each sweep gives a Beta distribution a rate, and the answer has the mean
    and variance of their mixture. The crowd's mean is drawn as if each annotator's n labels were worth
    ``n (strength + 1) / (strength + n)``, which is what they tell of a mean of people.

    votes [n tasks, n workers * K]: weights. gold [n tasks]: class numbers, -1 unknown. posterior [n tasks, K]: where to
    start. orders: codes of tasks and workers, `by_name`. start, start_weight, share_weight, trust: as `Hierarchical`.
    honeypots_drawn: whether they tell the shares of the classes. shares [K], strength: held at these where given.
    """
    rng, (n_tasks, k) = np.random.default_rng(0), posterior.shape
    n, known, entries = votes.shape[1] // k, gold >= 0, votes.tocoo()
    gold_shares = np.bincount(gold[known], minlength=k) * honeypots_drawn
    free = ~known & (np.bincount(entries.row, entries.data, minlength=n_tasks) > 0)
    teaches = entries.data * np.where(known, 1.0, trust)[entries.row]
    guess = np.full((k, k), (1 - start) / max(k - 1, 1))
    np.fill_diagonal(guess, start)
    sweeps = int(np.clip(_VISITS / (k * (n * k + votes.nnz + n_tasks)), _FEWEST, _MOST))
    strengths = np.full(k, _STRENGTH if strength is None else max(strength, 1e-3))
    burnt, own = sweeps // 4, np.arange(k)
    first, second = np.zeros((n, k)), np.zeros((n, k))
    uniform, errors = np.empty(n_tasks), np.empty((n, k, k))
    for sweep in range(sweeps):
        uniform[orders[0]] = rng.random(n_tasks)
        drawn = (posterior.cumsum(axis=1)[:, :-1] < uniform[:, None]).sum(axis=1)
        truth = np.where(known, gold, drawn)
        cells = np.bincount(entries.col * k + truth[entries.row], teaches, minlength=n * k * k)
        counts = cells.reshape(n, k, k)  # worker, vote, truth
        worth = (strengths + 1) / (strengths + np.maximum(counts.sum(axis=1), 1.0))
        mean = np.maximum(rng.gamma(start_weight * guess + (counts * worth[:, None]).sum(axis=0)), 1e-4)
        mean /= mean.sum(axis=0)
        if strength is None and sweep % _EVERY == 0:
            strengths = np.array([drawn_strength(counts[:, :, c], mean[:, c], rng, _STRENGTH) for c in range(k)])
        shape = counts + strengths * mean
        total = shape.sum(axis=1)
        if sweep >= burnt:
            rate = shape[:, own, own] / total
            first += rate
            second += rate**2 + rate * (1 - rate) / (total + 1)
        errors[orders[1]] = np.maximum(rng.gamma(shape[orders[1]]), 1e-10)
        found = np.bincount(truth[free], minlength=k).astype(float)
        prior = class_shares(gold_shares, found, share_weight) if shares is None else shares
        log_errors = np.log(errors / errors.sum(axis=1, keepdims=True)).reshape(-1, k)
        posterior = normalised(np.log(prior) + votes @ log_errors)
    mean, square = first / (sweeps - burnt), second / (sweeps - burnt)
    size = (mean - square) / np.maximum(square - mean**2, 1e-12)
    return np.stack([mean * size, (1 - mean) * size], axis=2)
