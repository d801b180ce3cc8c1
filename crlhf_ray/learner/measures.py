"""What an update shows of itself besides its losses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from crlhf_ray.learner.batching import Experience


def gaps(batch: Sequence[Experience], now: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> dict[str, float]:
    """|learner - rollout| a token, of samples that the current weights drew; nothing where there are none."""
    fresh = [np.abs(own - theirs) for one, own, theirs in zip(batch, now, drawn, strict=True) if not one.age]
    if not fresh:
        return {}
    found = np.concatenate(fresh)
    return {"logprob_gap_mean": float(found.mean()), "logprob_gap_max": float(found.max())}


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begun  # type: ignore[assignment]
