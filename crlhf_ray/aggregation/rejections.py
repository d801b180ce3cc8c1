"""Reading crowd labels from files, row by row accountable: every row is used, or in the report with its remedy."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crlhf_ray.errors import DataError

CHUNK_ROWS = 1_000_000
#: No row is longer than this, in bytes: what is longer is another kind of file, and would fill the memory.
LONGEST_ROW = 1 << 20
SUFFIXES = (".csv", ".parquet", ".jsonl")
_REQUIRED = ("task", "worker", "label")
_OPTIONAL = ("weight", "time")


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
    """How many rows were read, used, left out and why; the first ``keep`` rows of each reason in full.

    read is always used + rejected. notes: what else the reader should know of the files.
    """

    keep: int = 1000
    read: int = 0
    used: int = 0
    abstained: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
        reasons = (f"  {count:,} x {reason}" for reason, count in self.counts.most_common())
        return "\n".join([text, *reasons, *self.notes])

    def write(self, path: Path) -> None:
        """One JSON object a line: first the totals, then the rows."""
        with path.open("w") as out:
            totals = {"read": self.read, "used": self.used, "abstained": self.abstained, "rejected": self.rejected}
            out.write(json.dumps(totals | {"reasons": dict(self.counts), "notes": self.notes}) + "\n")
            for row in self.rows:
                out.write(json.dumps(row.__dict__) + "\n")


def read_chunks(
    path: Path, report: RejectionReport, *, gold: bool = False
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """``(chunk, 1-based row numbers)`` of a CSV, Parquet or JSONL file; unreadable rows go to the report.

    gold: a file without workers. Raises `DataError` for a missing file or column, another suffix, an empty file, or one
    that is not what its suffix says.
    """
    if not path.exists():
        raise DataError("there is no such file", file=str(path))
    refuse_folder(path)
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise DataError(f"its suffix is none of {', '.join(SUFFIXES)}; rename or convert it", file=str(path))
    try:
        yield from readers[path.suffix](path, report, gold)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        if path.suffix == ".csv" and (row := _first_not_utf8(path)) is not None:
            raise DataError("is no UTF-8 text; save the file as UTF-8", file=str(path), row=row) from error
        raise DataError(
            f"is no {path.suffix[1:]} file that can be read: {error}; write it anew", file=str(path)
        ) from error


def refuse_folder(path: Path) -> None:
    """`DataError` for a folder: `pyarrow` and `open` each fail in their own way."""
    if path.is_dir():
        raise DataError("is a folder; name the files in it", file=str(path))


def wanted_columns(names: Sequence[str], path: Path, *, gold: bool = False) -> list[str]:
    """Those of a file's columns that are read. `DataError` where a needed one is missing or any stands twice."""
    for name in ("task", "label") if gold else _REQUIRED:
        if name not in names:
            has = ", ".join(map(str, names[:20])) or "none"
            raise DataError(f"it has no column {name!r} (its columns: {has}); rename the one meant", file=str(path))
    wanted = [name for name in names if name in (*_REQUIRED, *_OPTIONAL)]
    for name in wanted:
        if wanted.count(name) > 1:
            raise DataError(f"it has several columns {name!r}; rename all but the one meant", file=str(path))
    return wanted


def _first_not_utf8(path: Path) -> int | None:
    """Row of the first line that is no UTF-8, the header being row 0."""
    with path.open("rb") as lines:
        for row, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW), b"")):
            try:
                line.decode()
            except UnicodeDecodeError:
                return row
    return None


def _read_csv(path: Path, report: RejectionReport, gold: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    broken: list[tuple[int, str]] = []
    unclosed: list[int] = []

    def skip(row: Any) -> str:
        if "\n" in row.text:
            unclosed.append(row.number - 1)
        broken.append((row.number - 1, f"has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    with path.open("rb") as file:
        head = file.read(LONGEST_ROW)
    if len(head) == LONGEST_ROW and b"\n" not in head:
        raise DataError(f"is no CSV file: its first line is longer than {LONGEST_ROW:,} bytes", file=str(path))
    header = head.decode("utf-8-sig", errors="replace" if len(head) == LONGEST_ROW else "strict").lstrip("\r\n")
    if not header:
        raise DataError("is empty; give a header line (task,worker,label) and a row a vote", file=str(path))
    wanted = wanted_columns(next(csv.reader(io.StringIO(header, newline=None))), path, gold=gold)
    reader = pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=16 << 20),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in wanted},
            include_columns=wanted,
            strings_can_be_null=True,
        ),
    )
    seen = 0
    for batch in reader:
        for column in batch.columns:
            if pc.any(pc.match_substring(column, "\n")).as_py():
                row = seen + 1 + int(np.argmax(pc.match_substring(column, "\n").fill_null(False)))
                unclosed.append(row)
        if unclosed:
            raise DataError('has a quote (") that its line does not close; close it', file=str(path), row=min(unclosed))
        # Rows skipped inside this block shift the numbers of those behind them.
        count = batch.num_rows + len(broken)
        numbers = np.setdiff1d(np.arange(seen + 1, seen + count + 1), [row for row, _ in broken])[: batch.num_rows]
        report.read += count
        report.add(str(path), np.array([r for r, _ in broken]), "row", [p for _, p in broken], "mend the line")
        seen += count
        broken.clear()
        yield batch.to_pandas(), numbers


def _read_parquet(path: Path, report: RejectionReport, gold: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from read_row_group(path, file, group, report, gold=gold)


def columns_of_parquet(file: pq.ParquetFile, path: Path, *, gold: bool = False) -> list[str]:
    """`wanted_columns`, each of them of plain values."""
    names = wanted_columns(file.schema_arrow.names, path, gold=gold)
    for name in names:
        if pa.types.is_nested(kind := file.schema_arrow.field(name).type):
            raise DataError(f"is of type {kind}; give numbers or text", file=str(path), field=name)
    return names


def read_row_group(
    path: Path, file: pq.ParquetFile, group: int, report: RejectionReport, *, gold: bool = False
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """The chunks of one row group with their row numbers in the file."""
    names = columns_of_parquet(file, path, gold=gold)
    start = sum(file.metadata.row_group(g).num_rows for g in range(group))
    for batch in file.iter_batches(CHUNK_ROWS, row_groups=[group], columns=names):
        report.read += batch.num_rows
        for i, name in enumerate(names):
            batch = batch.set_column(i, name, readable(batch.column(i), path, start, name))
        batch = batch.replace_schema_metadata(None)  # what pandas noted there of the ids is true no more
        yield batch.to_pandas(), np.arange(start + 1, start + batch.num_rows + 1)
        start += batch.num_rows


def readable(values: pa.Array, path: Path, start: int, name: str) -> pa.Array:
    """A column that pandas keeps as it is: ids that are integers become text, because beside a null they would be
    floats and rounded. Raises `DataError` at the row of text that is none; ``start`` rows stand before the first."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_integer(values.type) and name in ("task", "worker"):
        return values.cast(pa.string())
    if not any(kind(values.type) for kind in _TEXT):
        return values
    try:
        text = values.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        for row, value in enumerate(values.cast(pa.large_binary()).to_pylist(), start + 1):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                problem = f"{value[:40]!r} is no UTF-8 text; write it as text"
                raise DataError(problem, file=str(path), row=row, field=name) from error
        raise
    return text


_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)


def _read_jsonl(path: Path, report: RejectionReport, gold: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW), b""), 1):
            if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
                raise DataError(f"is longer than {LONGEST_ROW:,} bytes: no JSON Lines", file=str(path), row=number)
            report.read += 1
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # also of 5,000 digits, or of 100,000 brackets
                report.add(str(path), np.array([number]), "row", f"is no JSON: {error}", "mend the line")
                continue
            problem = _unlike_a_vote(record, gold)
            if problem:
                report.add(str(path), np.array([number]), "row", problem, "give an object with task, worker and label")
                continue
            records.append({name: record[name] for name in (*_REQUIRED, *_OPTIONAL) if name in record})
            rows.append(number)
            if len(rows) == CHUNK_ROWS:
                yield pd.DataFrame(records, dtype=object), np.array(rows)
                records, rows = [], []
    if rows or not report.read:
        yield pd.DataFrame(records, columns=None if records else _REQUIRED, dtype=object), np.array(rows, np.int64)


def _unlike_a_vote(record: Any, gold: bool) -> str:
    if not isinstance(record, dict):
        return "is no JSON object"
    if lacking := [name for name in (("task", "label") if gold else _REQUIRED) if name not in record]:
        return f"lacks {', '.join(lacking)}; it has {', '.join(sorted(record)[:20])}"
    nested = [name for name in (*_REQUIRED, *_OPTIONAL) if isinstance(record.get(name), (dict, list))]
    if nested:
        return f"has a list or an object as {', '.join(nested)}"
    for name in (*_REQUIRED, *_OPTIONAL):
        value = record.get(name)
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            return f"has half of a surrogate pair in {name}, which is no text"
        if isinstance(value, int) and abs(value) > sys.float_info.max and name not in ("task", "worker"):
            return f"has a number of {len(str(abs(value)))} digits as {name}"
    return ""


def clean(
    chunk: pd.DataFrame, rows: np.ndarray, file: str, report: RejectionReport, *, gold: bool = False
) -> pd.DataFrame:
    """The usable rows: task and worker as strings, label as number or string (null: abstained), weight, time, row."""
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
    time = np.full(len(chunk), np.nan)
    if "time" in chunk.columns and not gold:
        time = seconds(chunk["time"])
        bad = np.isnan(time) & good
        problems = chunk["time"][bad].astype(str).tolist()
        report.add(file, rows[bad], "time", problems, "give a number or a date such as 2026-01-31 12:00:00")
        good &= ~bad
    table = pd.DataFrame({"task": _strings(chunk["task"])})
    if not gold:
        table["worker"] = _strings(chunk["worker"])
    return table.assign(label=label, weight=weight.to_numpy(), time=time, row=rows, file=file)[good]


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
        if np.isinf(number):
            return label
    else:
        try:
            number = float(label)
        except (TypeError, ValueError):
            return str(label)
    return None if np.isnan(number) else int(number) if number.is_integer() else number


def _numbers_where_they_are(labels: pd.Series) -> np.ndarray:
    """`label_value` of each label."""
    local, names = pd.factorize(labels, use_na_sentinel=True)
    values = np.empty(len(names) + 1, object)
    for i, name in enumerate(names):
        values[i] = label_value(name)
    return values[local]
