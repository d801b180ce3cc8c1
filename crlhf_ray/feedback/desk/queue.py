"""Who reviews what next: pure policy, no store and no clock.

A program waits with a *rank*, a time in seconds: the smaller, the sooner it is handed out. It starts as the time at
which the program came, and is moved forward by what one more review is expected to tell. So what is worth asking
comes first, and nothing waits longer than `QueueSettings.boost_seconds` behind its turn.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from crlhf_ray.settings import Settings


class QueueSettings(Settings):
    """How many people review a program, for how long it is theirs, and how often somebody is checked."""

    labels_least: int = Field(default=2, ge=1)
    """Reviews of each program in any case: one person alone may be anybody."""
    labels_most: int = Field(default=7, ge=1)
    """Reviews after which a program is done, sure or not."""
    gain_least: float = Field(default=0.05, ge=0)
    """Bits that one more review must be expected to tell about the least sure line for the program to stay open."""
    boost_seconds: float = Field(default=600.0, ge=0)
    """How far one bit of expected gain moves a program forward in the queue."""
    lease_seconds: float = Field(default=1800.0, gt=0)
    """How long a program is one person's without a mark from them; then somebody else may have it."""
    present_seconds: float = Field(default=3600.0, gt=0)
    """Whoever joined or submitted within so long is at work. A program that everybody at work has had waits for nobody
    else once it has `labels_least` reviews."""
    absent_seconds: float = Field(default=86400.0, gt=0)
    """Whoever neither joined nor submitted for so long is not waited for, also where no training asks."""
    qualification: int = Field(default=3, ge=0)
    """Programs of the first round, with known answers that are shown after each."""
    skips_a_day: int = Field(default=10, ge=0)
    """Programs that one person may skip in 24 hours. Practice programs cannot be skipped."""
    honeypots_least: float = Field(default=0.05, ge=0, le=1)
    """Share of silent honeypots for those whose reliability is known well."""
    honeypots_most: float = Field(default=0.4, ge=0, le=1)
    """Share for those of whom nothing is known yet."""
    interval_wanted: float = Field(default=0.2, gt=0, le=1)
    """Width of the 95% interval of sensitivity and specificity at which somebody counts as known well."""

    @model_validator(mode="after")
    def _ordered(self) -> QueueSettings:
        if self.labels_least > self.labels_most:
            raise ValueError(f"labels_least={self.labels_least} is above labels_most={self.labels_most}")
        if self.honeypots_least > self.honeypots_most:
            raise ValueError(f"honeypots_least={self.honeypots_least} is above honeypots_most={self.honeypots_most}")
        return self


def entropy(p: np.ndarray) -> np.ndarray:
    """Bits of a coin that shows heads with probability ``p``; any shape."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def expected_gain(p_correct: np.ndarray, sensitivity: float, specificity: float) -> np.ndarray:
    """Bits that one more vote is expected to tell about each line: the mutual information of vote and truth.

    p_correct: posterior, any shape. sensitivity, specificity: of whoever may vote, such as the crowd's means.
    """
    says_correct = p_correct * sensitivity + (1 - p_correct) * (1 - specificity)
    noise = p_correct * entropy(np.array(sensitivity)) + (1 - p_correct) * entropy(np.array(specificity))
    return np.maximum(entropy(says_correct) - noise, 0.0)


def labels_wanted(labels: int, gain: np.ndarray, settings: QueueSettings) -> int:
    """How many reviews the program should have by what is known: as many as it has when it is done.

    labels: those it has. gain: `expected_gain` of its reviewed lines [lines].
    """
    if labels < settings.labels_least:
        return settings.labels_least
    if labels >= settings.labels_most or float(gain.max(initial=0.0)) < settings.gain_least:
        return labels
    return labels + 1


def rank(came_at: float, gain: np.ndarray, settings: QueueSettings) -> float:
    """The program's place in the queue, seconds: smaller is sooner. gain: `expected_gain` of its reviewed lines."""
    return came_at - settings.boost_seconds * float(gain.max(initial=0.0))


def honeypot_share(width: float, settings: QueueSettings) -> float:
    """Share of an annotator's work that should be honeypots.

    width: the wider one of the 95% intervals of their sensitivity and specificity; 1 where nothing is known.
    """
    unknown = np.clip((width - settings.interval_wanted) / (1 - settings.interval_wanted + 1e-12), 0.0, 1.0)
    return float(settings.honeypots_least + unknown * (settings.honeypots_most - settings.honeypots_least))
