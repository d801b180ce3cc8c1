"""Kinds of objects that change: what each is made of, and how one is made, and filled, of that again."""

from __future__ import annotations

import array as arrays
import io
import operator
import sys
from collections import Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from .values import pairs, text


@dataclass(frozen=True)
class Kind:
    """A type of objects that change. parts: what one is made of, in order; make: a new one, of its parts or empty.

    fill: make one of these parts, in place. whole: its parts refer to no object that changes.
    rank: kinds that hash their parts come after those that are hashed.
    """

    parts: Callable[[Any], Sequence[Any]]
    make: Callable[[Any], Any]
    fill: Callable[[Any, list[Any]], Any]
    whole: bool = False
    rank: int = 1


def _flat(value: Any) -> list[Any]:
    return [part for pair in dict.items(value) for part in pair]


def _fill_dict(value: Any, parts: Sequence[Any]) -> None:
    entries = pairs(parts)
    kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
    kind.clear(value)
    for key, item in entries:  # in Python's own steps, between which a time limit can end it: keys may collide
        kind.__setitem__(value, key, item)


def _fill_defaultdict(value: Any, parts: list[Any]) -> None:
    value.default_factory = parts[0]
    _fill_dict(value, parts[1:])


def _fill_set(value: set[Any], parts: list[Any]) -> None:
    set.clear(value)
    for item in parts:
        set.add(value, item)


def _fill_deque(value: deque[Any], parts: list[Any]) -> None:
    deque.clear(value)
    deque.extend(value, parts[1:])


def _make_deque(parts: list[Any]) -> deque[Any]:
    if parts[0] is not None and type(parts[0]) is not int:
        raise TypeError("a length belongs here")
    return deque(maxlen=parts[0])


def _fill_slice(value: Any, parts: list[Any]) -> None:
    value[:] = arrays.array(parts[0], parts[1:]) if isinstance(value, arrays.array) else parts[0]


def _fill_list(value: list[Any], parts: list[Any]) -> None:
    list.__setitem__(value, slice(None), parts)


def _fill_stream(value: Any, parts: list[Any]) -> None:
    value.seek(0)
    value.truncate()
    value.write(parts[0])
    value.seek(parts[1])


def _fill_user(value: Any, parts: list[Any]) -> None:
    (value.data,) = parts


def _stream_parts(value: Any) -> tuple[Any, int]:
    return value.getvalue(), value.tell()


def _make_stream(kind: type) -> Callable[[list[Any]], Any]:
    def make(parts: list[Any]) -> Any:
        stream = kind(parts[0])
        stream.seek(parts[1])
        return stream

    return make


def _nothing(value: Any, parts: list[Any]) -> None:
    pass


KINDS: dict[str, Kind] = {
    "list": Kind(lambda value: list(list.__iter__(value)), lambda parts: [], _fill_list),
    "dict": Kind(_flat, lambda parts: {}, _fill_dict, rank=2),
    "Counter": Kind(_flat, lambda parts: Counter(), _fill_dict, rank=2),
    "OrderedDict": Kind(_flat, lambda parts: OrderedDict(), _fill_dict, rank=2),
    "defaultdict": Kind(
        lambda value: [value.default_factory, *_flat(value)], lambda parts: defaultdict(), _fill_defaultdict, rank=2
    ),
    "set": Kind(lambda value: list(set.__iter__(value)), lambda parts: set(), _fill_set, rank=2),
    "deque": Kind(lambda value: [value.maxlen, *deque.__iter__(value)], _make_deque, _fill_deque),
    "bytearray": Kind(lambda value: (bytes(value),), lambda parts: bytearray(parts[0]), _fill_slice, True),
    "array": Kind(
        lambda value: (value.typecode, *value), lambda parts: arrays.array(parts[0], parts[1:]), _fill_slice, True
    ),
    "StringIO": Kind(_stream_parts, _make_stream(io.StringIO), _fill_stream, True),
    "BytesIO": Kind(_stream_parts, _make_stream(io.BytesIO), _fill_stream, True),
    "UserList": Kind(lambda value: (value.data,), lambda parts: UserList(), _fill_user),
    "UserDict": Kind(lambda value: (value.data,), lambda parts: UserDict(), _fill_user),
    "UserString": Kind(lambda value: (value.data,), lambda parts: UserString(""), _fill_user),
}
EXACT: dict[type, str] = {
    kind: kind.__name__ for kind in (list, dict, Counter, OrderedDict, defaultdict, set, deque, bytearray, arrays.array)
} | {kind: kind.__name__ for kind in (io.StringIO, io.BytesIO, UserList, UserDict, UserString)}
DERIVED: tuple[tuple[type, str], ...] = ((list, "list"), (OrderedDict, "OrderedDict"), (dict, "dict"), (set, "set"))


def _number_array(value: Any) -> tuple[Any, ...]:
    numpy = sys.modules["numpy"]
    return value.dtype.str, tuple(value.shape), numpy.ascontiguousarray(value).tobytes()


def array(parts: Sequence[Any]) -> Any:
    """A numpy array of numbers or times as it was."""
    import numpy

    dtype, shape, data = parts
    kind = numpy.dtype(text(dtype))
    if kind.kind not in "biufcmM" or not _is_shape(shape):
        raise ValueError("not a numeric array")
    return numpy.frombuffer(data, dtype=kind).reshape(shape).copy()


def wide_array(parts: Sequence[Any]) -> Any:
    """An array of the widest numbers of their kind.

    Narrow ones draw what they are compared with down to their own width, where 100000 is infinite.
    """
    made = array(parts)
    if not made.ndim:
        raise ValueError("an array without dimensions")
    wide = {"f": "float64", "c": "complex128", "i": "int64", "u": "uint64", "b": "bool"}.get(made.dtype.kind)
    return made.astype(wide) if wide else made


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)


def _fill_array(value: Any, parts: list[Any]) -> None:
    value[...] = array(parts)


def _make_items(dtype: Any) -> Callable[[list[Any]], Any]:
    def make(parts: list[Any]) -> Any:
        import numpy

        if not _is_shape(parts[0]) or prod(parts[0]) != len(parts) - 1:
            raise ValueError("not as many items as the shape has")
        if dtype is object:
            return numpy.empty(parts[0], dtype=object)
        if not all(type(item) in (str, bytes) for item in parts[1:]):
            raise TypeError("texts belong here")
        return numpy.array(parts[1:], dtype=None if len(parts) > 1 else "U1").reshape(parts[0])

    return make


def _fill_items(value: Any, parts: list[Any]) -> None:
    if value.size != len(parts) - 1:
        raise ValueError("not as many items as the shape has")
    for place, item in enumerate(parts[1:]):
        value.flat[place] = item


def _items(value: Any) -> list[Any]:
    return [tuple(value.shape), *value.ravel().tolist()]


ARRAY_KINDS: dict[str, Kind] = {
    "ndarray": Kind(_number_array, array, _fill_array, True),
    "texts": Kind(_items, _make_items(str), _fill_items, True),
    "objects": Kind(_items, _make_items(object), _fill_items),
}


def unchanged(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and (all(map(operator.is_, now, before)) or all(map(_is_as_it_was, now, before)))


def _is_as_it_was(new: Any, old: Any) -> bool:
    """Only plain values are asked whether they are equal: an array has no one answer, a program's object any."""
    if new is old or type(new) is not type(old):
        return new is old
    return unchanged(new, old) if type(new) is tuple else type(new) in _COMPARED and bool(new == old)


_COMPARED = frozenset({int, float, str, bytes})
