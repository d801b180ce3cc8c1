"""Which rows of a table are annotations, and what is wrong with the others. Vectorised: one pass for each rule."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.errors import DataError
from crlhf_ray.feedback.schema import ANNOTATION_SCHEMA, SOURCES

#: One record for each field that is wrong. row: 0-based in its file. first: true on one record of each rejected row.
REJECTION_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("event_id", pa.string()),
        pa.field("field", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("remedy", pa.string(), nullable=False),
        pa.field("first", pa.bool_(), nullable=False),
    ]
)

_REMEDY = {
    "event_id": "give every event a unique, non-empty string id",
    "item_id": "name the item by a non-empty string",
    "line": "give the 0-based line number as an integer from 0 up",
    "annotator_id": "name the annotator by a non-empty string",
    "label": "use the integers +1 (correct), -1 (wrong) or 0 (unsure)",
    "confidence": "use a number from 0 to 1, or leave it empty if it was not asked",
    "milliseconds": "use an integer from 0 up, or leave it empty if it was not measured",
    "created_at": "give an ISO 8601 time with its zone, such as 2026-01-31T12:00:00Z",
    "source": f"use one of {', '.join(SOURCES)}",
}


def validate(
    table: pa.Table, file: str = "table", rows: Sequence[int] | np.ndarray | None = None
) -> tuple[pa.Table, pa.Table]:
    """Split `table` into annotations and rejections.

    table: any column types; a missing optional column (confidence, milliseconds) counts as empty.
    rows: the number of each row in its file; 0, 1, 2, ... if None.
    Returns (the rows that are right, in order, as ANNOTATION_SCHEMA; what is wrong with the others, REJECTION_SCHEMA).
    Event ids that repeat are left to whoever has the whole data (`AnnotationLog`, `read_annotations`).
    Raises DataError for a missing required column or one that the schema does not have.
    """
    check_columns(table.column_names, file)
    numbers = np.arange(table.num_rows) if rows is None else np.asarray(rows, dtype=np.int64)
    columns, bad = {}, {}
    for field in ANNOTATION_SCHEMA:
        if field.name in table.column_names:
            values = table[field.name].combine_chunks()
            columns[field.name], unreadable = _coerce(values, field.type)
            bad[field.name] = unreadable | _out_of_range(columns[field.name], field)
        else:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            bad[field.name] = np.zeros(table.num_rows, dtype=bool)
    any_bad = np.logical_or.reduce(list(bad.values()))
    good = pa.table(columns).filter(pa.array(~any_bad)).cast(ANNOTATION_SCHEMA)
    return good, _rejections(table, columns["event_id"], bad, file, numbers)


def check_columns(names: Sequence[str], file: str) -> None:
    """Raise DataError unless `names` are columns of ANNOTATION_SCHEMA, with every required one."""
    for name in names:
        if name not in ANNOTATION_SCHEMA.names:
            near = difflib.get_close_matches(name, ANNOTATION_SCHEMA.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(ANNOTATION_SCHEMA.names)}"
            raise DataError(f"no such column in an annotation: {hint}", file=file, field=name)
    for field in ANNOTATION_SCHEMA:
        if not field.nullable and field.name not in names:
            raise DataError(f"this column is missing: {_REMEDY[field.name]}", file=file, field=field.name)


def _coerce(values: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """`values` as the wanted type, and where that was impossible (those become null)."""
    if _fits(values.type, wanted):
        try:
            return values.cast(wanted), np.zeros(len(values), dtype=bool)
        except pa.ArrowInvalid:
            pass  # some value does not fit; the rows are looked at one by one below
    out = []
    bad = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values.to_pylist()):
        try:
            out.append(None if value is None else _coerce_one(value, wanted))
        except (ValueError, TypeError, OverflowError):
            out.append(None)
            bad[row] = True
    return pa.array(out, wanted), bad


def _fits(have: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast of whole columns says the same as `_coerce_one` says of each value."""
    t = pa.types
    if t.is_null(have):
        return True
    if t.is_integer(wanted):
        return t.is_integer(have)
    if t.is_floating(wanted):
        return t.is_integer(have) or t.is_floating(have)
    if t.is_timestamp(wanted):
        return t.is_timestamp(have) and have.tz is not None
    return t.is_string(have) or t.is_large_string(have)


def _coerce_one(value: object, wanted: pa.DataType) -> object:
    t = pa.types
    if t.is_integer(wanted):
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValueError(value)
        return pa.scalar(int(value), wanted).as_py()
    if t.is_floating(wanted):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(value)
        return float(value)
    if t.is_timestamp(wanted):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise ValueError(value)
        return moment
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _out_of_range(values: pa.Array, field: pa.Field) -> np.ndarray:
    """Where a value is null though it must not be, or is not one that the field allows."""
    if field.name in ("event_id", "item_id", "annotator_id"):
        allowed = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
    elif field.name == "label":
        allowed = pc.is_in(values, pa.array([-1, 0, 1], pa.int8()))
    elif field.name == "source":
        allowed = pc.is_in(values, pa.array(SOURCES))
    elif field.name == "confidence":
        allowed = pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, 1.0))  # false for NaN
    elif field.name in ("line", "milliseconds"):
        allowed = pc.greater_equal(values, 0)
    else:
        allowed = pc.is_valid(values)
    allowed = pc.if_else(pc.is_null(values), pa.scalar(field.nullable), allowed)
    return ~allowed.to_numpy(zero_copy_only=False).astype(bool)


def _rejections(
    table: pa.Table, event_ids: pa.Array, bad: dict[str, np.ndarray], file: str, numbers: np.ndarray
) -> pa.Table:
    records = []
    seen: set[int] = set()
    order = sorted((int(row), at) for at, name in enumerate(bad) for row in np.flatnonzero(bad[name]))
    names = list(bad)
    for row, at in order:
        name = names[at]
        value = repr(table[name][row].as_py())
        records.append(
            {
                "file": file,
                "row": int(numbers[row]),
                "event_id": event_ids[row].as_py(),
                "field": name,
                "value": value if len(value) <= 200 else value[:197] + "...",
                "remedy": _REMEDY[name],
                "first": row not in seen,
            }
        )
        seen.add(row)
    return pa.Table.from_pylist(records, schema=REJECTION_SCHEMA)
