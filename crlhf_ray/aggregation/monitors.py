"""Signs that the crowd or its scores cannot be trusted. Each is a pure function with a threshold that has a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alert:
    """kind: a fixed name. message: what was seen. remedy: what to do. subjects: the annotators or items concerned."""

    kind: str
    message: str
    remedy: str
    subjects: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}; {self.remedy}"


def frozen_reliabilities(rates: np.ndarray, start: np.ndarray, labels: np.ndarray, *, least: int = 1) -> list[Alert]:
    """Annotators have labelled, yet nobody's reliability has left its starting value: the consensus means nothing.

    rates, start: [n, 2] sensitivity and specificity now and before any label. labels: [n]. Any movement at all clears
    it (1e-9, far above rounding), because with Eq. 8 a crowd at 0.5 without gold stays there exactly, for ever.
    """
    judged = labels >= least
    if not judged.any() or np.abs(rates[judged] - start).max() > 1e-9:
        return []
    return [
        Alert(
            "frozen reliabilities",
            f"{int(labels.sum())} labels of {int(judged.sum())} annotators have moved no reliability off its start",
            "the consensus is meaningless: add honeypots (gold lines) that these annotators answer, or use two_coin",
        )
    ]
