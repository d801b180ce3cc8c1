"""Which rows of a table are annotations, and what is wrong with the others. Vectorised: one pass for each rule."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, SOURCES
from crlhf_ray.errors import DataError

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


def validate(table: pa.Table, file: str = "table", rows: np.ndarray | None = None) -> tuple[pa.Table, pa.Table]:
    """Split `table` into annotations and rejections.

    table: any column types; a missing optional column (confidence, milliseconds) counts as empty.
    rows: the number of each row in its file, shape (rows,); 0, 1, 2, ... if None.
    Returns (the rows that are right, in order, as ANNOTATION_SCHEMA; what is wrong with the others, REJECTION_SCHEMA).
    Event ids that repeat are left to whoever has the whole data (`AnnotationLog`, `read_annotations`).
    Raises DataError for a missing required column or one that the schema does not have.
    """
    check_columns(table.column_names, file)
    numbers = np.arange(table.num_rows) if rows is None else rows
    good, rejected, _ = validate_columns(
        {name: table[name].combine_chunks() for name in table.column_names}, file, numbers
    )
    return good, rejected


def validate_columns(
    columns: Mapping[str, pa.Array | list[Any]], file: str, rows: np.ndarray
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """As `validate`, for columns that may be Python lists of mixed types; also returns which rows are right."""
    values, bad = {}, {}
    for field in ANNOTATION_SCHEMA:
        given = columns.get(field.name, pa.nulls(len(rows)))
        values[field.name], unreadable = _coerce(given, field.type)
        bad[field.name] = unreadable | (_out_of_range(values[field.name], field) & ~unreadable)
    right = ~np.logical_or.reduce(list(bad.values()))
    good = pa.table(values)
    if right.all():
        return good.cast(ANNOTATION_SCHEMA), REJECTION_SCHEMA.empty_table(), right
    good = good.filter(pa.array(right)).cast(ANNOTATION_SCHEMA)
    return good, _rejections(columns, values["event_id"], bad, file, rows), right


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


def _coerce(values: pa.Array | list[Any], wanted: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """`values` as the wanted type, and where that was impossible (those become null)."""
    try:
        array = pa.array(values) if isinstance(values, list) else values
        if array.type == wanted:
            return array, np.zeros(len(array), dtype=bool)
        if _fits(array.type, wanted):
            return array.cast(wanted), np.zeros(len(array), dtype=bool)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        pass  # some value does not fit: below, each is looked at by itself
    listed = values if isinstance(values, list) else values.to_pylist()
    out = []
    bad = np.zeros(len(listed), dtype=bool)
    for row, value in enumerate(listed):
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
        return t.is_string(have) or (t.is_timestamp(have) and have.tz is not None)
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
        allowed = pc.and_not(pc.not_equal(values, ""), pc.utf8_is_space(values))
    elif field.name == "label":
        allowed = pc.and_(pc.greater_equal(values, -1), pc.less_equal(values, 1))
    elif field.name == "source":
        allowed = pc.is_in(values, pa.array(SOURCES))
    elif field.name == "confidence":
        allowed = pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, 1.0))  # false for NaN
    elif field.name in ("line", "milliseconds"):
        allowed = pc.greater_equal(values, 0)
    else:
        allowed = pc.is_valid(values)
    if values.null_count:
        allowed = pc.if_else(pc.is_null(values), pa.scalar(field.nullable), allowed)
    return ~allowed.to_numpy(zero_copy_only=False).astype(bool)


def _rejections(
    columns: Mapping[str, pa.Array | list[Any]],
    event_ids: pa.Array,
    bad: Mapping[str, np.ndarray],
    file: str,
    rows: np.ndarray,
) -> pa.Table:
    places = sorted((int(row), at) for at, name in enumerate(bad) for row in np.flatnonzero(bad[name]))
    records = []
    for number, (row, at) in enumerate(places):
        name = ANNOTATION_SCHEMA.names[at]
        value = columns[name][row] if name in columns else None
        records.append(
            rejection(
                file,
                int(rows[row]),
                name,
                value.as_py() if isinstance(value, pa.Scalar) else value,
                _REMEDY[name],
                event_id=event_ids[row].as_py(),
                first=number == 0 or places[number - 1][0] != row,
            )
        )
    return pa.Table.from_pylist(records, schema=REJECTION_SCHEMA)


def rejection(
    file: str, row: int, field: str, value: object, remedy: str, *, event_id: str | None = None, first: bool = True
) -> dict[str, Any]:
    """One row of REJECTION_SCHEMA; a long value is cut."""
    shown = value if isinstance(value, str) else repr(value)
    return {
        "file": file,
        "row": row,
        "event_id": event_id,
        "field": field,
        "value": shown if len(shown) <= 200 else shown[:197] + "...",
        "remedy": remedy,
        "first": first,
    }
