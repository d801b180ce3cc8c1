"""Rows read from vote files, every one accounted for: it is used, or in the report with its remedy."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Rejection:
    """One row that could not be used. row: 1-based, the header of a CSV not counted."""

    file: str
    row: int
    field: str
    problem: str
    remedy: str


@dataclass
class RowReport:
    """How many rows were read, used, left out and why; the first ``keep`` rows of each reason in full.

    read is always used + rejected. notes: what else the reader should know of the files. doubtful: tasks of rows left
    out, which may have no vote left.
    """

    keep: int = 1000
    read: int = 0
    used: int = 0
    abstained: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)

    def add(self, file: str, rows: np.ndarray, field_name: str, problems: Sequence[str] | str, remedy: str) -> None:
        """Count these rows (1-based) and keep the first of them."""
        if not len(rows):
            return
        reason = f"{field_name}: {remedy}"
        room = max(self.keep - self.counts[reason], 0)
        self.counts[reason] += len(rows)
        for i, row in enumerate(rows[:room]):
            problem = problems if isinstance(problems, str) else str(problems[i])
            self.rows.append(Rejection(file, int(row), field_name, problem, remedy))

    def lost(self, used: pd.Series) -> None:
        """Note the tasks whose rows were all left out; ``used``: the tasks of the rows that were not."""
        if gone := sorted(self.doubtful.difference(used)):
            more = ", ..." if len(gone) > 5 else ""
            self.notes.append(
                f"{len(gone):,} tasks have no usable vote and are not in the consensus: {', '.join(gone[:5])}{more}"
            )

    def merge(self, other: RowReport) -> None:
        """Take over another report's counts, rows and notes."""
        self.read += other.read
        self.used += other.used
        self.abstained += other.abstained
        self.counts += other.counts
        self.rows += other.rows
        self.notes += [note for note in other.notes if note not in self.notes]

    @property
    def rejected(self) -> int:
        """Rows left out."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        text = f"{self.read:,} rows read, {self.used:,} used ({self.abstained:,} abstained), {self.rejected:,} rejected"
        reasons = (f"  {count:,} x {reason}" for reason, count in self.counts.most_common())
        return "\n".join([text, *reasons, *self.notes])

    def write(self, path: Path) -> None:
        """One JSON object a line: first the totals, then the rows."""
        with path.open("w", encoding="utf-8") as out:
            totals = {"read": self.read, "used": self.used, "abstained": self.abstained, "rejected": self.rejected}
            out.write(json.dumps(totals | {"reasons": dict(self.counts), "notes": self.notes}) + "\n")
            for row in self.rows:
                out.write(json.dumps(row.__dict__, allow_nan=False) + "\n")


def clean(chunk: pd.DataFrame, rows: np.ndarray, file: str, report: RowReport, *, gold: bool = False) -> pd.DataFrame:
    """The usable rows: task and worker as strings, label as number or string (null: abstained), weight, time, row.

    Without a weight a vote counts in full; a time (nan where there is none) is needed only where a worker votes twice.
    """
    good = np.ones(len(chunk), bool)
    for name in ("task",) if gold else ("task", "worker"):
        missing = chunk[name].isna().to_numpy() & good
        report.add(file, rows[missing], name, "is missing", "fill it in or drop the row")
        good &= ~missing
    label = _numbers_where_they_are(chunk["label"])
    if gold:
        missing = pd.isna(label) & good
        report.add(file, rows[missing], "label", "is missing", "gold must be sure: fill it in or drop the row")
        good &= ~missing
    weight, time = np.ones(len(chunk)), np.full(len(chunk), np.nan)
    if "weight" in chunk.columns:
        given = chunk["weight"].notna().to_numpy()
        weight = np.where(given, _decimals(chunk["weight"]), 1.0)
        bad = ~((weight >= 0) & (weight <= 1)) & good
        report.add(file, rows[bad], "weight", chunk["weight"][bad].tolist(), "give a number from 0 to 1")
        good &= ~bad
    if "time" in chunk.columns:
        time = seconds(chunk["time"])
        bad = np.isnan(time) & chunk["time"].notna().to_numpy() & good
        remedy = "give a number or a date such as 2026-01-31 12:00:00"
        report.add(file, rows[bad], "time", chunk["time"][bad].tolist(), remedy)
        good &= ~bad
    table = pd.DataFrame({"task": _strings(chunk["task"])})
    if not gold:
        table["worker"] = _strings(chunk["worker"])
    report.doubtful.update(table["task"][~good].dropna())
    return table.assign(label=label, weight=weight, time=time, row=rows, file=file)[good]


def _decimals(values: pd.Series) -> np.ndarray:
    """Numbers, also with a decimal comma; nan where it is none."""
    if not pd.api.types.is_numeric_dtype(values):
        values = values.map(lambda v: v.replace(",", ".") if isinstance(v, str) else v)
    return pd.to_numeric(values, errors="coerce").to_numpy(float)


def _strings(values: pd.Series) -> pd.Series:
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    if pd.api.types.is_integer_dtype(values):
        return values.astype(str).astype(object)
    return values.map(_text, na_action="ignore").astype(object)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else str(value)


def seconds(times: pd.Series) -> np.ndarray:
    """Numbers as they are, dates as seconds since 1970; nan where it is neither or infinite."""
    numbers = np.full(len(times), np.nan)
    if not pd.api.types.is_datetime64_any_dtype(times):
        numbers = pd.to_numeric(times, errors="coerce").to_numpy(float)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        if not np.isnan(numbers).any() or pd.api.types.is_numeric_dtype(times):
            return numbers
        times = pd.to_datetime(times, errors="coerce", format="ISO8601", utc=True)
    times = times if times.dt.tz is None else times.dt.tz_convert("UTC").dt.tz_localize(None)
    micros = times.to_numpy().astype("datetime64[us]")  # nanoseconds end in 2262
    dates = np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
    return np.where(np.isnan(numbers), dates, numbers)


def label_value(label: Any) -> Any:
    """A label as a Python value: an integer where it is a whole number, also in text; true is 1; null is None."""
    if isinstance(label, bytes):
        label = label.decode()
    if isinstance(label, str):
        label = label.strip()
        try:
            number = {"true": 1.0, "false": 0.0}.get(label.lower())
            number = float(label) if number is None else number
        except ValueError:
            return label or None
        if not np.isfinite(number):  # "nan" is a name; only an empty field is missing
            return label
    else:
        try:
            number = float(label)
        except (TypeError, ValueError):
            return str(label)
    return None if np.isnan(number) else int(number) if number.is_integer() else number


_WHOLE = re.compile(r"-?\d+(\.0+)?")


def whole_ids(tables: list[pd.DataFrame], column: str, file: str, report: RowReport) -> None:
    """In place: ids that are all whole numbers, some of them written as 1.0, become 1, as in other files."""
    names = {name for table in tables for name in table[column].unique()}
    if not any(name.endswith("0") and "." in name for name in names) or not all(map(_WHOLE.fullmatch, names)):
        return
    for table in tables:
        table[column] = table[column].map({name: name.partition(".")[0] for name in names})
    report.notes.append(f"{file}: the numbers in {column} are whole; 1.0 is read as 1")


def _numbers_where_they_are(labels: pd.Series) -> np.ndarray:
    """`label_value` of each label."""
    local, names = pd.factorize(labels, use_na_sentinel=True)
    values = np.empty(len(names) + 1, object)
    for i, name in enumerate(names):
        values[i] = label_value(name)
    return values[local]
