"""pandas objects on the wire: columns, index and values, each as what it is made of."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pandas

Kind = importlib.import_module(__name__.replace("frames", "wire")).Kind
_DTYPES = ("category", "string", "boolean", "Int", "UInt", "Float", "datetime64", "period", "timedelta64")


def kind_of(value: Any) -> str | None:
    """The name under which an object travels; None for what does not."""
    return next((name for name in KINDS if isinstance(value, getattr(pandas, name))), None)


def _column_parts(values: Any) -> tuple[Any, ...]:
    """A dtype by name and the values, as an array where numpy has the dtype and as objects where it has not."""
    plain = values.to_numpy() if type(values.dtype).__module__.startswith("numpy") else values.to_numpy(dtype=object)
    missing = plain.dtype == object
    items = plain.copy() if missing else plain
    return (str(values.dtype), tuple(items.tolist()) if missing else items)


def _column(parts: Sequence[Any]) -> Any:
    name, values = parts
    if type(name) is not str or not (isinstance(values, tuple) or hasattr(values, "dtype")):
        raise ValueError("not a column")
    if isinstance(values, tuple):
        if name != "object" and not name.startswith((*_DTYPES, "str")):
            raise ValueError(f"no dtype {name[:40]!r}")
        return pandas.Series(list(values), dtype=name).array
    return values


def _index_parts(index: Any) -> tuple[Any, ...]:
    if isinstance(index, pandas.RangeIndex):
        return ("range", index.start, index.stop, index.step, index.name)
    if isinstance(index, pandas.MultiIndex):
        return ("multi", tuple(index.tolist()), tuple(index.names))
    return ("plain", *_column_parts(index), index.name)


def _index(parts: Sequence[Any]) -> Any:
    match tuple(parts):
        case ("range", int(start), int(stop), int(step), name):
            return pandas.RangeIndex(start, stop, step, name=name)
        case ("multi", tuple(items), tuple(names)):
            return pandas.MultiIndex.from_tuples(items, names=names)
        case ("plain", name, values, label):
            return pandas.Index(_column((name, values)), name=label)
    raise ValueError("not an index")


def _frame_parts(frame: Any) -> list[Any]:
    columns = [_column_parts(frame.iloc[:, place]) for place in range(frame.shape[1])]
    return [_index_parts(frame.columns), _index_parts(frame.index), *columns]


def _frame(parts: Sequence[Any]) -> Any:
    columns, index, *values = parts
    made = pandas.DataFrame({place: _column(column) for place, column in enumerate(values)}, index=_index(index))
    made.columns = _index(columns)
    return made


def _series(parts: Sequence[Any]) -> Any:
    index, values, name = parts
    return pandas.Series(_column(values), index=_index(index), name=name)


def _become(value: Any, made: Any) -> None:
    """Let an object hold what another one does."""
    if len(value.index) and hasattr(value, "_mgr"):
        object.__setattr__(value, "_mgr", made._mgr)
        if hasattr(value, "_item_cache"):
            value._item_cache.clear()


KINDS = {
    "DataFrame": Kind(_frame_parts, _frame, lambda value, parts: _become(value, _frame(parts)), True),
    "Series": Kind(
        lambda series: [_index_parts(series.index), _column_parts(series), series.name],
        _series,
        lambda value, parts: _become(value, _series(parts)),
        True,
    ),
    "Index": Kind(_index_parts, _index, lambda value, parts: None, True),
}
