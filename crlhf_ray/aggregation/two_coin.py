"""Two reliabilities an annotator, sensitivity and specificity, shrunk to the crowd's: an extension of the paper."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import expit

from crlhf_ray.aggregation.base import StreamingEstimator, interval_columns
from crlhf_ray.aggregation.coin import CC, CW, STRENGTHS, WC, WW
from crlhf_ray.aggregation.credible import by_name, sampled_betas
from crlhf_ray.aggregation.encoding import Classes
from crlhf_ray.aggregation.shrinkage import fitted_strength
from crlhf_ray.aggregation.state import EVEN_TASKS, CrowdState
from crlhf_ray.errors import ConfigError

#: Columns of the counts: (right, wrong) of sensitivity, and of specificity.
_COINS = ((CC, CW), (WW, WC))
#: Soft counts make a crowd look more alike than it is, so less is expected here than where EM converged.
_EXPECTED_STRENGTH = 4.0


class TwoCoinRates:
    """Beta-binomial rates whose prior mean is the rate of the whole crowd (pooled) and whose weight is ``strength``.

    strength: how many labels the crowd's rate is worth beside an annotator's own. None: learnt, by how alike the
    annotators are found to be, for sensitivity and specificity apart.
    start, start_weight: the crowd's rate before it labelled anything, and how many labels that guess is worth. Above
    one half, so that a crowd without gold starts as a majority vote.
    """

    coins = 2

    def __init__(
        self, strength: float | None = None, start: float = 0.7, start_weight: float = 10.0, clip: float = 1e-6
    ):
        self.strength, self.start, self.start_weight, self.clip = strength, start, start_weight, clip

    def beta(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] of sensitivity and of specificity."""
        shapes = []
        for (right, wrong), strength in zip(_COINS, crowd[STRENGTHS], strict=True):
            mean = self._mean(crowd, right, wrong)
            shapes.append(
                np.stack([strength * mean + counts[:, right], strength * (1 - mean) + counts[:, wrong]], axis=1)
            )
        return shapes[0], shapes[1]

    def rates(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(sensitivity, specificity)``, posterior means, [n]."""
        means = []
        for (right, wrong), strength in zip(_COINS, crowd[STRENGTHS].tolist(), strict=True):
            prior = strength * self._mean(crowd, right, wrong)
            mean = (counts[:, right] + prior) / (counts[:, right] + counts[:, wrong] + strength)
            means.append(np.minimum(np.maximum(mean, self.clip), 1 - self.clip))
        return means[0], means[1]

    def strengths(self, counts: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """The strengths that were set, or the most probable ones, [2]."""
        if self.strength is not None:
            return np.full(2, self.strength)
        found = []
        for coin in _COINS:
            mean = self._mean(crowd, *coin)
            found.append(fitted_strength(counts[:, coin], np.array([mean, 1 - mean]), centre=_EXPECTED_STRENGTH))
        return np.array(found)

    def _mean(self, crowd: Sequence[float] | np.ndarray, right: int, wrong: int) -> float:
        return float(
            (self.start * self.start_weight + crowd[right]) / (self.start_weight + crowd[right] + crowd[wrong])
        )


class TwoCoin(StreamingEstimator):
    """Two-coin log-odds, streamed, honeypots first.

    A "correct" vote weighs ``log(sens / (1 - spec))``, a "wrong" vote ``log((1 - sens) / spec)``; both rates are
    posterior means under a Beta prior pooled over the crowd, and as strong as the crowd is alike (empirical Bayes). So
    an annotator who marks everything "correct" gets weight nought, where one coin would call them good whenever most
    lines are. The model is that of Dawid and Skene (1979, doi:10.2307/2346806); the estimate is incremental EM (Neal
    and Hinton 1998). The strengths are learnt from up to 10,000 annotators, the class shares unless ``prior`` =
    P(positive) is given: held at 0.5 where nine lines in ten are correct, the rates run astray.
    Assumes that annotators err independently given the truth. Raises ConfigError for a strength of 0 or less.

    >>> import pandas as pd
    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3, 3], "worker": list("ababab"), "label": [1, 1, 1, 0, 1, 0]})
    >>> TwoCoin().fit_predict(votes, true_labels=pd.Series({1: 1, 2: 0})).loc[3]
    0
    """

    def __init__(
        self,
        strength: float | None = None,
        *,
        start: float = 0.7,
        start_weight: float = 10.0,
        prior: float | None = None,
        learn_from: Literal["all", "honeypots"] = "all",
        decay: float = 1.0,
        classes: Classes | None = None,
    ):
        if strength is not None and not 0 < strength < np.inf:
            raise ConfigError(f"strength={strength:g} is not a number of labels above 0; None learns it")
        self.strength, self.start, self.start_weight = strength, start, start_weight
        self.prior, self.learn_from, self.decay = prior, learn_from, decay
        super().__init__(classes)

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """As `StreamingEstimator.reliability`, but means and intervals are sampled (`credible.sampled_betas`), from all
        votes, whenever they are asked for: soft counts take the truth for certain."""
        table = super().reliability(workers)
        if table.empty:
            return table
        betas = self._sampled()[self.worker_book_.encode(list(table.index), grow=False)]
        for c, name in enumerate(("specificity", "sensitivity")):
            right, wrong = betas[:, c].T
            table = table.assign(**{name: right / (right + wrong), **interval_columns(name, right, wrong)})
        return table

    def _sampled(self) -> np.ndarray:
        """Beta parameters [n workers, 2 classes, 2]; with ``decay`` an old vote says as little of its task as of its
        annotator."""
        state, votes = self.state_, self.state_.votes()
        cast = votes.label != 0
        columns = votes.worker[cast] * 2 + (votes.label[cast] > 0)
        shape = state.n_tasks, 2 * state.n_workers
        matrix = csr_array((state.faded()[cast], (votes.task[cast], columns)), shape=shape)
        tasks = np.arange(state.n_tasks)
        p = expit(state.log_odds(tasks))
        return sampled_betas(
            matrix,
            np.where(state.task_gold[tasks] == 0, -1, state.task_gold[tasks] > 0).astype(np.int64),
            np.stack([1 - p, p], axis=1),
            (by_name(self.task_book_.names), by_name(self.worker_book_.names)),
            start=self.start,
            start_weight=self.start_weight,
            share_weight=EVEN_TASKS,
            trust=float(self.learn_from == "all"),
            honeypots_drawn=False,
            shares=None if self.prior is None else np.array([1 - self.prior, self.prior]),
            strength=self.strength,
        )

    def _new_state(self) -> CrowdState:
        coin = TwoCoinRates(self.strength, self.start, self.start_weight)
        return CrowdState(coin, prior=self.prior, learn_from=self.learn_from, decay=self.decay)
