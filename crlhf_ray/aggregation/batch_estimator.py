"""Estimators that hold all votes and learn from all of them at once: reading, superseding, gold, save and load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from crlhf_ray.aggregation.base import Estimator, Gold, read_estimator, unchanged_if_refused, write_estimator
from crlhf_ray.aggregation.encoding import (
    Codebook,
    Table,
    class_codes,
    coded_rows,
    column,
    infer_classes,
    read_truth,
    refuse_empty,
)
from crlhf_ray.errors import DataError


class HeldVotesEstimator(Estimator):
    """Keeps votes and gold as codes and calls `_run` after every change."""

    def __init__(self, classes: tuple[Hashable, ...] | None = None):
        self.classes = classes
        self._reset()

    @abstractmethod
    def _run(self) -> None:
        """Learn from everything held."""

    def _reset(self) -> None:
        self.classes_: tuple[Hashable, ...] | None = self.classes
        self.task_book_, self.worker_book_ = Codebook(), Codebook()
        self._rows = np.empty((0, 3), np.int64)  # task, worker, class
        self._weight, self._time = np.empty(0), np.empty(0, np.int64)
        self._gold = np.empty(0, np.int64)
        self.second_votes_ = 0

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(self, data: Table, true_labels: Gold | None = None) -> Self:
        """Learn from this table alone; row order is nothing. Raises `DataError` without a label."""
        refuse_empty(data)
        with unchanged_if_refused(self):
            self._reset()
            return self.partial_fit(data, true_labels)

    def partial_fit(self, batch: Table, true_labels: Gold | None = None) -> Self:
        """Add votes or gold and learn again from everything held; costs as much as `fit` on all of it.

        A worker's vote on a task supersedes that of an earlier batch, unless its time is earlier. A refused batch
        changes nothing.
        """
        with unchanged_if_refused(self):
            self._take(batch, true_labels)
            self._run()
        return self

    def _take(self, batch: Table, true_labels: Gold | None) -> None:
        codes, names = class_codes(column(batch, "label"))
        if not names and self.classes_ is None:
            refuse_empty(batch)
        truth_names = [] if true_labels is None else pd.unique(np.asarray(_labels_of(true_labels))).tolist()
        self._learn_classes([*names, *truth_names])
        assert self.classes_ is not None
        rows, weight, time, kept = coded_rows(batch, self.task_book_, self.worker_book_)
        self.second_votes_ += len(codes) - len(rows)
        label = _lookup(names, self.classes_)[codes][kept]
        may_repeat = len(self._rows) > 0
        self._rows = np.concatenate([self._rows, np.column_stack([rows, label])])
        self._weight, self._time = np.concatenate([self._weight, weight]), np.concatenate([self._time, time])
        if may_repeat:
            self._supersede()
        gold_codes, gold = read_truth(true_labels, self.task_book_, self.classes_)
        clamped = np.full(len(self.task_book_), -1)
        clamped[: len(self._gold)] = self._gold
        if (clash := (clamped[gold_codes] >= 0) & (clamped[gold_codes] != gold)).any():
            name = self.task_book_.names[gold_codes[np.argmax(clash)]]
            raise DataError(f"task {name!r} was given another truth before; keep the right one", field="label")
        clamped[gold_codes] = gold
        self._gold = clamped

    def _learn_classes(self, seen: list[Hashable]) -> None:
        if self.classes_ is None:
            found = pd.unique(np.array(seen, dtype=object)).tolist()
            numeric = {float(x) for x in found if isinstance(x, (int, float))}
            two = len(found) <= 2 or (len(numeric) == len(found) and numeric <= {-1.0, 0.0, 1.0})
            self.classes_ = infer_classes(found) if two and found else tuple(sorted(found, key=_sort_key))

    def _supersede(self) -> None:
        order = np.lexsort((np.arange(len(self._rows)), self._time, self._rows[:, 1], self._rows[:, 0]))
        rows = self._rows[order]
        last = np.append((rows[1:, :2] != rows[:-1, :2]).any(axis=1), True)
        self._rows, self._weight, self._time = rows[last], self._weight[order][last], self._time[order][last]

    @property
    def _n_classes(self) -> int:
        assert self.classes_ is not None, "fit first"
        return len(self.classes_)

    @property
    def tasks_(self) -> list[Hashable]:
        """All tasks seen, in order of first appearance."""
        return list(self.task_book_.names)

    def _known_workers(self, workers: Iterable[Hashable] | None) -> tuple[list[Hashable], np.ndarray]:
        names = list(self.worker_book_.names if workers is None else workers)
        codes = self.worker_book_.encode(names, grow=False) if names else np.empty(0, np.int64)
        if (codes < 0).any():
            raise DataError(f"worker {names[int(np.argmax(codes < 0))]!r} was never seen", field="worker")
        return names, codes

    def _label_counts(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        votes, size = self._rows[self._rows[:, 2] >= 0], len(self.worker_book_)
        on_gold = self._gold[votes[:, 0]] >= 0
        return {
            "labels": np.bincount(votes[:, 1], minlength=size)[codes],
            "gold_labels": np.bincount(votes[on_gold, 1], minlength=size)[codes],
        }

    # -- keeping -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write settings and votes to one .npz file; `load` learns from them again, to the same answers."""
        write_estimator(self, path, {name: getattr(self, f"_{name}") for name in ("rows", "weight", "time", "gold")})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `DataError` where the file holds another estimator."""
        estimator, arrays = read_estimator(cls, path)
        for name in ("rows", "weight", "time", "gold"):
            setattr(estimator, f"_{name}", arrays[name])
        estimator._run()
        return estimator


def _labels_of(gold: Gold) -> Any:
    return gold.to_numpy() if isinstance(gold, pd.Series) else column(gold, "label")


def _lookup(names: list[Hashable], classes: tuple[Hashable, ...]) -> np.ndarray:
    """Class position of each distinct label; the extra last entry, reached by code -1, is an abstention."""
    place = {name: i for i, name in enumerate(classes)}
    found = np.full(len(names) + 1, -1, np.int64)
    for i, name in enumerate(names):
        if name not in place and not (classes == (-1, 1) and name == 0):
            raise DataError(
                f"{name!r} is none of the classes {classes}; correct it, make it null if the worker abstained, or "
                "give classes=(...)",
                field="label",
            )
        found[i] = place.get(name, -1)
    return found


def _sort_key(value: Hashable) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))
