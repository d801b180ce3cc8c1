"""How soft counts become rates: what the streamed estimators differ in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

#: Columns of the soft counts: (truth, vote) = (wrong, wrong), (wrong, correct), (correct, wrong), (correct, correct).
WW, WC, CW, CC = range(4)
#: What is known of the crowd as a whole: everybody's soft counts, then how many labels of an annotator's own its
#: sensitivity and its specificity are worth, then how many tasks without gold are held to be of each class, and what
#: part of these soft counts a posterior may count (`information_kept`): of both rates, on average, and of the share.
CROWD = 11
STRENGTHS = slice(4, 6)
NEGATIVES, POSITIVES = 6, 7
KEPT, SHARE_KEPT = slice(8, 10), 10


@runtime_checkable
class Coin(Protocol):
    """How soft counts become an annotator's rates: what distinguishes one-coin from two-coin. crowd: [`CROWD`].

    coins: how many rates of an annotator are learnt, 0 to 2.
    """

    coins: int

    def rates(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(sensitivity, specificity)`` [n] from counts [n, 4]."""
        ...

    def strengths(self, counts: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """What ``crowd[STRENGTHS]`` should be, [2], by these annotators' counts [n, 4]."""
        ...

    def beta(self, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] of the sensitivity's and of the specificity's posterior."""
        ...
