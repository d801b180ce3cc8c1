"""Annotations from Parquet, JSONL and SQL as one Ray Dataset, validated and each event once.

Reading and checking happen in Ray tasks, block by block; the driver holds references and counts only. A row that cannot
be used is never dropped in silence: it stands in the `RejectionReport` with file, row, field, value and remedy.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.validation import REJECTION_SCHEMA, check_columns, rejection, validate_columns

_BLOCK_ROWS = 65_536  # rows of JSONL or Parquet checked at a time: some 10 MB
_BUCKET_BYTES = 256 << 20  # events that one task compares to find repeated ids
_SAME_REMEDY = "none needed: this event was given before, and counts once"
_CORRECTION_REMEDY = "an event of this id says something else: give a correction an event_id of its own"

_COLUMNS = tuple(ANNOTATION_SCHEMA.names)

#: A checked row is either an annotation (problem is null) or a rejection (the annotation's columns are null).
_CHECKED_SCHEMA = pa.schema(
    [
        *(field.with_nullable(True) for field in ANNOTATION_SCHEMA),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("problem", pa.struct(list(REJECTION_SCHEMA))),
    ]
)


@dataclass(frozen=True)
class SqlSource:
    """Annotations in a database.

    query: a SELECT whose columns are those of ANNOTATION_SCHEMA (rename others by AS). Times need a zone; where the
        database has none, add it: ``created_at || 'Z' AS created_at``.
    database: an SQLAlchemy URL, or a function without arguments that opens a DB-API connection (on a Ray worker).
    """

    query: str
    database: str | Callable[[], Any]


@dataclass(frozen=True)
class RejectionReport:
    """What was left out and why.

    accepted: rows in the data set. count: rows left out; repeats: those of them that only repeat an earlier event.
    by_field: problems by field name. rows: Ray Dataset of REJECTION_SCHEMA, one row for each problem.
    """

    accepted: int
    count: int
    repeats: int
    by_field: dict[str, int]
    rows: ray.data.Dataset

    def head(self, n: int = 10) -> list[dict[str, Any]]:
        """The first n problems."""
        return self.rows.take(n)

    def write(self, directory: str | os.PathLike[str], format: str = "jsonl") -> None:
        """Write all problems as files into a folder; format: "jsonl" or "parquet"."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        if format == "parquet":
            self.rows.write_parquet(str(directory))
        elif format == "jsonl":
            self.rows.write_json(str(directory))
        else:
            raise ValueError(f"format {format!r} is unknown: use 'jsonl' or 'parquet'")

    def __str__(self) -> str:
        fields = ", ".join(f"{name} {number}" for name, number in sorted(self.by_field.items()))
        text = f"{self.accepted} annotations accepted, {self.count} rows left out ({self.repeats} of them repeats)"
        return f"{text}; problems by field: {fields}" if fields else text


def read_annotations(
    source: str | os.PathLike[str] | SqlSource | Sequence[str | os.PathLike[str]], *, num_cpus: float = 1.0
) -> tuple[ray.data.Dataset, RejectionReport]:
    """Read, validate and deduplicate annotations.

    source: a ``.parquet`` or ``.jsonl`` file, a folder of such files (searched in depth), several of these, or a
        `SqlSource`. Workers read the files themselves: on a cluster they must lie on a shared file system.
    num_cpus: CPUs that each task asks of Ray; less than 1 (0 is allowed) where actors hold nearly all of them.
    Returns (data set of ANNOTATION_SCHEMA, held in Ray's object store; report of what was left out). Of rows with one
    event_id the first by file and row stands, wherever and in whatever order the tasks ran.
    Raises DataError for a missing file, a file that is no Parquet, or a table with wrong columns.
    """
    if isinstance(source, SqlSource):
        checked = _read_sql(source, num_cpus)
    else:
        parts = [part for file in _files(source) for part in _parts(file)]
        if not parts:
            return _finish([], num_cpus)
        blocks = min(len(parts), 4 * int(ray.cluster_resources().get("CPU", 1)))
        dataset = ray.data.from_items(parts, override_num_blocks=blocks)
        checked = dataset.map_batches(_read_parts, batch_format="numpy", batch_size=None, num_cpus=num_cpus)
    return _finish(_materialized(checked), num_cpus)


def _files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for given in [source] if isinstance(source, str | os.PathLike) else source:
        path = Path(given).absolute()
        if path.is_dir():
            found += sorted(
                p for p in path.rglob("*") if p.suffix in (".parquet", ".jsonl") and not p.name.startswith(".")
            )
        elif not path.exists():
            raise DataError("no such file or folder", file=str(path))
        elif path.suffix in (".parquet", ".jsonl"):
            found.append(path)
        else:
            raise DataError("annotations are read from .parquet and .jsonl files", file=str(path))
    return list(dict.fromkeys(found))


def _parts(file: Path) -> list[dict[str, Any]]:
    """What can be read by itself: a row group of a Parquet file, or a whole JSONL file. group: -1 for JSONL."""
    if file.suffix == ".jsonl":
        return [{"file": str(file), "group": -1, "row": 0}]
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"this is no Parquet file: {error}", file=str(file)) from error
    with parquet:
        check_columns(parquet.schema_arrow.names, str(file))
        sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    return [{"file": str(file), "group": g, "row": int(starts[g])} for g in range(len(sizes))]


def _read_parts(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
    yield _CHECKED_SCHEMA.empty_table()  # so that a block without rows has columns too
    for file, group, row in zip(batch["file"], batch["group"], batch["row"], strict=True):
        yield from _read_jsonl(str(file)) if group < 0 else _read_parquet(str(file), int(group), int(row))


def _read_parquet(file: str, group: int, row: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_BLOCK_ROWS, row_groups=[group]):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield _checked(columns, file, np.arange(row, row + batch.num_rows))
            row += batch.num_rows


def _read_jsonl(file: str) -> Iterator[pa.Table]:
    """Rows are lines, counted from 0; blank lines are counted, and passed over."""
    with open(file, "rb") as lines:
        yield from _check_json(file, ((row, line) for row, line in enumerate(lines) if line.strip()))


def _check_json(file: str, numbered: Iterable[tuple[int, bytes | str]]) -> Iterator[pa.Table]:
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    problems: list[dict[str, Any]] = []
    for row, text in numbered:
        try:
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError:
            shown = (text.decode(errors="replace") if isinstance(text, bytes) else text).rstrip("\n")
            problems.append(rejection(file, row, "(line)", shown, "write one JSON object on each line, in UTF-8"))
            continue
        if unknown := [name for name in record if name not in _COLUMNS]:
            given = record.get("event_id")
            event_id = given if isinstance(given, str) else None
            remedy = f"rename or remove this field; known are {', '.join(_COLUMNS)}"
            problems.append(rejection(file, row, unknown[0], record[unknown[0]], remedy, event_id=event_id))
            continue
        records.append(record)
        rows.append(row)
        if len(rows) == _BLOCK_ROWS:
            yield _checked_records(records, file, rows, problems)
            records, rows, problems = [], [], []
    yield _checked_records(records, file, rows, problems)


def _checked_records(
    records: list[dict[str, Any]], file: str, rows: list[int], problems: list[dict[str, Any]]
) -> pa.Table:
    columns = {name: [record.get(name) for record in records] for name in _COLUMNS}
    unread = _as_checked(None, pa.Table.from_pylist(problems, schema=REJECTION_SCHEMA))
    return pa.concat_tables([_checked(columns, file, np.array(rows, dtype=np.int64)), unread])


def _read_sql(source: SqlSource, num_cpus: float) -> ray.data.Dataset:
    connect = partial(_Connection, source.database)
    dataset = ray.data.read_sql(source.query, connect, override_num_blocks=1, num_cpus=num_cpus)
    return dataset.map_batches(_check_sql, batch_format="pyarrow", batch_size=None, num_cpus=num_cpus)


def _check_sql(table: pa.Table) -> Iterator[pa.Table]:
    yield _CHECKED_SCHEMA.empty_table()
    if table.num_rows:
        check_columns(list(json.loads(table["record"][0].as_py())), "query")
        yield from _check_json("query", zip(table["row"].to_pylist(), table["record"].to_pylist(), strict=True))


class _Connection:
    """A DB-API connection whose rows are (number in the answer, JSON text).

    ray.data.read_sql makes Arrow columns of what the database gives, and fails altogether where one column holds values
    of several types, as SQLite's may; as text they reach validation, which says which row is wrong.
    """

    def __init__(self, database: str | Callable[[], Any]):
        if isinstance(database, str):
            import sqlalchemy

            self._engine = sqlalchemy.create_engine(database, poolclass=sqlalchemy.pool.NullPool)
            self._connection: Any = self._engine.raw_connection()
        else:
            self._connection = database()

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection.cursor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Cursor:
    description = (("row",), ("record",))

    def __init__(self, cursor: Any):
        self._cursor = cursor

    def fetchall(self) -> list[tuple[int, str]]:
        names = [column[0] for column in self._cursor.description]
        return [
            (number, json.dumps(dict(zip(names, row, strict=True)), default=_plain))
            for number, row in enumerate(self._cursor.fetchall())
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else repr(value)


def _checked(columns: dict[str, Any], file: str, rows: np.ndarray) -> pa.Table:
    good, rejected, right = validate_columns(columns, file, rows)
    good = good.append_column("file", pa.array([file] * good.num_rows, pa.string()))
    good = good.append_column("row", pa.array(rows[right]))
    return pa.concat_tables([_as_checked(good, None), _as_checked(None, rejected)])


def _as_checked(good: pa.Table | None, rejected: pa.Table | None) -> pa.Table:
    columns = {}
    if good is not None:
        columns = {name: good[name] for name in good.column_names}
    if rejected is not None:
        columns = {name: rejected[name] for name in ("event_id", "file", "row")}
        columns["problem"] = pa.chunked_array(rejected.to_struct_array(), _CHECKED_SCHEMA.field("problem").type)
    size = (good if good is not None else rejected).num_rows  # type: ignore[union-attr]
    return pa.table([columns.get(f.name, pa.nulls(size, f.type)) for f in _CHECKED_SCHEMA], schema=_CHECKED_SCHEMA)


def _materialized(checked: ray.data.Dataset) -> list[Any]:
    """References to the checked blocks. Raises the DataError of a task as itself, not wrapped."""
    try:
        done = checked.materialize()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, DataError):
                raise cause from error
            cause = cause.__cause__
        raise
    return done.to_arrow_refs()


def _finish(blocks: list[Any], num_cpus: float) -> tuple[ray.data.Dataset, RejectionReport]:
    """Bring events of one id together, keep the first of each, and split what is right from what is not."""
    size = sum(ray.get([ray.remote(_size).options(num_cpus=num_cpus).remote(block) for block in blocks]))
    buckets = 1 + size // _BUCKET_BYTES
    deal = ray.remote(_deal).options(num_returns=buckets, num_cpus=num_cpus)
    dealt: list[Any] = [[b] for b in blocks] if buckets == 1 else [deal.remote(b, buckets) for b in blocks]
    settle = ray.remote(_settle).options(num_returns=3, num_cpus=num_cpus)
    settled = [settle.remote(*(parts[bucket] for parts in dealt)) for bucket in range(buckets)]
    counts: Counter[str] = sum(ray.get([count for _, _, count in settled]), Counter())
    accepted, left_out, repeats = (counts.pop(key, 0) for key in ("/accepted", "/count", "/repeats"))
    good = ray.data.from_arrow_refs([ref for ref, _, _ in settled])
    rejected = ray.data.from_arrow_refs([ref for _, ref, _ in settled])
    return good, RejectionReport(accepted, left_out, repeats, dict(counts), rejected)


def _size(block: pa.Table) -> int:
    return block.nbytes


def _deal(block: pa.Table, buckets: int) -> list[pa.Table]:
    """The rows of a block by a hash of their event_id."""
    ids = block["event_id"].fill_null("").to_pylist()
    bucket = np.fromiter((zlib.crc32(i.encode()) % buckets for i in ids), dtype=np.int64, count=len(ids))
    return [block.filter(pa.array(bucket == b)) for b in range(buckets)]


def _settle(*parts: pa.Table) -> tuple[pa.Table, pa.Table, Counter[str]]:
    """(annotations, rejections, counts) of one bucket, in order of file and row."""
    table = pa.concat_tables([_CHECKED_SCHEMA.empty_table(), *parts])
    table = table.sort_by([("file", "ascending"), ("row", "ascending")])
    is_good = pc.is_null(table["problem"])
    good = table.filter(is_good)
    problems = table.filter(pc.invert(is_good))["problem"].combine_chunks()
    again, head = _repeats(good)
    same = np.ones(len(again), dtype=bool)
    for name in ("item_id", "line", "annotator_id", "label"):
        same &= pc.equal(good[name].take(again), good[name].take(head)).to_numpy(zero_copy_only=False).astype(bool)
    repeated = [
        rejection(
            row["file"],
            row["row"],
            "event_id",
            row["event_id"],
            _SAME_REMEDY if is_same else _CORRECTION_REMEDY,
            event_id=row["event_id"],
        )
        for row, is_same in zip(good.select(["file", "row", "event_id"]).take(again).to_pylist(), same, strict=True)
    ]
    rejected = pa.concat_tables(
        [
            pa.Table.from_struct_array(problems).cast(REJECTION_SCHEMA)
            if len(problems)
            else REJECTION_SCHEMA.empty_table(),
            pa.Table.from_pylist(repeated, schema=REJECTION_SCHEMA),
        ]
    ).sort_by([("file", "ascending"), ("row", "ascending")])
    keep = np.ones(good.num_rows, dtype=bool)
    keep[again] = False
    counts = Counter(rejected["field"].to_pylist())
    counts["/accepted"] = int(keep.sum())
    counts["/count"] = pc.sum(rejected["first"]).as_py() or 0
    counts["/repeats"] = int(same.sum())
    return good.filter(pa.array(keep)).select(ANNOTATION_SCHEMA.names).cast(ANNOTATION_SCHEMA), rejected, counts


def _repeats(good: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Positions of rows whose event_id came before, and of the row where it came first."""
    ids = good["event_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy(zero_copy_only=False) if len(good) else np.zeros(0, dtype=np.int64)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    head = first[inverse] if len(codes) else codes
    again = np.flatnonzero(head != np.arange(len(codes)))
    return again, head[again]
