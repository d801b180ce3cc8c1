"""The learning rate's factor by update: warm-up, then constant or falling."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def lr_factor(update: int, *, warmup: int, schedule: Schedule, updates: int | None) -> float:
    """Factor, 0 to 1, of the learning rate in a 0-based update.

    warmup: updates over which it rises in equal steps to 1. updates: the update at which a falling one is 0, counted
    from the start; it stays there. Derived from the update alone, so that a resumed run needs nothing stored.
    """
    if update < warmup:
        return (update + 1) / warmup
    if schedule == "constant" or updates is None:
        return 1.0
    over = min(1.0, (update - warmup) / (updates - warmup))
    return 1.0 - over if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * over))
