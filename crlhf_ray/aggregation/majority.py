"""Majority vote: what every other estimator has to beat."""

from __future__ import annotations

import numpy as np

from crlhf_ray.aggregation.base import StreamingEstimator
from crlhf_ray.aggregation.encoding import Classes
from crlhf_ray.aggregation.state import CrowdState


class EqualRates:
    """Every annotator is right with the same probability, whatever they did."""

    coins = 0

    def __init__(self, p: float):
        self.p = p

    def beta(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] so narrow that the interval is the point."""
        fixed = np.tile([self.p * 1e12, (1 - self.p) * 1e12], (len(counts), 1))
        return fixed, fixed

    def rates(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(p, p)`` [n]."""
        p = np.full(len(counts), self.p)
        return p, p

    def strengths(self, counts: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """None: nobody's rates are drawn to the crowd's."""
        return np.zeros(2)


class Majority(StreamingEstimator):
    """The label most votes are for, weighted by the votes' weights; even votes are left at the prior.

    p: the reliability that everyone is held to have; it changes how sure an answer is, never which it is.
    Assumes that all annotators are equally good and err independently.

    >>> import pandas as pd
    >>> Majority().fit_predict(pd.DataFrame({"task": [1, 1, 1], "worker": list("abc"), "label": [1, 1, 0]})).loc[1]
    1
    """

    def __init__(self, p: float = 0.7, *, prior: float = 0.5, classes: Classes | None = None):
        self.p, self.prior = p, prior
        super().__init__(classes)

    def _new_state(self) -> CrowdState:
        return CrowdState(EqualRates(self.p), prior=self.prior)
