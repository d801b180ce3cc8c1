"""Dawid and Skene's confusion matrices by batch EM, for two classes or more; the EM that other estimators share."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from crlhf_ray.aggregation.base import interval_columns
from crlhf_ray.aggregation.batch_estimator import HeldVotesEstimator
from crlhf_ray.aggregation.credible import by_name, normalised, sampled_betas


class DawidSkene(HeldVotesEstimator):
    """EM to convergence over one confusion matrix an annotator (Dawid and Skene 1979, doi:10.2307/2346806).

    ``P(z=k | v) ~ pi_k prod_i P_i(v_i | k)`` and ``P_i(l | k) ~ smoothing + sum_j P(z_j=k) [v_ij = l]``, from the
    majority vote; gold tasks are clamped. Each iteration is two products with one sparse matrix of votes.
    Assumes independent errors given the truth and enough labels for each annotator: with few, the rates overfit
    (`Hierarchical` shrinks them). A majority that colludes flips every label, gold or no gold.

    smoothing: labels added to each cell of a confusion matrix. classes: for two, ``(negative, positive)``; for more,
    in the order of the columns wanted. Learnt: priors_ [K], errors_ [n workers, K votes, K truths], n_iter_.

    >>> votes = pd.DataFrame({"task": [1, 1, 1, 2, 2], "worker": list("abcab"), "label": ["x", "x", "y", "z", "z"]})
    >>> DawidSkene().fit_predict(votes).tolist()
    ['x', 'z']
    """

    #: What `reliability` expects of the crowd before any label: as the arguments of `Hierarchical`.
    start, start_weight, share_weight, trust_ = 0.7, 2.0, 10.0, 1.0

    def __init__(
        self,
        n_iter: int = 100,
        tol: float = 1e-5,
        smoothing: float = 0.01,
        *,
        classes: tuple[Hashable, ...] | None = None,
    ):
        self.n_iter, self.tol, self.smoothing = n_iter, tol, smoothing
        super().__init__(classes)

    def _run(self) -> None:
        assert self.classes_ is not None
        k, n_tasks, n_workers = len(self.classes_), len(self.task_book_), len(self.worker_book_)
        cast = self._rows[:, 2] >= 0
        task, worker, label = self._rows[cast].T
        self._votes = csr_array((self._weight[cast], (task, worker * k + label)), shape=(n_tasks, n_workers * k))
        self._votes_t = self._votes.T.tocsr()
        voted = np.zeros(n_tasks, bool)
        voted[task[self._weight[cast] > 0]] = True
        # A task that nobody voted on says nothing about the classes' shares.
        self._voted = (voted | (self._gold >= 0))[:, None]
        self._betas: np.ndarray | None = None
        posterior = self._start()
        self.n_iter_ = 0
        while self.n_iter_ < self.n_iter:
            self.n_iter_ += 1
            self._m_step(posterior)
            self.log_posterior_ = self._e_step()
            new = self._clamp(normalised(self.log_posterior_))
            change = np.abs(new - posterior).max(initial=0.0)
            posterior = new
            if change < self.tol and self.n_iter_ > 1:
                break
        self._posterior = posterior

    def _clamp(self, posterior: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(self._gold >= 0)
        posterior[known] = 0.0
        posterior[known, self._gold[known]] = 1.0
        return posterior

    def _start(self) -> np.ndarray:
        """The weighted shares of votes; even where nobody voted."""
        k = self._n_classes
        shares = np.stack([np.asarray(self._votes[:, c::k].sum(axis=1)).ravel() for c in range(k)], axis=1)
        total = shares.sum(axis=1, keepdims=True)
        return self._clamp(np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1.0 / k))

    def _m_step(self, posterior: np.ndarray) -> None:
        k = self._n_classes
        self.counts_ = (self._votes_t @ posterior).reshape(-1, k, k)  # worker, vote, truth
        self.errors_ = self.counts_ + self.smoothing
        self.errors_ /= self.errors_.sum(axis=1, keepdims=True)
        self.priors_ = ((posterior * self._voted).sum(axis=0) + 1.0) / (self._voted.sum() + k)

    def _e_step(self) -> np.ndarray:
        """Log of the unnormalised posteriors [n tasks, K]."""
        k = self._n_classes
        return np.log(self.priors_) + self._votes @ np.log(self.errors_).reshape(-1, k)

    # -- answering -----------------------------------------------------------------------------------------------

    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """P(class) of these tasks; a task never seen has the learnt class shares."""
        names = list(tasks)
        codes = self.task_book_.encode(names, grow=False) if names else np.empty(0, np.int64)
        p = np.tile(self.priors_, (len(names), 1))
        p[codes >= 0] = self._posterior[codes[codes >= 0]]
        return pd.DataFrame(p, index=pd.Index(names, name="task"), columns=list(self.classes_ or ()))

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """P(vote = truth | truth) by worker with 95% credible intervals: sensitivity (positive class) and specificity
        (negative class) for two classes, ``recall_<class>`` for more; and how many labels stand behind them.

        Means and intervals are those of `credible.sampled_betas`, sampled at the first call: people are drawn from a
        crowd, and the truth, the crowd's mean and its variety are as uncertain as they are.
        """
        names, codes = self._known_workers(workers)
        assert self.classes_ is not None
        two = ("specificity", "sensitivity")
        titles = two if self._n_classes == 2 else tuple(f"recall_{c}" for c in self.classes_)
        betas, columns = self._sampled(), dict[str, np.ndarray]()
        for c in reversed(range(self._n_classes)):
            right, rest = betas[codes, c].T
            columns |= {titles[c]: right / (right + rest), **interval_columns(titles[c], right, rest)}
        return pd.DataFrame(columns | self._label_counts(codes), index=pd.Index(names, name="worker"))

    def _sampled(self) -> np.ndarray:
        if self._betas is None:
            self._betas = sampled_betas(
                self._votes,
                self._gold,
                self._posterior,
                (by_name(self.task_book_.names), by_name(self.worker_book_.names)),
                start=self.start,
                start_weight=self.start_weight,
                share_weight=self.share_weight,
                trust=self.trust_,
            )
        return self._betas
