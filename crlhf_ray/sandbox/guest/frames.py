"""pandas objects on the wire: columns, index and values, each as what it is made of."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pandas

from .kinds import ARRAY_KINDS, Kind, array, wide_array

NAMES = ("DataFrame", "Series", "Index")
_DTYPES = ("category", "string", "boolean", "Int", "UInt", "Float", "datetime64", "period", "timedelta64")


def kind_of(value: Any) -> str | None:
    """The name under which an object travels; None for what does not."""
    return next((name for name in NAMES if isinstance(value, getattr(pandas, name))), None)


def _column_parts(values: Any) -> tuple[Any, ...]:
    """The dtype by name and the values, as the bytes of an array where numpy has the dtype and else as objects."""
    plain = values.to_numpy() if type(values.dtype).__module__.startswith("numpy") else values.to_numpy(dtype=object)
    if plain.dtype == object:
        return str(values.dtype), tuple(plain.tolist())
    code, _, data = ARRAY_KINDS["ndarray"].parts(plain)
    return str(values.dtype), code, data


def _column(parts: Sequence[Any], *, answers: bool) -> Any:
    match tuple(parts):
        case (str(name), tuple(values)) if name == "object" or name.startswith((*_DTYPES, "str")):
            wide = re.sub(r"^(U?Int|Float)(8|16|32)$", r"\g<1>64", name)
            return pandas.Series(list(values), dtype=wide if answers else name).array
        case (str(), str(code), bytes(data)):
            shape = (len(data) // numpy.dtype(code).itemsize,)
            return (wide_array if answers else array)((code, shape, data))
    raise ValueError("not a column")


def _index_parts(index: Any) -> tuple[Any, ...]:
    if isinstance(index, pandas.RangeIndex):
        return ("range", index.start, index.stop, index.step, index.name)
    if isinstance(index, pandas.MultiIndex):
        return ("multi", tuple(index.tolist()), tuple(index.names))
    return ("plain", *_column_parts(index), index.name)


def _index(parts: Sequence[Any], *, answers: bool) -> Any:
    match tuple(parts):
        case ("range", int(start), int(stop), int(step), name):
            return pandas.RangeIndex(start, stop, step, name=name)
        case ("multi", tuple(items), tuple(names)):
            return pandas.MultiIndex.from_tuples(items, names=names)
        case ("plain", *column, label):
            return pandas.Index(_column(column, answers=answers), name=label)
    raise ValueError("not an index")


def _frame_parts(frame: Any) -> list[Any]:
    columns = [_column_parts(frame.iloc[:, place]) for place in range(frame.shape[1])]
    return [_index_parts(frame.columns), _index_parts(frame.index), *columns]


def _frame(parts: Sequence[Any], *, answers: bool) -> Any:
    columns, index, *values = parts
    found = {place: _column(column, answers=answers) for place, column in enumerate(values)}
    made = pandas.DataFrame(found, index=_index(index, answers=answers))
    made.columns = _index(columns, answers=answers)
    return made


def _series(parts: Sequence[Any], *, answers: bool) -> Any:
    index, values, name = parts
    return pandas.Series(_column(values, answers=answers), index=_index(index, answers=answers), name=name)


def _become(value: Any, made: Any) -> None:
    """Let an object hold what another one does."""
    object.__setattr__(value, "_mgr", made._mgr)
    if isinstance(value, pandas.Series):
        object.__setattr__(value, "_name", made._name)


@functools.cache
def kinds(answers: bool) -> Mapping[str, Any]:
    """answers: as `heap.Heap` has it."""
    frame, series, index = (functools.partial(make, answers=answers) for make in (_frame, _series, _index))
    return {
        "DataFrame": Kind(_frame_parts, frame, lambda value, parts: _become(value, frame(parts)), True),
        "Series": Kind(
            lambda value: [_index_parts(value.index), _column_parts(value), value.name],
            series,
            lambda value, parts: _become(value, series(parts)),
            True,
        ),
        "Index": Kind(_index_parts, index, lambda value, parts: None, True),
    }
