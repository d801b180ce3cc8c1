"""One temperature on honeypots, so that what is said with 90% is right in 90 of 100 cases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from crlhf_ray.aggregation.base import Estimator, Gold
from crlhf_ray.aggregation.encoding import Table, column
from crlhf_ray.errors import DataError

_SURE = 1e-12


def temperature(log_odds: np.ndarray, positive: np.ndarray, *, expected: float = 2.5, spread: float = 0.7) -> float:
    """The T that makes ``sigmoid(log_odds / T)`` most likely given the truth (Guo et al. 2017, arXiv 1706.04599).

    expected, spread: a log-normal prior on T, for the few honeypots there are: models that hold annotators'
    errors independent are too sure by a factor of two to five on public sets, so it starts low in that range.
    log_odds [n] must come from a fit that had not seen these truths; positive [n] is True or False.
    """
    signed = np.where(positive, log_odds, -log_odds)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_t)).sum()) + 0.5 * ((log_t - np.log(expected)) / spread) ** 2

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.2), np.log(20.0)), method="bounded").x))


class Calibrated(Estimator):
    """Any two-class estimator, tempered: ``sigmoid(log-odds / temperature_)``.

    The honeypots are split in ``folds``; each fold is answered by a fit that had its gold hidden, and one temperature
    is fitted to all those answers. So the temperature never sees an answer that knew its truth, and the tasks that it
    is judged on had no part in it. Which class is the more probable never changes.
    Costs ``folds`` fits more. Learnt: estimator_ (fitted on all gold), temperature_.

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
        classes = self.estimator_.classes_
        if classes is None or len(classes) != 2:
            raise DataError(f"one temperature is for two classes, and these are {classes}", field="label")
        self.classes_ = classes
        gold = as_series(true_labels)
        held = cross_fitted_log_odds(self.make, data, gold, classes[1], self.folds)
        self.temperature_ = temperature(
            held.to_numpy(), (gold.loc[held.index] == classes[1]).to_numpy(), expected=self.expected, spread=self.spread
        )
        return self

    @property
    def tasks_(self) -> list[Hashable]:
        """All tasks seen."""
        return self.estimator_.tasks_

    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """The estimator's posterior, tempered; certainty, which only gold has, stays."""
        raw = self.estimator_.posterior(tasks)
        negative, positive = raw.columns
        p = raw[positive].to_numpy()
        sure = (p == 0) | (p == 1)
        p = np.where(sure, p, expit(logit(np.clip(p, _SURE, 1 - _SURE)) / self.temperature_))
        return pd.DataFrame({negative: 1 - p, positive: p}, index=raw.index)

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """The estimator's own."""
        return self.estimator_.reliability(workers)


def cross_fitted_log_odds(
    make: Callable[[], Estimator], data: Table, gold: pd.Series, positive: Hashable, folds: int = 5
) -> pd.Series:
    """Log-odds of the honeypots that were voted on, each by a fit from which its own truth was hidden."""
    values = column(data, "task")
    voted = set(pd.unique(values.to_pandas() if hasattr(values, "to_pandas") else values))
    usable = sorted((task for task in gold.index if task in voted), key=str)
    order = np.random.default_rng(0).permutation(len(usable))
    answers: dict[Any, float] = {}
    for fold in range(min(folds, len(usable))):
        hidden = [usable[i] for i in order[fold::folds]]
        probas = make().fit(data, gold.drop(hidden)).posterior(hidden)
        p = np.clip(probas[positive].to_numpy(), _SURE, 1 - _SURE)
        answers |= dict(zip(hidden, logit(p), strict=True))
    return pd.Series(answers, dtype=float)


def as_series(gold: Gold | None) -> pd.Series:
    """Gold as a Series of labels indexed by task."""
    if gold is None:
        return pd.Series(dtype=object)
    if isinstance(gold, pd.Series):
        return gold
    frame = gold if isinstance(gold, pd.DataFrame) else gold.to_pandas()
    return pd.Series(column(frame, "label"), index=column(frame, "task"))
