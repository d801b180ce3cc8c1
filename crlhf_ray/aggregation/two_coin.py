"""Two reliabilities an annotator, sensitivity and specificity, shrunk to the crowd's: an extension of the paper."""

from __future__ import annotations

from typing import Literal

import numpy as np

from crlhf_ray.aggregation.base import StreamingEstimator
from crlhf_ray.aggregation.codes import Classes
from crlhf_ray.aggregation.state import CC, CW, WC, WW, CrowdState


class TwoCoinRates:
    """Beta-binomial rates whose prior mean is the rate of the whole crowd (pooled) and whose weight is ``strength``.

    strength: how many labels the crowd's rate is worth beside an annotator's own.
    start, start_weight: the crowd's rate before it labelled anything, and how many labels that guess is worth. Above
    one half, so that a crowd without gold starts as a majority vote.
    """

    def __init__(self, strength: float = 4.0, start: float = 0.7, start_weight: float = 10.0, clip: float = 1e-6):
        self.strength, self.start, self.start_weight, self.clip = strength, start, start_weight, clip

    def beta(self, counts: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] of sensitivity and of specificity."""
        return self._beta(counts[:, CC], counts[:, CW], pool[CC], pool[CW]), self._beta(
            counts[:, WW], counts[:, WC], pool[WW], pool[WC]
        )

    def _crowd(self, pool_right: float, pool_wrong: float) -> float:
        return (self.start * self.start_weight + pool_right) / (self.start_weight + pool_right + pool_wrong)

    def _beta(self, right: np.ndarray, wrong: np.ndarray, pool_right: float, pool_wrong: float) -> np.ndarray:
        crowd = self._crowd(pool_right, pool_wrong)
        return np.stack([self.strength * crowd + right, self.strength * (1 - crowd) + wrong], axis=1)

    def rates(self, counts: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(sensitivity, specificity)``, posterior means, [n]."""
        return self._mean(counts[:, CC], counts[:, CW], float(pool[CC]), float(pool[CW])), self._mean(
            counts[:, WW], counts[:, WC], float(pool[WW]), float(pool[WC])
        )

    def rate(self, counts: list[float], pool: list[float]) -> tuple[float, float]:
        """`rates` of one annotator, in plain Python numbers."""
        means = []
        for right, wrong in ((CC, CW), (WW, WC)):
            prior = self.strength * self._crowd(pool[right], pool[wrong])
            mean = (counts[right] + prior) / (counts[right] + counts[wrong] + self.strength)
            means.append(min(max(mean, self.clip), 1 - self.clip))
        return means[0], means[1]

    def _mean(self, right: np.ndarray, wrong: np.ndarray, pool_right: float, pool_wrong: float) -> np.ndarray:
        prior = self.strength * self._crowd(pool_right, pool_wrong)
        mean = (right + prior) / (right + wrong + self.strength)
        return np.minimum(np.maximum(mean, self.clip), 1 - self.clip)


class TwoCoin(StreamingEstimator):
    """Two-coin log-odds, streamed, honeypots first.

    A "correct" vote weighs ``log(sens / (1 - spec))``, a "wrong" vote ``log((1 - sens) / spec)``; both rates are
    posterior means under a Beta prior pooled over the crowd (empirical Bayes). So an annotator who marks everything
    "correct" gets weight nought, where one coin would call them good whenever most lines are. The model is that of
    Dawid and Skene (1979, doi:10.2307/2346806); the estimate is incremental EM (Neal and Hinton 1998).
    Assumes that annotators err independently given the truth.

    >>> import pandas as pd
    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3, 3], "worker": list("ababab"), "label": [1, 1, 1, 0, 1, 0]})
    >>> TwoCoin().fit_predict(votes, true_labels=pd.Series({1: 1, 2: 0})).loc[3]
    0
    """

    def __init__(
        self,
        strength: float = 4.0,
        *,
        start: float = 0.7,
        start_weight: float = 10.0,
        prior: float = 0.5,
        learn_from: Literal["all", "honeypots"] = "all",
        decay: float = 1.0,
        classes: Classes | None = None,
    ):
        self.strength, self.start, self.start_weight = strength, start, start_weight
        self.prior, self.learn_from, self.decay = prior, learn_from, decay
        super().__init__(classes)

    def _new_state(self) -> CrowdState:
        coin = TwoCoinRates(self.strength, self.start, self.start_weight)
        return CrowdState(coin, prior=self.prior, learn_from=self.learn_from, decay=self.decay)
