"""Vote files in the formats that people have: CSV with any separator, Parquet, JSON Lines and JSON exports; or gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crlhf_ray.aggregation.readers import records_of, toloka
from crlhf_ray.aggregation.rejections import RowReport
from crlhf_ray.errors import DataError

CHUNK_ROWS = 1_000_000
#: No row is longer than this, in bytes: what is longer is another kind of file, and would fill the memory.
LONGEST_ROW = 1 << 20
_BLOCK = 16 << 20
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".json")
STDIN = Path("-")
_REQUIRED = ("task", "worker", "label")
_OPTIONAL = ("weight", "time")

Chunks = Iterator[tuple[pd.DataFrame, np.ndarray]]


@dataclass(frozen=True)
class Columns:
    """The file's names of its columns; None: our name, in upper or lower case.

    wide: the file has one column a worker, and labels in the cells; the tasks are in ``task``, or in the first column.
    """

    task: str | None = None
    worker: str | None = None
    label: str | None = None
    weight: str | None = None
    time: str | None = None
    wide: bool = False

    def match(self, names: Sequence[str], file: str, *, gold: bool = False) -> dict[str, str]:
        """Ours by the file's, as far as they are there. Raises `DataError` where one of ours stands twice.

        A gold file may have the votes' names or ours.
        """
        mine = self
        if not gold and "ASSIGNMENT:worker_id" in names:
            found = toloka(names, self.label, file)
            mine = Columns(**{**found, **{k: v for k, v in vars(self).items() if v and k != "label"}})
        matched: dict[str, str] = {}
        for ours in ("task", "label") if gold else (*_REQUIRED, *_OPTIONAL):
            asked = getattr(mine, ours)
            theirs = [name for name in names if name.strip() == asked] if asked else []
            if not theirs and (gold or not asked):
                theirs = [n for n in names if n.strip() == ours] or [n for n in names if n.strip().lower() == ours]
            if len(theirs) > 1:
                raise DataError(f"it has several columns {ours!r}; rename all but the one meant", file=file)
            if not theirs and asked and ours in _OPTIONAL:
                raise DataError(f"it has no column {asked!r} (its columns: {_list(names)})", file=file, field=ours)
            matched |= dict.fromkeys(theirs, ours)
        return matched

    def find(self, names: Sequence[str], file: str, *, gold: bool = False) -> dict[str, str]:
        """`match`, with all needed; wide: every column by its own name. Raises `DataError` for a missing one."""
        if self.wide and not gold:
            if self.task is not None and self.task not in names:
                raise DataError(f"it has no column {self.task!r} (its columns: {_list(names)})", file=file)
            if len(names) < 2 or len(set(names)) < len(names):
                raise DataError("--wide needs a column of tasks and a column for each worker, all different", file=file)
            return {name: name for name in names}
        matched = self.match(names, file, gold=gold)
        for ours in ("task", "label") if gold else _REQUIRED:
            if ours not in matched.values():
                remedy = f"name the one meant with --{ours}"
                if not gold:
                    remedy += ", or give --wide if each worker has a column"
                raise DataError(
                    f"it has no column {getattr(self, ours) or ours!r} (its columns: {_list(names)}); {remedy}",
                    file=file,
                )
        return matched


#: The usual names.
USUAL = Columns()


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:20])) or "none"


def read_chunks(path: Path, report: RowReport, columns: Columns = USUAL, *, gold: bool = False) -> Chunks:
    """``(chunk, 1-based row numbers)`` of a file, its columns under our names; unreadable rows go to the report.

    path: ``-`` is standard input, whose format is found by its first bytes. gold: a file without workers. Raises
    `DataError` for a missing file or column, another suffix, an empty file, or one that is not what its suffix says.
    """
    name, kind, opened = _source(path)
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
        ".json": _read_json,
    }
    if kind not in readers:
        raise DataError(
            f"its suffix is none of {', '.join(SUFFIXES)}, or one of them and .gz; rename or convert it", file=name
        )
    try:
        for chunk, rows in readers[kind](opened, name, report, columns, gold):
            yield _long(chunk, rows, columns, report) if columns.wide and not gold else (chunk, rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        if kind in (".csv", ".tsv"):
            if (row := _first_not_utf8(opened())) is not None:
                raise DataError("is not UTF-8 text; save the file as UTF-8", file=name, row=row) from error
            if "straddl" in str(error):
                raise DataError(f'has a quote (") that is not closed within {_BLOCK:,} bytes', file=name) from error
        raise _unreadable(kind[1:], error, name) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _unreadable("gzip", error, name) from error


def _unreadable(kind: str, error: Exception, name: str) -> DataError:
    return DataError(f"cannot be read as {kind}: {error}; export it again", file=name)


def _source(path: Path) -> tuple[str, str, Callable[[], BinaryIO]]:
    """``(name for messages, suffix, opener)``."""
    if path == STDIN:
        data = sys.stdin.buffer.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
        kind = ".parquet" if start[:4] == b"PAR1" else ".json" if start[:1] == b"[" else ".csv"
        if start[:1] == b"{":
            kind = ".jsonl" if b'"task"' in data[:LONGEST_ROW].splitlines()[0] else ".json"
        return "standard input", kind, lambda: io.BytesIO(data)
    if not path.exists():
        raise DataError("no such file", file=str(path))
    refuse_folder(path)
    if path.suffix == ".gz":
        return str(path), path.with_suffix("").suffix, lambda: gzip.open(path)  # type: ignore[return-value]
    return str(path), path.suffix, lambda: path.open("rb")


def refuse_folder(path: Path) -> None:
    """`DataError` for a folder: `pyarrow` and `open` each fail in their own way."""
    if path.is_dir():
        raise DataError("is a folder; name the files in it", file=str(path))


def _long(
    chunk: pd.DataFrame, rows: np.ndarray, columns: Columns, report: RowReport
) -> tuple[pd.DataFrame, np.ndarray]:
    """A row for each cell that is filled in; an empty one says that the worker was not asked."""
    task = columns.task or chunk.columns[0]
    people = [name for name in chunk.columns if name != task]
    labels = chunk[people].to_numpy(object).ravel()
    given = ~pd.isna(labels)
    report.read += int(given.sum()) - len(chunk)
    long = {
        "task": np.repeat(chunk[task].to_numpy(object), len(people))[given],
        "worker": np.tile(np.array([name.strip() for name in people], object), len(chunk))[given],
        "label": labels[given],
    }
    return pd.DataFrame(long, dtype=object), np.repeat(rows, len(people))[given]


def _first_not_utf8(file: BinaryIO) -> int | None:
    """Row of the first line that is not UTF-8, the header being row 0."""
    with file as lines:
        for row, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW), b"")):
            try:
                line.decode()
            except UnicodeDecodeError:
                return row
    return None


def _header(file: BinaryIO, name: str, report: RowReport) -> tuple[list[str], str]:
    """``(column names, separator)``; a separator other than the comma is noted."""
    with file:
        head = file.read(LONGEST_ROW)
    if len(head) == LONGEST_ROW and b"\n" not in head:
        raise DataError(f"is not a CSV file: its first line is longer than {LONGEST_ROW:,} bytes", file=name)
    text = head.decode("utf-8-sig", errors="replace" if len(head) == LONGEST_ROW else "strict").lstrip("\r\n")
    if not text:
        raise DataError("is empty; give a header line (task,worker,label) and a row for each vote", file=name)
    rows = {mark: next(csv.reader(io.StringIO(text, newline=None), delimiter=mark)) for mark in ",;\t|"}
    separator = max(rows, key=lambda mark: len(rows[mark]))
    if separator != ",":
        mark = "tabs" if separator == "\t" else repr(separator)
        report.notes.append(f"{name}: fields are separated by {mark}")
    return rows[separator], separator


def _read_csv(opened: Callable[[], BinaryIO], name: str, report: RowReport, columns: Columns, gold: bool) -> Chunks:
    broken: list[tuple[int, str]] = []
    unclosed: list[int] = []

    def skip(row: Any) -> str:
        if row.text.count('"') % 2:
            unclosed.append(row.number - 1)
        broken.append((row.number - 1, f"has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    names, separator = _header(opened(), name, report)
    wanted = columns.find(names, name, gold=gold)
    reader = pa_csv.open_csv(
        pa.PythonFile(opened(), "r"),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            column_types={theirs: pa.string() for theirs in wanted},
            include_columns=list(wanted),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    seen = 0
    for batch in reader:
        if unclosed:
            raise DataError('has a quote (") that is not closed; close it', file=name, row=min(unclosed))
        # Rows skipped inside this block shift the numbers of those behind them.
        count = batch.num_rows + len(broken)
        numbers = np.setdiff1d(np.arange(seen + 1, seen + count + 1), [row for row, _ in broken])[: batch.num_rows]
        report.read += count
        report.add(name, np.array([r for r, _ in broken]), "row", [p for _, p in broken], "fix this row")
        seen += count
        broken.clear()
        trimmed = [pc.utf8_trim(values, " ") for values in batch.columns]
        fields = [pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values) for values in trimmed]
        yield pa.table(fields, list(wanted.values())).to_pandas(), numbers


def _read_parquet(opened: Callable[[], BinaryIO], name: str, report: RowReport, columns: Columns, gold: bool) -> Chunks:
    with opened() as raw, pq.ParquetFile(raw) as file:
        for group in range(file.num_row_groups):
            yield from read_row_group(name, file, group, report, columns, gold=gold)


def columns_of_parquet(file: pq.ParquetFile, name: str, columns: Columns, *, gold: bool = False) -> dict[str, str]:
    """`Columns.find`, each of them of plain values."""
    wanted = columns.find(file.schema_arrow.names, name, gold=gold)
    for theirs in wanted:
        if pa.types.is_nested(kind := file.schema_arrow.field(theirs).type):
            raise DataError(f"is of type {kind}; give numbers or text", file=name, field=theirs)
    return wanted


def read_row_group(
    name: str, file: pq.ParquetFile, group: int, report: RowReport, columns: Columns, *, gold: bool = False
) -> Chunks:
    """The chunks of one row group with their row numbers in the file."""
    wanted = columns_of_parquet(file, name, columns, gold=gold)
    start = sum(file.metadata.row_group(g).num_rows for g in range(group))
    for batch in file.iter_batches(CHUNK_ROWS, row_groups=[group], columns=list(wanted)):
        report.read += batch.num_rows
        # Without the metadata: what pandas noted there of the ids is true no more.
        values = [readable(batch.column(theirs), name, start, ours) for theirs, ours in wanted.items()]
        yield pa.table(values, list(wanted.values())).to_pandas(), np.arange(start + 1, start + batch.num_rows + 1)
        start += batch.num_rows


def readable(values: pa.Array, file: str, start: int, name: str) -> pa.Array:
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
                problem = f"{value[:40]!r} is not UTF-8 text; write it as text"
                raise DataError(problem, file=file, row=row, field=name) from error
        raise
    return text


_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)


def _read_json(opened: Callable[[], BinaryIO], name: str, report: RowReport, columns: Columns, gold: bool) -> Chunks:
    with opened() as file:
        try:
            content = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise _unreadable("JSON", error, name) from error
    found = records_of(content, columns.label, name, report.notes)
    exported = found is not content
    usable = _Records(name, report, USUAL if exported else columns, gold)
    for number, record in enumerate(found, 1):
        usable.take(number, record)
    yield usable.chunk()


def _read_jsonl(opened: Callable[[], BinaryIO], name: str, report: RowReport, columns: Columns, gold: bool) -> Chunks:
    usable = _Records(name, report, columns, gold)
    with opened() as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW), b""), 1):
            if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
                raise DataError(f"is longer than {LONGEST_ROW:,} bytes: not JSON Lines", file=name, row=number)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # also of 5,000 digits, or of 100,000 brackets
                report.read += 1
                report.add(name, np.array([number]), "row", f"is not JSON: {error}", "fix this row")
                continue
            usable.take(number, record)
            if len(usable.rows) == CHUNK_ROWS:
                yield usable.chunk()
                usable = _Records(name, report, columns, gold)
    yield usable.chunk()


class _Records:
    """JSON objects on their way to a chunk."""

    def __init__(self, name: str, report: RowReport, columns: Columns, gold: bool):
        self.name, self.report, self.columns, self.gold = name, report, columns, gold
        self.records: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self._matched: dict[tuple[str, ...], dict[str, str]] = {}

    def take(self, number: int, record: Any) -> None:
        """Keep it under our names, or report it."""
        self.report.read += 1
        wide = self.columns.wide and not self.gold
        if isinstance(record, dict) and not wide:
            names = tuple(record)
            if names not in self._matched:
                self._matched[names] = self.columns.match(names, self.name, gold=self.gold)
            has = ", ".join(sorted(names)[:20])
            record = {ours: record[theirs] for theirs, ours in self._matched[names].items()}
            problem = _unlike_a_vote(record, self.gold, has)
        else:
            problem = "" if isinstance(record, dict) else "is not a JSON object"
        if problem:
            remedy = "give an object with task, worker and label"
            self.report.add(self.name, np.array([number]), "row", problem, remedy)
            return
        self.records.append(record)
        self.rows.append(number)

    def chunk(self) -> tuple[pd.DataFrame, np.ndarray]:
        """What was kept."""
        needed = None if self.records else ("task", "label") if self.gold else _REQUIRED
        return pd.DataFrame(self.records, columns=needed, dtype=object), np.array(self.rows, np.int64)


def _unlike_a_vote(record: dict[str, Any], gold: bool, has: str) -> str:
    if lacking := [name for name in (("task", "label") if gold else _REQUIRED) if name not in record]:
        return f"lacks {', '.join(lacking)}; it has {has}"
    if nested := [name for name, value in record.items() if isinstance(value, (dict, list))]:
        return f"has a list or an object as {', '.join(nested)}"
    for name, value in record.items():
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            return f"has half of a surrogate pair in {name}, which is not text"
        if isinstance(value, int) and abs(value) > sys.float_info.max and name not in ("task", "worker"):
            return f"has a number of {len(str(abs(value)))} digits as {name}"
    return ""
