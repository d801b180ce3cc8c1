"""A set of event ids in 16 bytes an id: 128-bit hashes in sorted runs, each at least twice as long as the next."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pandas.util import hash_array

_KEYS = ("crlhf_event_id_a", "crlhf_event_id_b")


class EventIds:
    """Grows only. Two different ids among 10^9 share a hash with probability 1.5e-21."""

    def __init__(self, hashes: np.ndarray | None = None):
        self._runs: list[np.ndarray] = []
        if hashes is not None and len(hashes):
            self._runs = [np.asarray(hashes, np.uint64)]

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def hashes(self) -> np.ndarray:
        """All hashes [n, 2], sorted."""
        return _merged(self._runs) if self._runs else np.empty((0, 2), np.uint64)

    def unseen(self, ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """``(mask of those that are new, their hashes)``; of equal ids inside the batch the first is new.

        Nothing is remembered before `add`, so that a write that fails in between can be tried again.
        """
        values = ids.to_numpy() if isinstance(ids, pa.ChunkedArray) else ids.to_numpy(zero_copy_only=False)
        hashed = np.stack([hash_array(values, hash_key=key, categorize=False) for key in _KEYS], axis=1)
        order = np.lexsort((hashed[:, 1], hashed[:, 0]))
        run = hashed[order]
        new = np.append(True, (run[1:] != run[:-1]).any(axis=1)) if len(run) else np.empty(0, bool)
        for older in self._runs:
            new &= ~_contained(run, older)
        mask = np.zeros(len(values), bool)
        mask[order[new]] = True
        return mask, run[new]

    def add(self, hashes: np.ndarray) -> None:
        """Remember the hashes that `unseen` gave."""
        if len(hashes):
            self._runs.append(hashes)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            self._runs[-2:] = [_merged(self._runs[-2:])]


def _merged(runs: list[np.ndarray]) -> np.ndarray:
    together = np.concatenate(runs)
    return together[np.lexsort((together[:, 1], together[:, 0]))]


def _contained(wanted: np.ndarray, run: np.ndarray) -> np.ndarray:
    at = np.searchsorted(run[:, 0], wanted[:, 0])
    found = np.zeros(len(wanted), bool)
    open_ = np.arange(len(wanted))
    while len(open_):  # more than one step only where first halves of hashes are equal
        open_ = open_[at[open_] < len(run)]
        open_ = open_[run[at[open_], 0] == wanted[open_, 0]]
        hit = run[at[open_], 1] == wanted[open_, 1]
        found[open_[hit]] = True
        open_ = open_[~hit]
        at[open_] += 1
    return found
