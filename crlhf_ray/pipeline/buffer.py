"""Which groups of programs may be begun, and which are learnt from next. Pure: no Ray, no clock.

A group is all samples of one problem, which stay together because a baseline needs them all. It is *open* from the
moment it is begun until it is learnt from or dropped. People finish in any order, so a bound on how much is under way
does not by itself bound the age of what is learnt from (AReaL's capacity rule, arXiv 2505.24298, equation 3, does where
work is consumed in the order in which it came). The rule here [ours], with P groups an update and staleness S at most:

1. With the weights of version v, while update u is the next (v, or v + 1 while update v is being learnt), groups are
   begun only as long as no more than (v + S + 1 - u) P are open: so many can be learnt from by update v + S.
2. A group that was begun at version v is due at update v + S. A batch takes the groups that are due first; it waits as
   long as those that it would leave behind could not all be learnt from by the time they are due, which is so if for
   some d more than (d - u) P of them are due by update d.

Then no group is older than S when it is learnt from, and where all are reviewed at some time, no update waits for ever:
if everything open is ready, rule 1 sees to it that the P that are due first are a batch. With S = 0 a batch is exactly
what was begun since the last update: the synchronous loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crlhf_ray.config import Above


@dataclass
class Open:
    """A group under way. version: of the weights when it was begun; ready: place in the order of readiness, or None."""

    version: int
    ready: int | None = None


class Buffer:
    """Groups by id. batch: P, groups an update. max_staleness: S, in updates.

    above: what becomes of groups that are not ready when they are due. ``wait`` keeps rule 2; ``drop`` takes whatever
    is ready, and drops what is overdue then.
    """

    def __init__(self, batch: int, max_staleness: int = 0, above: Above = "wait"):
        self.batch, self.max_staleness, self.above = batch, max_staleness, above
        self._open: dict[int, Open] = {}
        self._readied = 0
        self.dropped: list[int] = []

    def room(self, version: int, update: int, last: int) -> int:
        """Groups that may be begun with the weights of ``version``, where ``update`` is the next and ``last`` how many
        there are: none that no update is left for."""
        updates = min(version + self.max_staleness + 1, last) - update
        return max(0, updates * self.batch - len(self._open))

    def begin(self, group: int, version: int) -> None:
        """The group is being drawn with the weights of ``version``."""
        self._open[group] = Open(version)

    def ready(self, groups: Iterable[int]) -> int:
        """The groups are reviewed; returns how many were not before. Those that were dropped are passed over."""
        fresh = [one for group in groups if (one := self._open.get(group)) is not None and one.ready is None]
        for place, one in enumerate(fresh, self._readied):
            one.ready = place
        self._readied += len(fresh)
        return len(fresh)

    def take(self, update: int) -> list[int] | None:
        """The batch of an update, oldest first; None where the learner has to wait. Dropped groups join `dropped`."""
        ready = [group for group, one in self._open.items() if one.ready is not None]
        if len(ready) < self.batch:
            return None
        batch = sorted(ready, key=lambda group: (self._open[group].version, self._open[group].ready))[: self.batch]
        taken = set(batch)
        left = [group for group in self._open if group not in taken]
        if self.above == "wait" and not self._in_time(left, update):
            return None
        self.dropped += [group for group in left if self._due(group) <= update]
        self._open = {group: self._open[group] for group in left if self._due(group) > update}
        return sorted(batch)

    def waiting(self) -> list[int]:
        """Groups that are being drawn or reviewed, oldest first."""
        return [group for group, one in self._open.items() if one.ready is None]

    def open(self) -> list[int]:
        """All groups under way, in the order in which they were begun."""
        return list(self._open)

    def _due(self, group: int) -> int:
        return self._open[group].version + self.max_staleness

    def _in_time(self, groups: list[int], update: int) -> bool:
        """Whether groups that stay behind at an update can all be learnt from by the time they are due."""
        due = sorted(self._due(group) for group in groups)
        return all(count <= (by - update) * self.batch for count, by in enumerate(due, 1))
