"""The paper's optimisation view: annotators' weights by L1-regularised logistic regression on the honeypots."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.linalg import norm, svds
from scipy.special import expit

from crlhf_ray.aggregation.batch_estimator import HeldVotesEstimator
from crlhf_ray.errors import DataError


def all_zero_penalty(votes: csr_array, truth: np.ndarray) -> float:
    """The smallest lambda at which every weight is zero: ``||V^T y||_inf / (2 N)``."""
    return float(np.abs(votes.T @ truth).max(initial=0.0) / (2 * max(len(truth), 1)))


def fista(
    votes: csr_array,
    truth: np.ndarray,
    penalty: float,
    *,
    start: np.ndarray | None = None,
    tol: float = 1e-7,
    n_iter: int = 20_000,
) -> np.ndarray:
    """Minimise ``(1/N) sum_j log(1 + exp(-y_j w.v_j)) + penalty ||w||_1`` by FISTA with restarts.

    Proximal gradient with soft threshold and step ``1/L``, ``L = ||V||_2^2 / (4 N)``, accelerated (Beck and Teboulle
    2009, doi:10.1137/080716542), momentum dropped where it points uphill (O'Donoghue and Candes 2015). Ends when the
    optimality condition holds within ``tol``. votes [N, n] of +1, -1, 0; truth [N] of +1, -1; returns w [n].
    """
    n = len(truth)
    weights = np.zeros(votes.shape[1]) if start is None else start.copy()
    if not n or not votes.nnz:
        return np.zeros(votes.shape[1])
    step = 4 * n / spectral_norm(votes) ** 2
    transposed = votes.T.tocsr()

    def gradient(at: np.ndarray) -> np.ndarray:
        return -(transposed @ (truth * expit(-truth * (votes @ at)))) / n

    ahead, momentum = weights, 1.0
    for _ in range(n_iter):
        slope = gradient(ahead)
        moved = ahead - step * slope
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0.0)
        if np.abs(new - ahead).max() <= tol * step:
            return new
        if (ahead - new) @ (new - weights) > 0:
            momentum = 1.0
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / faster * (new - weights)
        weights, momentum = new, faster
    return weights


def spectral_norm(matrix: csr_array) -> float:
    """Largest singular value; the Frobenius norm, an upper bound, where the matrix is too thin for Lanczos."""
    if min(matrix.shape) <= 2:
        return float(norm(matrix))
    start = np.ones(min(matrix.shape))
    return float(svds(matrix.astype(float), k=1, return_singular_vectors=False, v0=start)[0]) * (1 + 1e-6)


class LogisticL1(HeldVotesEstimator):
    """``P(z=+1 | v) = sigmoid(w.v)``, w by L1-regularised logistic regression on honeypots; ``p_i = sigmoid(w_i)``.

    The optimisation view of the paper (arXiv 2503.15129): the L1 term drops annotators who add nothing. The penalty is
    chosen by cross-validation on the honeypots, from ``n_penalties`` values below the one that zeroes all weights.
    Discriminative: it needs no independence of errors, but learns from honeypots only, so it wants many of them, and
    an annotator who answered none has weight 0. Where no annotator helps, every answer is 0.5.

    penalty: lambda; None for cross-validation. Learnt: coef_ [n workers], penalty_, all_zero_penalty_.
    Raises `DataError` without gold.

    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3, 3], "worker": list("ababab"), "label": [1, 0, 0, 0, 1, 0]})
    >>> LogisticL1(penalty=0.01).fit_predict(votes, true_labels=pd.Series({1: 1, 2: 0})).loc[3]
    1
    """

    def __init__(
        self,
        penalty: float | None = None,
        *,
        folds: int = 5,
        n_penalties: int = 12,
        classes: tuple[Hashable, ...] | None = None,
    ):
        self.penalty, self.folds, self.n_penalties = penalty, folds, n_penalties
        super().__init__(classes)

    def _run(self) -> None:
        if self._n_classes != 2:
            raise DataError(f"this estimator is for two classes, and these are {self.classes_}", field="label")
        cast = self._rows[self._rows[:, 2] >= 0]
        shape = (len(self.task_book_), len(self.worker_book_))
        signed = (2.0 * cast[:, 2] - 1) * self._weight[self._rows[:, 2] >= 0]
        self._votes = csr_array((signed, (cast[:, 0], cast[:, 1])), shape=shape)
        known = np.flatnonzero(self._gold >= 0)
        if not len(known):
            raise DataError("this estimator learns from honeypots alone: give true_labels for some tasks")
        # Sorted by name, so that the folds do not depend on the order of rows.
        known = known[np.argsort([str(self.task_book_.names[code]) for code in known], kind="stable")]
        votes, truth = self._votes[known], 2.0 * self._gold[known] - 1
        self.all_zero_penalty_ = all_zero_penalty(votes, truth)
        self.penalty_ = self._cross_validated(votes, truth) if self.penalty is None else self.penalty
        self.coef_ = fista(votes, truth, self.penalty_)
        at = expit(votes @ self.coef_)
        information = np.asarray(votes.multiply(votes).T @ (at * (1 - at))).ravel()
        self._se = 1 / np.sqrt(information + (len(truth) * self.penalty_) ** 2 / 2)

    def _cross_validated(self, votes: csr_array, truth: np.ndarray) -> float:
        grid = self.all_zero_penalty_ * np.logspace(0, -3, self.n_penalties)
        if len(truth) < 2 * self.folds or self.all_zero_penalty_ == 0:
            return float(grid[len(grid) // 2])
        order = np.random.default_rng(0).permutation(len(truth))
        loss = np.zeros(len(grid))
        for fold in range(self.folds):
            held = np.zeros(len(truth), bool)
            held[order[fold :: self.folds]] = True
            weights = None
            for i, penalty in enumerate(grid):  # from the largest down, each from where the last ended
                weights = fista(votes[~held], truth[~held], penalty, start=weights, tol=1e-4)
                loss[i] += np.logaddexp(0, -truth[held] * (votes[held] @ weights)).sum()
        return float(grid[int(np.argmin(loss))])

    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """P(class) of these tasks; gold tasks have their truth, a task never seen 0.5."""
        names = list(tasks)
        codes = self.task_book_.encode(names, grow=False) if names else np.empty(0, np.int64)
        p = np.full(len(names), 0.5)
        seen = codes[codes >= 0]
        gold = self._gold[seen]
        p[codes >= 0] = np.where(gold >= 0, gold, expit(self._votes[seen] @ self.coef_))
        assert self.classes_ is not None
        return pd.DataFrame({self.classes_[0]: 1 - p, self.classes_[1]: p}, index=pd.Index(names, name="task"))

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """``sigmoid(w_i)`` as sensitivity and specificity, and how many labels there are.

        The interval is the Laplace approximation with the curvature of the worker's own weight, and the L1 term as a
        normal prior of the same variance.
        """
        names, codes = self._known_workers(workers)
        columns: dict[str, np.ndarray] = {}
        for side in ("sensitivity", "specificity"):
            columns[side] = expit(self.coef_[codes])
            columns[f"{side}_low"] = expit(self.coef_[codes] - 1.96 * self._se[codes])
            columns[f"{side}_high"] = expit(self.coef_[codes] + 1.96 * self._se[codes])
        return pd.DataFrame(columns | self._label_counts(codes), index=pd.Index(names, name="worker"))
