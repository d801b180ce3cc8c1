"""The paper's estimator: one reliability an annotator, log-odds consensus (Eq. 7), credit update (Eq. 8)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import logit

from crlhf_ray.aggregation.base import StreamingEstimator
from crlhf_ray.aggregation.coin import CC, WW
from crlhf_ray.aggregation.encoding import Classes
from crlhf_ray.aggregation.state import CrowdState


def log_odds(votes: np.ndarray, reliability: np.ndarray, prior: float = 0.5) -> np.ndarray:
    """Eq. 7: ``logit(prior) + sum_i v_ij logit(p_i)``.

    votes: +1, -1 or 0 (not reviewed), [..., n annotators]. reliability: p_i in (0, 1), [n]. Returns log-odds [...].
    """
    return logit(prior) + np.asarray(votes) @ logit(np.asarray(reliability, float))


class OneCoinRates:
    """Eq. 8: ``p_i = (a + credit) / (a + b + N_i)``, clipped to [clip, 1 - clip]; sensitivity = specificity = p_i."""

    coins = 1

    def __init__(self, a: float = 1.0, b: float = 1.0, clip: float = 1e-6):
        self.a, self.b, self.clip = a, b, clip

    def beta(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] of p_i, the same for both rates."""
        right = counts[:, CC] + counts[:, WW]
        both = np.stack([self.a + right, self.b + counts.sum(axis=1) - right], axis=1)
        return both, both

    def rates(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(p, p)`` [n]."""
        right = counts[:, CC] + counts[:, WW]
        p = np.clip((self.a + right) / (self.a + self.b + counts.sum(axis=1)), self.clip, 1 - self.clip)
        return p, p

    def strengths(self, counts: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """None: nobody's rates are drawn to the crowd's."""
        return np.zeros(2)


class OneCoin(StreamingEstimator):
    """The paper's Bayesian engine (Wong and Tan, arXiv 2503.15129), streamed, honeypots first.

    ``logit P(z=+1 | v) = logit(pi) + sum_i v_i logit(p_i)`` (Eq. 7); each vote is credited with the posterior of what
    it said, and ``p_i = (a + credit) / (a + b + N_i)`` (Eq. 8). With ``learn_from="honeypots"`` only gold lines give
    credit. Without gold and with a = b every reliability stays at 0.5 and every answer at the prior: `Aggregator`
    raises an alert then. Assumes that an annotator errs equally often on both classes, and independently of others.

    >>> import pandas as pd
    >>> votes = pd.DataFrame({"task": [1, 1, 2, 2, 3], "worker": list("ababa"), "label": [1, 1, 1, 0, 1]})
    >>> OneCoin().fit_predict(votes, true_labels=pd.Series({1: 1, 2: 1})).loc[3]
    1
    """

    def __init__(
        self,
        a: float = 1.0,
        b: float = 1.0,
        *,
        prior: float = 0.5,
        learn_from: Literal["all", "honeypots"] = "all",
        decay: float = 1.0,
        classes: Classes | None = None,
    ):
        self.a, self.b, self.prior, self.learn_from, self.decay = a, b, prior, learn_from, decay
        super().__init__(classes)

    def _new_state(self) -> CrowdState:
        coin = OneCoinRates(self.a, self.b)
        return CrowdState(coin, prior=self.prior, learn_from=self.learn_from, decay=self.decay)
