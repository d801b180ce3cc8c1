"""Names to integer codes, and label tables to coded votes. Everything behind this file works on integers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from crlhf_ray.aggregation.rejections import seconds
from crlhf_ray.errors import DataError

Table: TypeAlias = pd.DataFrame | pa.Table
Classes: TypeAlias = tuple[Hashable, Hashable]
#: As microseconds they still fit 64 bits: 285,000 years.
MOST_SECONDS = 9e12


class Codebook:
    """Assigns 0, 1, 2, ... to names in order of first appearance, and keeps the assignment."""

    def __init__(self, names: Iterable[Hashable] = ()):
        self.names: list[Hashable] = list(names)
        self._code = {name: code for code, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, values: Any, *, grow: bool = True) -> np.ndarray:
        """Codes (int64) of ``values``; unknown names get a new code, or -1 where ``grow`` is False."""
        local, names = distinct(values)
        codes = np.fromiter(map(self._code.get, names, repeat(-1)), np.int64, len(names))
        if grow and (missing := np.flatnonzero(codes < 0)).size:
            fresh = [names[i] for i in missing]
            codes[missing] = np.arange(len(self.names), len(self.names) + len(fresh))
            self._code.update(zip(fresh, range(len(self.names), len(self.names) + len(fresh)), strict=True))
            self.names += fresh
        return codes[local]

    def forget_from(self, size: int) -> None:
        """Only the first ``size`` names stay known."""
        for name in self.names[size:]:
            self._code.pop(name, None)
        del self.names[size:]


def distinct(values: Any) -> tuple[np.ndarray, list[Hashable]]:
    """``(positions, names)`` such that ``names[positions[i]]`` is ``values[i]``; no nulls allowed inside."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        coded = values.dictionary_encode() if not isinstance(values, pa.DictionaryArray) else values
        return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()
    if isinstance(values, list):  # as an array of text they would all be as long as the longest, less its last NULs
        values = pd.Series(values, dtype=object)
    local, names = pd.factorize(np.asarray(values))
    return local.astype(np.int64), names.tolist()


@dataclass(frozen=True)
class Votes:
    """Coded votes, arrays of one length n.

    task, worker: int64 codes. label: int8, +1 positive class, -1 negative class, 0 abstained.
    weight: float64 in [0, 1], how much the vote counts. time: int64 microseconds, later supersedes earlier (0 where not
    given).
    """

    task: np.ndarray
    worker: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: np.ndarray) -> Votes:
        """The votes at ``rows`` (positions or a mask)."""
        return Votes(self.task[rows], self.worker[rows], self.label[rows], self.weight[rows], self.time[rows])


def column(table: Table, name: str, *, file: str | None = None) -> Any:
    """One column as an Arrow array or a numpy array; a missing one is a `DataError` that lists what is there."""
    names = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    if name not in names:
        raise DataError(
            f"the table has no column {name!r}; it has {', '.join(map(str, names)) or 'none'}. "
            "Wanted: task, worker, label (and, if you have them, weight and time)",
            file=file,
            field=name,
        )
    return table.column(name) if isinstance(table, pa.Table) else table[name].to_numpy()


def has_column(table: Table, name: str) -> bool:
    """Whether the table has this column."""
    return name in (table.column_names if isinstance(table, pa.Table) else table.columns)


def refuse_nulls(values: Any, name: str) -> None:
    """Raise `DataError` naming the first row whose value is missing."""
    missing = (
        values.is_null().to_numpy(zero_copy_only=False)
        if isinstance(values, pa.Array)
        else values.is_null().to_numpy()
        if isinstance(values, pa.ChunkedArray)
        else pd.isna(values)
    )
    if missing.any():
        raise DataError("is missing; fill it in or drop the row", row=int(np.argmax(missing)), field=name)


def refuse_empty(table: Table) -> None:
    """Raise `DataError` where the table has no row, or no label in any."""
    labels = column(table, "label")
    if not len(labels):
        raise DataError("the table has no rows; give one for each vote, with task, worker and label")
    if pd.isna(_series(labels)).all():
        raise DataError(f"is missing in all {len(labels):,} rows: everybody abstained; give some labels", field="label")


def infer_classes(labels: Sequence[Hashable]) -> Classes:
    """``(negative, positive)`` from the labels seen, each once or often (nulls are abstentions and not among them).

    0/1 and -1/+1 are recognised even when only one of them occurs; with -1, 0 and +1 together 0 is "unsure".
    Any other pair is taken in sorted order. More than two classes, or one of unknown meaning, is a `DataError`.
    """
    seen = {float(x) if isinstance(x, (int, float, np.number, bool)) else x for x in labels}
    if seen <= {0.0, 1.0} and seen != {0.0}:
        return (0, 1)
    if seen <= {-1.0, 0.0, 1.0} and -1.0 in seen:
        return (-1, 1)
    if seen == {0.0}:
        return (0, 1)
    if len(seen) == 2:
        first, second = sorted(set(labels), key=str)
        return (first, second)
    raise DataError(
        f"the labels are {sorted(map(str, seen))[:10]}, and this estimator is for two classes; "
        "give classes=(negative, positive), mark abstentions as null, or use DawidSkene for more classes",
        field="label",
    )


def signs(labels: Any, classes: Classes | None) -> tuple[np.ndarray, Classes]:
    """``(int8 array of +1, -1, 0, classes)``. Null is 0 (abstained); so is 0 when the classes are -1 and +1."""
    local, names = class_codes(labels)
    negative, positive = classes or infer_classes(names)
    value = np.zeros(len(names) + 1, np.int8)
    for i, name in enumerate(names):
        if name == positive:
            value[i] = 1
        elif name == negative:
            value[i] = -1
        elif not ((negative, positive) == (-1, 1) and name == 0):
            raise DataError(
                f"{name!r} is neither {negative!r} (negative) nor {positive!r} (positive); "
                "correct it, make it null if the worker abstained, or give classes=(negative, positive)",
                row=int(np.argmax(local == i)),
                field="label",
            )
    return value[local], (negative, positive)


def class_codes(labels: Any) -> tuple[np.ndarray, list[Hashable]]:
    """``(codes, distinct labels)``; a null, that is an abstention, has code -1."""
    if isinstance(labels, (pa.Array, pa.ChunkedArray)):
        labels = labels.to_pandas()
    local, names = pd.factorize(np.asarray(labels), use_na_sentinel=True)
    return local, names.tolist()


def read_votes(
    table: Table, tasks: Codebook, workers: Codebook, classes: Classes | None = None
) -> tuple[Votes, Classes]:
    """Code a long table with columns task, worker, label and optionally weight (0 to 1) and time.

    Of one worker's votes on a task the latest stands, the first of those of one time or none. Raises `DataError` for a
    missing column or value, a label outside the classes, and a weight outside [0, 1].
    """
    label, found = signs(column(table, "label"), classes)
    rows, weight, time, kept = coded_rows(table, tasks, workers)
    return Votes(rows[:, 0], rows[:, 1], label[kept], weight, time), found


def coded_rows(
    table: Table, tasks: Codebook, workers: Codebook
) -> tuple[np.ndarray, np.ndarray, np.ndarray, slice | np.ndarray]:
    """``(task and worker codes [n, 2], weight, time, rows)`` of the votes that stand; raises as `read_votes` does."""
    task_values, worker_values = column(table, "task"), column(table, "worker")
    for values, name in ((task_values, "task"), (worker_values, "worker")):
        refuse_nulls(values, name)
    weight = np.ones(len(task_values))
    if has_column(table, "weight"):
        given = _series(column(table, "weight"))
        weight = pd.to_numeric(given, errors="coerce").to_numpy(float)
        bad = ~((weight >= 0) & (weight <= 1))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{given[row]} is not a number from 0 to 1", row=row, field="weight")
    time = np.zeros(len(weight), np.int64)
    if has_column(table, "time"):
        refuse_nulls(column(table, "time"), "time")
        time = microseconds(_series(column(table, "time")))
    task, worker = tasks.encode(task_values), workers.encode(worker_values)
    kept = _standing(task * len(workers) + worker, time)
    return np.column_stack([task, worker])[kept], weight[kept], time[kept], kept


def _standing(key: np.ndarray, time: np.ndarray) -> slice | np.ndarray:
    """Of the rows of each key the latest, and the first of those of one time."""
    ordered = np.sort(key)
    if not (ordered[1:] == ordered[:-1]).any():
        return slice(None)
    order = np.lexsort((-np.arange(len(key)), time, key))
    last = np.append(key[order][1:] != key[order][:-1], True)
    return np.sort(order[last])


def microseconds(times: pd.Series) -> np.ndarray:
    """Numbers of seconds, or dates, as whole microseconds. Raises `DataError` naming the first row that is neither."""
    found = seconds(times)
    bad = ~(np.abs(found) < MOST_SECONDS)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{times[row]} is not a time; give a number of seconds, or a date such as 2026-01-31 12:00:00",
            row=row,
            field="time",
        )
    return np.rint(found * 1e6).astype(np.int64)


def _series(values: Any) -> pd.Series:
    return values.to_pandas() if isinstance(values, (pa.Array, pa.ChunkedArray)) else pd.Series(values)


def read_gold(gold: Any, tasks: Codebook, classes: Classes | None = None) -> tuple[np.ndarray, np.ndarray]:
    """``(task codes, truths as +1/-1)`` from a Series indexed by task, or a table with columns task and label.

    Raises `DataError` where a task has two different truths, or a truth is missing.
    """
    if gold is None or not len(gold):
        return np.empty(0, np.int64), np.empty(0, np.int8)
    values, labels = _gold_columns(gold)
    truth, _ = signs(labels, classes)
    if (truth == 0).any():
        raise DataError("gold must be sure", row=int(np.argmax(truth == 0)), field="label")
    return _consistent(_gold_codes(values, tasks), truth, tasks), truth


def read_truth(gold: Any, tasks: Codebook, classes: tuple[Hashable, ...]) -> tuple[np.ndarray, np.ndarray]:
    """As `read_gold`, for any number of classes: truths are positions in ``classes``."""
    if gold is None or not len(gold):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    values, labels = _gold_columns(gold)
    local, names = class_codes(labels)
    place = {name: i for i, name in enumerate(classes)}
    for i, name in enumerate(names):
        if name not in place:
            raise DataError(f"{name!r} is none of the classes {classes}", row=int(np.argmax(local == i)), field="label")
    truth = np.array([place[name] for name in names], np.int64)[local]
    return _consistent(_gold_codes(values, tasks), truth, tasks), truth


def _gold_columns(gold: Any) -> tuple[Any, Any]:
    if isinstance(gold, pd.Series):
        values, labels = gold.index.to_numpy(), gold.to_numpy()
    else:
        values, labels = column(gold, "task"), column(gold, "label")
    refuse_nulls(values, "task")
    refuse_nulls(labels, "label")
    return values, labels


def _gold_codes(values: Any, tasks: Codebook) -> np.ndarray:
    """Codes of the gold tasks. Raises `DataError` for one that the votes know, as another type."""
    local, names = distinct(values)
    for i in np.flatnonzero(tasks.encode(names, grow=False) < 0):
        name = names[i]
        if isinstance(name, str):
            twins: list[Any] = [int(name)] if name.isdecimal() else []
        else:
            twins = [str(name), str(int(name))] if isinstance(name, float) and name.is_integer() else [str(name)]
        for twin in twins:
            if tasks.encode([twin], grow=False)[0] >= 0:
                raise DataError(
                    f"gold is for task {name!r} ({type(name).__name__}), the votes are on task {twin!r} "
                    f"({type(twin).__name__}): give both in one type, such as with .astype(str)",
                    row=int(np.argmax(local == i)),
                    field="task",
                )
    return tasks.encode(values)


def _consistent(codes: np.ndarray, truth: np.ndarray, tasks: Codebook) -> np.ndarray:
    order = np.argsort(codes, kind="stable")
    clash = (codes[order][1:] == codes[order][:-1]) & (truth[order][1:] != truth[order][:-1])
    if clash.any():
        first = int(np.argmax(clash))
        raise DataError(
            f"gold contradicts itself: task {tasks.names[codes[order[first]]]!r} has one truth in row {order[first]} "
            f"and the other in row {order[first + 1]}; keep the right one",
            row=int(order[first + 1]),
            field="label",
        )
    return codes
