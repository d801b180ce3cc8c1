"""Dawid and Skene with a crowd behind each annotator: empirical-Bayes shrinkage, gold first. The best one here."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from scipy.special import log_softmax

from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.shrinkage import class_shares, fitted_strength

#: Fewer honeypots cannot tell one trust from another.
_FEWEST_HONEYPOTS = 5
_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)


class Hierarchical(DawidSkene):
    """Confusion matrices shrunk to the crowd's, by as much as the crowd is found to be alike; honeypots first.

    Row k of an annotator's confusion matrix has a ``Dirichlet(strength_k * mean_k)`` prior. ``mean_k`` is the crowd's
    pooled row; ``strength_k`` maximises the Dirichlet-multinomial marginal likelihood of all annotators' counts
    (empirical Bayes), with a log-normal hyperprior. A crowd of equals is pooled nearly whole (so three labels an
    annotator are enough), a mixed one hardly. EM starts from the honeypots alone, never from the majority: a large
    group of colluders cannot flip the labels; without gold the start is ``start`` for everyone, which is a majority
    vote. The class shares are learnt with ``share_weight`` pseudo-tasks, and tasks without gold count for no more than
    three times the honeypots, because a weak crowd lets EM explain its errors by wrong shares. Honeypots that lack a
    class were chosen, not drawn: they teach rates, but neither shares nor where to start.
    What tasks without gold teach may be poisoned by people who copy each other, which no confusion matrix can tell. So
    EM is run with each of ``trusts`` as the weight of such tasks, and the honeypots decide: each is answered without
    what its own truth taught, and less than full trust is taken only where it answers them better by more than
    three standard errors.
    Assumes independent errors given the truth; where annotators share mistakes its answers stay good but too sure:
    temper them (`calibrate`). The model is that of Kim and Ghahramani (AISTATS 2012) with a learnt hyperprior.

    start, start_weight: P(right) of the crowd before any label, and how many labels that guess is worth.
    trusts: weights of a task without gold beside one with, to choose from; the first is preferred.
    Learnt: trust_, strengths_ [K], means_ [K votes, K truths], and what `DawidSkene` learns.

    >>> import pandas as pd
    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3, 3], "worker": list("ababab"), "label": [1, 1, 0, 1, 0, 1]})
    >>> Hierarchical().fit_predict(votes, true_labels=pd.Series({1: 1, 2: 0})).loc[3]
    0
    """

    def __init__(
        self,
        n_iter: int = 60,
        tol: float = 1e-3,
        *,
        start: float = 0.7,
        start_weight: float = 2.0,
        share_weight: float = 10.0,
        trusts: tuple[float, ...] = (1.0, 0.0),
        classes: tuple[Hashable, ...] | None = None,
    ):
        self.start, self.start_weight, self.share_weight = start, start_weight, share_weight
        self.trusts = tuple(trusts)
        self.strengths_ = np.empty(0)
        super().__init__(n_iter, tol, classes=classes)

    def _run(self) -> None:
        known = np.flatnonzero(self._gold >= 0)
        self._gold_shares = np.bincount(self._gold[known], minlength=self._n_classes)
        self._drawn = bool(self._gold_shares.all())
        candidates = self.trusts if self._drawn and len(known) >= _FEWEST_HONEYPOTS else self.trusts[:1]
        chosen, best = None, np.empty(0)
        for self.trust_ in candidates:
            super()._run()
            loss = self._honeypot_loss(known) if len(candidates) > 1 else best
            if chosen is None or _clearly_less(loss, best):
                chosen, best = (self.trust_, self.__dict__.copy()), loss
        assert chosen is not None
        self.__dict__.update(chosen[1])
        self.trust_ = chosen[0]

    def _honeypot_loss(self, known: np.ndarray) -> np.ndarray:
        """Log-loss of each honeypot, tempered, answered by its votes with what its own truth taught left out."""
        k = self._n_classes
        rows = self._votes[known].tocoo()
        worker, vote = np.divmod(rows.col, k)
        truth = self._gold[known][rows.row]
        prior = self.strengths_ * self.means_
        alone = self.counts_[worker]
        alone[np.arange(len(worker)), vote, truth] -= rows.data
        shares = np.maximum(alone, 0.0) + prior
        evidence = np.log(shares[np.arange(len(worker)), vote] / shares.sum(axis=1)) * rows.data[:, None]
        log_p = np.log(self.priors_) + np.stack(
            [np.bincount(rows.row, evidence[:, c], minlength=len(known)) for c in range(k)], axis=1
        )
        return min(
            (-log_softmax(log_p / t, axis=1)[np.arange(len(known)), self._gold[known]] for t in _TEMPERATURES),
            key=np.sum,
        )

    def _start(self) -> np.ndarray:
        """Gold alone teaches at first: every other task has weight nought."""
        nothing = np.zeros((len(self._gold), self._n_classes))
        return self._clamp(nothing) if self._drawn else nothing

    def _m_step(self, posterior: np.ndarray) -> None:
        k = self._n_classes
        if self.trust_ != 1:
            posterior = posterior * np.where(self._gold >= 0, 1.0, self.trust_)[:, None]
        self.counts_ = (self._votes_t @ posterior).reshape(-1, k, k)
        guess = np.full((k, k), (1 - self.start) / max(k - 1, 1))
        np.fill_diagonal(guess, self.start)
        pooled = self.counts_.sum(axis=0)
        self.means_ = (self.start_weight * guess + pooled) / (self.start_weight + pooled.sum(axis=0))
        if self.n_iter_ <= 5 or self.n_iter_ % 5 == 0:  # the strengths settle long before the posteriors
            near: list[float | None] = list(self.strengths_) if self.n_iter_ > 2 else [None] * k
            self.strengths_ = np.array(
                [fitted_strength(self.counts_[:, :, c], self.means_[:, c], near=near[c]) for c in range(k)]
            )
        self.errors_ = self.counts_ + self.strengths_ * self.means_
        self.errors_ /= self.errors_.sum(axis=1, keepdims=True)
        free = (posterior * self._voted)[self._gold < 0].sum(axis=0)
        read = self.n_iter_ > 1  # at first no vote was read: even shares
        self.priors_ = class_shares(self._gold_shares * read, free * read, self.share_weight)


def _clearly_less(loss: np.ndarray, best: np.ndarray) -> bool:
    """In total by three standard errors of the paired differences, and by 3 nats: prior odds of 20 against poison."""
    difference = best - loss
    return bool(difference.sum() > 3.0 + 3.0 * difference.std() * np.sqrt(len(difference)))
