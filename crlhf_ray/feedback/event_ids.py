"""A set of event ids in 16 bytes an id: 128-bit hashes in sorted runs, each at least twice as long as the next."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pandas.util import hash_array

_KEYS = ("crlhf_event_id_a", "crlhf_event_id_b")

#: The two 64-bit halves, ordered by the first.
Hashes = tuple[np.ndarray, np.ndarray]


class EventIds:
    """Grows only. Two different ids among 10^9 share a hash with probability 1.5e-21."""

    def __init__(self, hashes: Hashes | None = None):
        self._runs: list[Hashes] = [hashes] if hashes is not None and len(hashes[0]) else []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def hashes(self) -> Hashes:
        """All hashes, as two arrays ordered by the first."""
        return _merged(self._runs) if self._runs else (np.empty(0, np.uint64), np.empty(0, np.uint64))

    def unseen(self, ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, Hashes]:
        """``(mask of those that are new, their hashes)``; of equal ids inside the batch the first is new.

        Nothing is remembered before `add`, so that a write that fails in between can be tried again.
        """
        values = ids.to_numpy() if isinstance(ids, pa.ChunkedArray) else ids.to_numpy(zero_copy_only=False)
        first, second = (hash_array(values, hash_key=key, categorize=False) for key in _KEYS)
        order = np.argsort(first, kind="stable")
        if (first[order][1:] == first[order][:-1]).any():
            order = np.lexsort((second, first))
        first, second = first[order], second[order]
        new = np.ones(len(order), bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        for older in self._runs:
            new &= ~_contained(first, second, older)
        mask = np.zeros(len(values), bool)
        mask[order[new]] = True
        return mask, (first[new], second[new])

    def add(self, hashes: Hashes) -> None:
        """Remember the hashes that `unseen` gave."""
        if len(hashes[0]):
            self._runs.append(hashes)
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) > len(self._runs[-2][0]):
            self._runs[-2:] = [_merged(self._runs[-2:])]


def _merged(runs: list[Hashes]) -> Hashes:
    first, second = (np.concatenate(halves) for halves in zip(*runs, strict=True))
    order = np.argsort(first, kind="stable")  # timsort: linear on runs that are sorted already
    return first[order], second[order]


def _contained(first: np.ndarray, second: np.ndarray, run: Hashes) -> np.ndarray:
    at = np.searchsorted(run[0], first)
    found = np.zeros(len(first), bool)
    open_ = np.arange(len(first))
    while len(open_):  # more than one step only where first halves of hashes are equal
        open_ = open_[at[open_] < len(run[0])]
        open_ = open_[run[0][at[open_]] == first[open_]]
        hit = run[1][at[open_]] == second[open_]
        found[open_[hit]] = True
        open_ = open_[~hit]
        at[open_] += 1
    return found
