"""Which replicas may serve. Pure: no Ray, no clock.

A replica is *starting* from the moment it is asked for, since its node may still have to come; *stale* from the moment
its engine has loaded until it holds the wanted weights; *serving* from then on; and *dead* for ever once it fails.
Nothing that was dead serves again: its slot is filled by a new replica.
"""

from __future__ import annotations

from collections.abc import Callable

from crlhf_ray.errors import EngineError


class Health:
    """The state of every replica that has one of ``slots`` slots. Ids are ``"slot"``, then ``"slot.1"`` ...; none comes
    twice, since births are counted on where slots are given up."""

    def __init__(self, slots: int):
        self._slots: list[str | None] = [None] * slots
        self._births = [0] * slots
        self._starting: set[str] = set()
        self._versions: dict[str, int | None] = {}
        self.deaths: dict[str, str] = {}  # replica id: why

    @property
    def slots(self) -> int:
        """Replicas wanted."""
        return len(self._slots)

    def __contains__(self, replica: str) -> bool:
        """Whether the replica has a slot: it is neither dead nor let go."""
        return replica in self._slots

    def resize(self, slots: int, load: Callable[[str], int] = lambda _: 0) -> None:
        """Have so many slots. Empty ones are given up first, then those of replicas that are starting, then of those
        that have the least ``load``. A replica without a slot never serves again."""

        def worth(place: int) -> tuple[bool, bool, int]:
            replica = self._slots[place]
            return (replica in self._versions, replica in self._starting, load(replica) if replica else 0)

        while len(self._slots) > slots:
            replica = self._slots.pop(min(reversed(range(len(self._slots))), key=worth))
            if replica is not None:
                self._starting.discard(replica)
                self._versions.pop(replica, None)
        self._slots += [None] * (slots - len(self._slots))
        self._births += [0] * (slots - len(self._births))

    def fill(self) -> list[str]:
        """Give a new replica to every empty slot; returns their ids. They are starting."""
        born = []
        for slot, current in enumerate(self._slots):
            if current is None:
                replica = f"{slot}.{self._births[slot]}" if self._births[slot] else str(slot)
                self._births[slot] += 1
                self._slots[slot] = replica
                self._starting.add(replica)
                born.append(replica)
        return born

    def loaded(self, replica: str) -> None:
        """The replica's engine has loaded; it is stale."""
        self._starting.discard(replica)
        self._versions[replica] = None

    def synced(self, replica: str, version: int) -> None:
        """The replica holds the weights of ``version``."""
        if replica not in self._versions:
            raise EngineError(f"replica {replica} is not running, so it cannot hold weights; its slot needs a new one")
        self._versions[replica] = version

    def died(self, replica: str, why: str) -> None:
        """The replica failed; its slot is empty. Saying so twice keeps the first reason."""
        if replica in self._slots:
            self._versions.pop(replica, None)
            self._starting.discard(replica)
            self._slots[self._slots.index(replica)] = None
            self.deaths[replica] = why

    def starting(self) -> list[str]:
        """Replicas that have not loaded yet, in slot order."""
        return [replica for replica in self._slots if replica in self._starting]

    def alive(self) -> list[str]:
        """Replicas that have loaded, in slot order."""
        return [replica for replica in self._slots if replica in self._versions]

    def serving(self, version: int) -> list[str]:
        """Replicas that hold the weights of ``version``, in slot order."""
        return [replica for replica in self.alive() if self._versions[replica] == version]
