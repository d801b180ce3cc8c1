"""Reading crowd labels from files, row by row accountable: every row is used, or in the report with its remedy."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crlhf_ray.errors import DataError

CHUNK_ROWS = 1_000_000
#: No row is longer than this, in bytes: what is longer is another kind of file, and would fill the memory.
LONGEST_ROW = 1 << 20
SUFFIXES = (".csv", ".parquet", ".jsonl")
_REQUIRED = ("task", "worker", "label")


@dataclass(frozen=True)
class Rejection:
    """One row that could not be used. row: 1-based, the header of a CSV not counted."""

    file: str
    row: int
    field: str
    problem: str
    remedy: str


@dataclass
class RejectionReport:
    """How many rows were read, used, left out and why; the first ``keep`` rows of each reason in full."""

    keep: int = 1000
    read: int = 0
    used: int = 0
    abstained: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[Rejection] = field(default_factory=list)

    def add(self, file: str, rows: np.ndarray, field_name: str, problems: Sequence[str] | str, remedy: str) -> None:
        """Count these rows (1-based) and keep the first of them."""
        if not len(rows):
            return
        reason = f"{field_name}: {remedy}"
        room = max(self.keep - self.counts[reason], 0)
        self.counts[reason] += len(rows)
        for i, row in enumerate(rows[:room]):
            problem = problems if isinstance(problems, str) else problems[i]
            self.rows.append(Rejection(file, int(row), field_name, problem, remedy))

    def merge(self, other: RejectionReport) -> None:
        """Take over another report's counts and rows."""
        self.read += other.read
        self.used += other.used
        self.abstained += other.abstained
        self.counts += other.counts
        self.rows += other.rows

    @property
    def rejected(self) -> int:
        """Rows left out."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        text = f"{self.read:,} rows read, {self.used:,} used ({self.abstained:,} abstained), {self.rejected:,} rejected"
        return "\n".join([text, *(f"  {count:,} x {reason}" for reason, count in self.counts.most_common())])

    def write(self, path: Path) -> None:
        """One JSON object a line: first the totals, then the rows."""
        with path.open("w") as out:
            totals = {"read": self.read, "used": self.used, "abstained": self.abstained, "rejected": self.rejected}
            out.write(json.dumps(totals | {"reasons": dict(self.counts)}) + "\n")
            for row in self.rows:
                out.write(json.dumps(row.__dict__) + "\n")


def read_chunks(path: Path, report: RejectionReport) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """``(chunk, 1-based row numbers)`` of a CSV, Parquet or JSONL file; unreadable rows go to the report.

    Raises `DataError` for a missing file or column, another suffix, or a file that is not what its suffix says.
    """
    if not path.exists():
        raise DataError("there is no such file", file=str(path))
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise DataError(f"its suffix is none of {', '.join(SUFFIXES)}; rename or convert it", file=str(path))
    try:
        for chunk, rows in readers[path.suffix](path, report):
            for name in ("task", "label"):
                if name not in chunk.columns:
                    has = ", ".join(map(str, chunk.columns[:20])) or "none"
                    raise DataError(
                        f"it has no column {name!r} (its columns: {has}); rename the one meant", file=str(path)
                    )
            yield chunk, rows
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise DataError(f"is no {path.suffix[1:]} file that can be read: {error}", file=str(path)) from error


def _read_csv(path: Path, report: RejectionReport) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        broken.append((row.number - 1, f"has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    with path.open("rb") as file:
        head = file.read(LONGEST_ROW)
    if len(head) == LONGEST_ROW and b"\n" not in head:
        raise DataError(f"is no CSV file: its first line is longer than {LONGEST_ROW:,} bytes", file=str(path))
    names = pd.read_csv(io.BytesIO(head), nrows=0).columns
    reader = pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=16 << 20),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            include_columns=[n for n in (*_REQUIRED, "weight") if n in names],
            strings_can_be_null=True,
        ),
    )
    seen = 0
    for batch in reader:
        # Rows skipped inside this block shift the numbers of those behind them.
        count = batch.num_rows + len(broken)
        numbers = np.setdiff1d(np.arange(seen + 1, seen + count + 1), [row for row, _ in broken])[: batch.num_rows]
        report.read += count
        report.add(str(path), np.array([r for r, _ in broken]), "row", [p for _, p in broken], "mend the line")
        seen += count
        broken.clear()
        yield batch.to_pandas(), numbers


def _read_parquet(path: Path, report: RejectionReport) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from read_row_group(path, file, group, report)


def read_row_group(
    path: Path, file: pq.ParquetFile, group: int, report: RejectionReport
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """The chunks of one row group with their row numbers in the file."""
    names = [n for n in (*_REQUIRED, "weight") if n in file.schema_arrow.names]
    start = sum(file.metadata.row_group(g).num_rows for g in range(group))
    for batch in file.iter_batches(CHUNK_ROWS, row_groups=[group], columns=names):
        report.read += batch.num_rows
        yield batch.to_pandas(), np.arange(start + 1, start + batch.num_rows + 1)
        start += batch.num_rows


def _read_jsonl(path: Path, report: RejectionReport) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW), b""), 1):
            if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
                raise DataError(f"is longer than {LONGEST_ROW:,} bytes: no JSON Lines", file=str(path), row=number)
            report.read += 1
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                report.add(str(path), np.array([number]), "row", f"is no JSON: {error}", "mend the line")
                continue
            if not isinstance(record, dict) or "label" not in record or "task" not in record:
                problem = f"has {sorted(record)}" if isinstance(record, dict) else "is no JSON object"
                report.add(str(path), np.array([number]), "row", problem, "give an object with task, worker and label")
                continue
            records.append({name: record.get(name) for name in (*_REQUIRED, "weight") if name in record})
            rows.append(number)
            if len(rows) == CHUNK_ROWS:
                yield pd.DataFrame.from_records(records), np.array(rows)
                records, rows = [], []
    if rows or not report.read:
        yield pd.DataFrame.from_records(records, columns=None if records else _REQUIRED), np.array(rows, np.int64)


def clean(
    chunk: pd.DataFrame, rows: np.ndarray, file: str, report: RejectionReport, *, gold: bool = False
) -> pd.DataFrame:
    """The usable rows: task and worker as strings, label as number or string (null: abstained), weight, row."""
    if not gold and "worker" not in chunk.columns:
        has = ", ".join(map(str, chunk.columns))
        raise DataError(f"it has no column 'worker' (its columns: {has}); rename the one meant", file=file)
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
    weight = pd.Series(np.ones(len(chunk)))
    if "weight" in chunk.columns:
        weight = pd.to_numeric(chunk["weight"], errors="coerce")
        bad = ~((weight >= 0) & (weight <= 1)).to_numpy() & good
        report.add(file, rows[bad], "weight", chunk["weight"][bad].astype(str).tolist(), "give a number from 0 to 1")
        good &= ~bad
    table = pd.DataFrame({"task": _strings(chunk["task"])})
    if not gold:
        table["worker"] = _strings(chunk["worker"])
    return table.assign(label=label, weight=weight.to_numpy(), row=rows, file=file)[good]


def _strings(values: pd.Series) -> pd.Series:
    if pd.api.types.is_integer_dtype(values):
        return values.astype(str).astype(object)
    return values.map(lambda v: v if isinstance(v, str) else str(v), na_action="ignore").astype(object)


def _numbers_where_they_are(labels: pd.Series) -> np.ndarray:
    """Labels as Python values: integers where they are whole numbers, also in text; nulls and NaN as None."""
    local, names = pd.factorize(labels, use_na_sentinel=True)
    values = np.empty(len(names) + 1, object)
    for i, name in enumerate(names):
        value: Any = name
        if isinstance(name, str):
            try:
                value = float(name)
            except ValueError:
                value = name
        if isinstance(value, (bool, np.bool_)):
            value = int(value)
        if isinstance(value, (float, np.floating)):
            value = None if np.isnan(value) else int(value) if float(value).is_integer() else float(value)
        values[i] = int(value) if isinstance(value, np.integer) else value
    values[len(names)] = None
    return values[local]
