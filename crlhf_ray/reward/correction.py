"""The correction rate of a program: Eq. 9 of the reconstruction in docs/method.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Form = Literal["soft", "hard"]


def line_scores(p_correct: Sequence[float] | np.ndarray, form: Form = "soft") -> np.ndarray:
    """What each line scores: its posterior (soft), or 1 where the posterior is at least 1/2 and else 0 (hard).

    p_correct: P(line is correct) of the lines that carry code, shape (m,), each 0 to 1.
    Returns float64, shape (m,). Raises ValueError for a value that is no probability.
    """
    p = np.asarray(p_correct, dtype=np.float64).reshape(-1)
    bad = ~((p >= 0.0) & (p <= 1.0))  # written so that NaN is bad
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise ValueError(f"p_correct[{where}] is {p[where]}: a probability from 0 to 1 is needed")
    if form == "soft":
        return p
    if form == "hard":
        return (p >= 0.5).astype(np.float64)
    raise ValueError(f"form {form!r} is unknown: use 'soft' or 'hard'")


def correction_rate(p_correct: Sequence[float] | np.ndarray, form: Form = "soft") -> float:
    """Eq. 9: soft ``s = mean_j p_j``, hard ``s = mean_j [p_j >= 1/2]``, over the lines that carry code.

    A program without code scores 0: it solves nothing, and any other value would be a reward for saying nothing.
    Raises ValueError for a value that is no probability.
    """
    scores = line_scores(p_correct, form)
    return float(scores.mean()) if scores.size else 0.0
