"""How many replicas a growing and shrinking pool has. Pure: no Ray, no clock; the time is an argument.

The rule [ours]. A replica draws `rollout.max_num_seqs` programs at a time, and what is above that waits. The pool needs
as many replicas as draw at a time all that is to be drawn, less what reviewers have in front of them: while they have
plenty, drawing faster helps nobody; when they review fast, what is under review runs out, and the pool grows. Never
fewer than ``least``, never more than ``most``, and one as soon as anything is to be drawn.

More are wanted when every look of ``grow_seconds`` needed more, and then the least of what they needed; fewer when
every look of ``shrink_seconds`` needed fewer, and then the most of it. So a change upwards comes ``grow_seconds`` after
the last change or later, one downwards ``shrink_seconds``, and a need that comes and goes changes nothing. Where there
is no replica, what is needed is wanted at once. What is wanted does not depend on what there is: a replica that is
lost, as on a spot node, is still wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from crlhf_ray.rollout.settings import AutoscaleSettings


@dataclass(frozen=True)
class Load:
    """Programs. to_draw: those that wait for a replica or are being drawn; to_review: those under review."""

    to_draw: int
    to_review: int = 0


@dataclass(frozen=True)
class Change:
    """From so many replicas to so many, and why."""

    before: int
    after: int
    why: str

    def __str__(self) -> str:
        return f"rollout replicas: {self.before} -> {self.after}, because {self.why}"


class Autoscaler:
    """The number of replicas wanted, from look to look. at_once: programs that one replica draws at a time."""

    def __init__(self, settings: AutoscaleSettings, at_once: int):
        self.settings, self.at_once = settings, at_once
        self.wanted = max(1, settings.least)
        self._since = 0.0  # every look since then needed more than is wanted, or every look needed fewer
        self._level: int | None = None  # what is nearest to `wanted` of what they needed; None: the last needed as many

    def need(self, load: Load) -> int:
        """Replicas that would do for this load."""
        settings = self.settings
        needed = ceil((load.to_draw - load.to_review) / self.at_once)
        return min(settings.most, max(settings.least, min(1, load.to_draw), needed))

    def decide(self, load: Load, now: float) -> Change | None:
        """A change to make at the time ``now``, in seconds, which never falls from look to look."""
        needed, before = self.need(load), self.wanted
        more = needed > before
        if needed == before:
            self._level = None
            return None
        if self._level is None or more != (self._level > before):
            self._since, self._level = now, needed
        self._level = min(self._level, needed) if more else max(self._level, needed)
        patience = self.settings.grow_seconds if more else self.settings.shrink_seconds
        if before and now - self._since < patience:  # without a replica nothing is drawn at all
            return None
        self.wanted, self._level = self._level, None
        return Change(
            before,
            self.wanted,
            f"{load.to_draw} programs are to be drawn and {load.to_review} are under review, a replica draws "
            f"{self.at_once} at a time, and {'more' if more else 'fewer'} were needed for {now - self._since:.0f} s",
        )
