"""One temperature on honeypots, so that what is said with 90% is right in 90 of 100 cases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from crlhf_ray.aggregation.base import Estimator, Gold
from crlhf_ray.aggregation.encoding import Table, column
from crlhf_ray.aggregation.quality import bin_of, confidence_gap

_SURE = 1e-12


def temperature(log_p: np.ndarray, truth: np.ndarray, *, expected: float = 2.5, spread: float = 0.7) -> float:
    """The T that makes ``softmax(log_p / T)`` most likely given the truth (Guo et al. 2017, arXiv 1706.04599).

    expected, spread: a log-normal prior on T, for the few honeypots there are: models that hold annotators'
    errors independent are too sure by a factor of two to five on public sets, so it starts low in that range.
    log_p [n, K]: log-probabilities of the classes, from a fit that had not seen these truths. truth [n]: class numbers.
    """
    rows = np.arange(len(truth))

    def loss(log_t: float) -> float:
        tempered = log_softmax(log_p / np.exp(log_t), axis=1)[rows, truth]
        return float(-tempered.sum()) + 0.5 * ((log_t - np.log(expected)) / spread) ** 2

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.2), np.log(50.0)), method="bounded").x))


@dataclass(frozen=True)
class OnHoneypots:
    """How the tempered answers did on honeypots whose truth was hidden from the fit.

    accuracy: share answered rightly, with its 95% Wilson interval low to high. calibration_error: mean gap between the
    probability of the answer and how often it is right, in ten bins (ECE); a little low, since the one temperature was
    fitted to the same answers. bins: of those that are not empty, (mean probability, share right, how many).
    """

    count: int
    accuracy: float
    low: float
    high: float
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...] = ()


class Calibrated(Estimator):
    """Any estimator, tempered: ``softmax(log-probabilities / temperature_)``, of two classes or more.

    The honeypots are split in ``folds``; each fold is answered by a fit that had its gold hidden, and one temperature
    is fitted to all those answers. So the temperature never sees an answer that knew its truth, and the tasks that it
    is measured on had no part in it. Which class is the more probable never changes.
    Costs ``folds`` fits more. Learnt: estimator_ (fitted on all gold), temperature_, on_honeypots_.

    >>> from crlhf_ray.aggregation.two_coin import TwoCoin
    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3], "worker": list("ababa"), "label": [1, 1, 0, 0, 1]})
    >>> calm = Calibrated(TwoCoin).fit(votes, true_labels=pd.Series({1: 1, 2: 0}))
    >>> bool(calm.probas_.loc[3, 1] < TwoCoin().fit(votes, pd.Series({1: 1, 2: 0})).probas_.loc[3, 1])
    True
    """

    def __init__(self, make: Callable[[], Estimator], *, folds: int = 5, expected: float = 2.5, spread: float = 0.7):
        self.make, self.folds, self.expected, self.spread = make, folds, expected, spread

    def fit(self, data: Table, true_labels: Gold | None = None) -> Self:
        """Fit the estimator on everything, and the temperature on honeypots whose gold was hidden."""
        self.estimator_ = self.make().fit(data, true_labels)
        classes = self.classes_ = self.estimator_.classes_
        assert classes is not None
        gold = self._gold = as_series(true_labels)
        held = cross_fitted(self.make, data, gold, self.folds)
        truth = pd.Index(classes).get_indexer(gold.loc[held.index])
        log_p = _logs(held[list(classes)].to_numpy())
        self.temperature_ = temperature(log_p, truth, expected=self.expected, spread=self.spread)
        self.on_honeypots_ = _score(log_softmax(log_p / self.temperature_, axis=1), truth)
        return self

    @property
    def second_votes_(self) -> int:  # type: ignore[override]
        """The estimator's own."""
        return self.estimator_.second_votes_

    @property
    def tasks_(self) -> list[Hashable]:
        """All tasks seen."""
        return self.estimator_.tasks_

    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """The estimator's posterior, tempered; that of gold stays."""
        raw = self.estimator_.posterior(tasks)
        p = raw.to_numpy()
        tempered = softmax(_logs(p) / self.temperature_, axis=1)
        known = raw.index.isin(self._gold.index)[:, None]
        return pd.DataFrame(np.where(known, p, tempered), raw.index, raw.columns)

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """The estimator's own."""
        return self.estimator_.reliability(workers)


def cross_fitted(make: Callable[[], Estimator], data: Table, gold: pd.Series, folds: int = 5) -> pd.DataFrame:
    """P(class) of the honeypots that were voted on, each by a fit from which its own truth was hidden."""
    values = column(data, "task")
    voted = set(pd.unique(values.to_pandas() if hasattr(values, "to_pandas") else values))
    usable = sorted((task for task in gold.index if task in voted), key=str)
    order = np.random.default_rng(0).permutation(len(usable))
    hidden = [[usable[i] for i in order[fold::folds]] for fold in range(min(folds, len(usable)))]
    answers = [make().fit(data, gold.drop(some)).posterior(some) for some in hidden]
    return pd.concat(answers) if answers else make().fit(data, gold).posterior([])


def _logs(p: np.ndarray) -> np.ndarray:
    return np.log(np.clip(p, _SURE, 1 - _SURE))


def _score(log_p: np.ndarray, truth: np.ndarray) -> OnHoneypots:
    count = len(truth)
    if not count:
        return OnHoneypots(0, float("nan"), 0.0, 1.0, float("nan"))
    right = log_p.argmax(axis=1) == truth
    found = binomtest(int(right.sum()), count).proportion_ci(method="wilson")
    sure = np.exp(log_p.max(axis=1))
    where = bin_of(sure)
    bins = tuple(
        (float(sure[where == b].mean()), float(right[where == b].mean()), int((where == b).sum()))
        for b in np.unique(where)
    )
    return OnHoneypots(
        count, float(right.mean()), float(found.low), float(found.high), confidence_gap(sure, right), bins
    )


def as_series(gold: Gold | None) -> pd.Series:
    """Gold as a Series of labels indexed by task."""
    if gold is None:
        return pd.Series(dtype=object)
    if isinstance(gold, pd.Series):
        return gold
    frame = gold if isinstance(gold, pd.DataFrame) else gold.to_pandas()
    return pd.Series(column(frame, "label"), index=column(frame, "task"))
