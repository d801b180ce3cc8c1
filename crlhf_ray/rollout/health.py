"""Which replicas may serve. Pure: no Ray, no clock.

A replica is *stale* from its birth until it holds the wanted weights, *serving* from then on, and *dead* for ever once
it fails: nothing that was dead serves again; its slot is filled by a new replica, which is stale.
"""

from __future__ import annotations

from crlhf_ray.errors import EngineError


class Health:
    """The state of every replica of ``slots`` slots. Replica ids are ``"slot"``, then ``"slot.1"``, ``"slot.2"`` ..."""

    def __init__(self, slots: int):
        self._slots: list[str | None] = [None] * slots
        self._births = [0] * slots
        self._versions: dict[str, int | None] = {}
        self.deaths: dict[str, str] = {}  # replica id: why

    def fill(self) -> list[str]:
        """Give a new replica to every empty slot; returns their ids. They are stale."""
        born = []
        for slot, current in enumerate(self._slots):
            if current is None:
                replica = f"{slot}.{self._births[slot]}" if self._births[slot] else str(slot)
                self._births[slot] += 1
                self._slots[slot] = replica
                self._versions[replica] = None
                born.append(replica)
        return born

    def synced(self, replica: str, version: int) -> None:
        """The replica holds the weights of ``version``."""
        if replica not in self._versions:
            raise EngineError(f"replica {replica} is dead and cannot come back; its slot needs a new one")
        self._versions[replica] = version

    def died(self, replica: str, why: str) -> None:
        """The replica failed; its slot is empty. Saying so twice keeps the first reason."""
        if replica in self._versions:
            del self._versions[replica]
            self._slots[self._slots.index(replica)] = None
            self.deaths[replica] = why

    def alive(self) -> list[str]:
        """Replicas in slot order."""
        return [replica for replica in self._slots if replica is not None]

    def serving(self, version: int) -> list[str]:
        """Replicas that hold the weights of ``version``, in slot order."""
        return [replica for replica in self.alive() if self._versions[replica] == version]
