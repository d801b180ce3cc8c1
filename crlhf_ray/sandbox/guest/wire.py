"""The messages between verifier and program: length-prefixed JSON with plain tagged data, and nothing that executes.

Both sides share this file. None, bool, int, float and str travel as JSON has them, other values that never change as
``{"t": tag, "v": content}``. What can change is told apart by a number, so that one object stays one object on both
sides and what happens to it on one is seen on the other: `Heap`. Objects of unknown types stay where they are and
travel as handles.
"""

from __future__ import annotations

import array as arrays
import importlib
import io
import json
import operator
import socket
import struct
import sys
import time
import types
from collections import Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import Any

MAX_MESSAGE = 16 << 20  # bytes: more than any honest answer, little enough to parse in a second or two
MAX_DEPTH = 100  # of tuples and other values within each other; lists, dictionaries and objects nest as they like
MAX_BITS = 1 << 22  # of an integer: an answer of HumanEval+ has 3.3 million; longer ones take seconds an operation
MAX_FRACTION_BITS = 1 << 14
LOOK_SECONDS = 0.2
MARK = "_of_the_program"  # on exceptions that a test may raise, and the program made
MAX_SHARED = 2048  # objects whose changes are followed; of the oldest beyond that, only the value was taken over
#: Special methods of a program's objects that tests may use, as the functions of `operator` are called.
COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "xor",
    "or",
)
UNARY = ("neg", "pos", "abs", "invert", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil")
LOOKS = ("len", "getitem", "setitem", "delitem", "iter", "next", "reversed", "contains", "enter", "exit", "bool")
AWAITED = ("await", "aiter", "anext", "aenter", "aexit")

_HEADER = struct.Struct(">I")
_ATOMS = frozenset({type(None), bool, float, str})
_SEQUENCES: dict[type, str] = {tuple: "tuple", frozenset: "frozenset"}
_KEYS: dict[type, str] = {type({}.keys()): "dict_keys", type({}.values()): "dict_values"}
_ITEMS: type = type({}.items())
# Found by name, so that a program that never uses these modules does not carry them.
_BY_TEXT: dict[str, Callable[[Any], Any]] = {
    "complex": lambda value: [value.real, value.imag],
    "bytes": lambda value: value.decode("latin-1"),
    "range": lambda value: [hex(value.start), hex(value.stop), hex(value.step)],
    "Fraction": lambda value: [hex(value.numerator), hex(value.denominator)],
    "Decimal": str,
    "date": lambda value: value.isoformat(),
    "datetime": lambda value: value.isoformat(),
    "time": lambda value: value.isoformat(),
    "timedelta": lambda value: [value.days, value.seconds, value.microseconds],
}
_TEXT_MODULES = frozenset({"builtins", "fractions", "decimal", "datetime"})
_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in [bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, type(None)]
}
_TYPES |= {kind.__name__: kind for kind in [Counter, OrderedDict, defaultdict, deque]}
#: The exceptions of Python itself.
ERRORS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(importlib.import_module("builtins")).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and name == kind.__name__
}
# Subclasses are sent as the content of their plain base, read by the base's own methods.
NUMBERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class Unsendable(ValueError):
    """A value that no message can hold: too deep, too long, too large."""


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


def _pairs(parts: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(parts) % 2:
        raise ValueError("a key without value")
    return list(zip(parts[::2], parts[1::2], strict=True))


def _fill_dict(value: Any, parts: Sequence[Any]) -> None:
    pairs = _pairs(parts)
    kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
    kind.clear(value)
    for key, item in pairs:  # in Python's own steps, between which a time limit can end it: keys may collide
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
_EXACT: dict[type, str] = {
    kind: kind.__name__ for kind in (list, dict, Counter, OrderedDict, defaultdict, set, deque, bytearray, arrays.array)
} | {kind: kind.__name__ for kind in (io.StringIO, io.BytesIO, UserList, UserDict, UserString)}
_DERIVED: tuple[tuple[type, str], ...] = ((list, "list"), (OrderedDict, "OrderedDict"), (dict, "dict"), (set, "set"))


def _number_array(value: Any) -> tuple[Any, ...]:
    numpy = sys.modules["numpy"]
    return value.dtype.str, tuple(value.shape), numpy.ascontiguousarray(value).tobytes()


def array(parts: Sequence[Any]) -> Any:
    """A numpy array of numbers or times as it was."""
    import numpy

    dtype, shape, data = parts
    kind = numpy.dtype(_text(dtype))
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


def _unchanged(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and (all(map(operator.is_, now, before)) or all(map(_is_as_it_was, now, before)))


def _is_as_it_was(new: Any, old: Any) -> bool:
    """Only plain values are asked whether they are equal: an array has no one answer, a program's object any."""
    if new is old or type(new) is not type(old):
        return new is old
    return _unchanged(new, old) if type(new) is tuple else type(new) in _COMPARED and bool(new == old)


_COMPARED = frozenset({int, float, str, bytes})


def fields_of(value: Any) -> dict[str, Any]:
    """What an object holds, in its dictionary and in slots."""
    found = dict(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple)


class Heap:
    """Objects that change and that both sides have, known by numbers, and the values made of them.

    first: 0 or 1; each side counts its own objects in steps of two. outside: the tagged form of an object that is no
    value. inside: what a tag stands for that is no value. classes: those that both sides have, by name. libraries:
    whose objects may be received. answers: what is received are a program's answers: numbers in arrays become as wide
    as they can be, and exceptions are marked as the program's.
    """

    def __init__(
        self,
        first: int,
        outside: Callable[[Any], Any],
        inside: Callable[[str, Any], Any],
        classes: Mapping[str, type],
        libraries: Sequence[str] = ("numpy", "pandas"),
        *,
        answers: bool = False,
    ):
        self.first = self.next = first
        self.outside, self.inside, self.classes, self.libraries = outside, inside, classes, libraries
        self.answers = answers
        self.filling = 0  # values that are being made: where these ask the program for a hash, more than one
        # Less than a message holds: else an answer put into an argument would be the test's mistake.
        self.deepest = MAX_DEPTH + 1 if first else MAX_DEPTH - 20
        self.objects: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.kinds: dict[int, str] = {}
        self.before: dict[int, Sequence[Any]] = {}
        self._fresh: list[int] = []

    # ---- sending

    def pack(self, value: Any) -> list[Any]:
        """The value, and all objects that are new to the other side or have changed. Raises Unsendable."""
        self._fresh = [number for number in self.objects if self.has_changed(number)]
        body = self.encode(value)
        table: list[Any] = []
        for number in self._fresh:  # which grows on the way
            parts = self.before[number] = self._parts(number, self.objects[number])
            table.append([number, self.kinds[number], self._encode_parts(parts)])
        return [body, table]

    def has_changed(self, number: int) -> bool:
        """Whether an object differs from what the other side knows of it. What is just being filled does not yet."""
        before = self.before.get(number)
        return before is not None and not _unchanged(self._parts(number, self.objects[number]), before)

    def _parts(self, number: int, value: Any) -> Sequence[Any]:
        kind = self.kinds[number]
        if kind == "instance":
            parts: list[Any] = [type(value).__qualname__]
            for item in fields_of(value).items():
                parts += item
            return parts
        return self._kind(kind).parts(value)

    def _kind(self, name: str) -> Kind:
        found = KINDS.get(name)
        if found is None and name in ARRAY_KINDS and "numpy" in self.libraries:
            found = ARRAY_KINDS[name]
            if name == "ndarray" and self.answers:
                found = replace(found, make=wide_array)
        if found is None and name in ("DataFrame", "Series", "Index") and "pandas" in self.libraries:
            found = importlib.import_module(__name__.replace("wire", "frames")).kinds(self.answers)[name]
        if found is None:
            raise ProtocolError(f"unknown kind of object {name[:40]!r}")
        return found

    def _encode_parts(self, parts: Sequence[Any]) -> list[Any]:
        kinds = set(map(type, parts))
        if kinds <= _ATOMS or (kinds == {int} and min(parts) >= -(1 << 63) and max(parts) < 1 << 63):
            return list(parts)
        return [self.encode(part) for part in parts]

    def share(self, value: Any, kind: str, number: int | None = None) -> int:
        if number is None:
            number, self.next = self.next, self.next + 2
        self.objects[number], self.kinds[number], self.numbers[id(value)] = value, kind, number
        return number

    def forget(self, numbers: Sequence[int]) -> None:
        """No longer follow what happens to these."""
        for number in numbers:
            value = self.objects.pop(number, None)
            if value is not None:
                del self.numbers[id(value)], self.kinds[number]
                self.before.pop(number, None)

    def encode(self, value: Any, depth: int = 0) -> Any:
        kind: Any = type(value)
        if kind in _ATOMS:
            return value
        if kind is int:
            if -(1 << 63) <= value < 1 << 63:
                return value
            if value.bit_length() > MAX_BITS:
                raise Unsendable(f"an integer of {value.bit_length()} bits, more than {MAX_BITS}")
            return {"t": "int", "v": hex(value)}
        if depth > MAX_DEPTH:
            raise Unsendable(f"nested deeper than {MAX_DEPTH} levels")
        number = self.numbers.get(id(value))
        if number is not None:
            return {"t": "ref", "v": number}
        if kind in _SEQUENCES:
            return {"t": _SEQUENCES[kind], "v": [self.encode(item, depth + 1) for item in value]}
        shared = _EXACT.get(kind) or self._shared(value, kind)
        if shared is not None:
            number = self.share(value, shared)
            self._fresh.append(number)
            return {"t": "ref", "v": number}
        return self._encode_other(value, kind, depth + 1)

    def _shared(self, value: Any, kind: type) -> str | None:
        """The name of the kind of objects that change, if it is one."""
        if self._is_ours(kind):
            if issubclass(kind, Enum | BaseException | tuple):
                return None
            return "instance"
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.ndim:
            return {"U": "texts", "S": "texts", "O": "objects"}.get(
                value.dtype.kind, "ndarray" if value.dtype.kind in "biufcmM" else None
            )
        if str(kind.__module__).split(".")[0] == "pandas" and "pandas" in self.libraries:
            found: str | None = importlib.import_module(__name__.replace("wire", "frames")).kind_of(value)
            return found
        return None

    def _is_ours(self, kind: type) -> bool:
        return self.classes.get(kind.__qualname__) is kind

    def _encode_other(self, value: Any, kind: Any, depth: int) -> Any:
        if kind is types.FunctionType or hasattr(kind, "__remote__"):  # what most messages have
            return self.outside(value)

        def several(items: Any) -> list[Any]:
            return [self.encode(item, depth) for item in items]

        if kind in _KEYS:
            return {"t": _KEYS[kind], "v": several(value)}
        if kind is _ITEMS:
            return {"t": "dict_items", "v": [several(item) for item in value]}
        if kind.__module__ in _TEXT_MODULES and kind.__name__ in _BY_TEXT:
            return {"t": kind.__name__, "v": _BY_TEXT[kind.__name__](value)}
        if isinstance(value, type):
            if _TYPES.get(value.__name__) is value or ERRORS.get(value.__name__) is value or self._is_ours(value):
                return {"t": "type", "v": value.__qualname__}
            return self.outside(value)
        if kind is types.MappingProxyType:
            return {"t": "mappingproxy", "v": [several(pair) for pair in value.items()]}
        if kind is memoryview:
            return {"t": "memoryview", "v": value.tobytes().decode("latin-1")}
        if self._is_ours(kind) and isinstance(value, Enum):
            return {"t": "enum", "v": [kind.__qualname__, value.name, self.encode(value.value, depth)]}
        if self._is_ours(kind) and isinstance(value, tuple):
            return {"t": "named tuple", "v": [kind.__qualname__, *several(tuple.__iter__(value))]}
        if isinstance(value, BaseException) and (ERRORS.get(kind.__name__) is kind or self._is_ours(kind)):
            attributes = [several(pair) for pair in vars(value).items() if pair[0] != MARK]
            return {"t": "error", "v": [kind.__qualname__, several(value.args), attributes]}
        if str(kind.__module__).split(".")[0] in ("numpy", "pandas"):
            return self._encode_scalar(value, depth)
        return self._encode_derived(value, depth)

    def _encode_scalar(self, value: Any, depth: int) -> Any:
        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, numpy.generic) and value.dtype.kind in "biufcSUmM":
            plain = value.item()
            if type(plain) is type(value):  # Python has no number as wide
                plain = complex(value) if value.dtype.kind == "c" else float(value)
            return self.encode(plain, depth)
        return self._encode_derived(value, depth)

    def _encode_derived(self, value: Any, depth: int) -> Any:
        handle = self.outside(value)
        if handle is not None:
            return handle
        for base, plain in NUMBERS:
            if isinstance(value, base):
                return self.encode(plain(value), depth)
        for base, name in _DERIVED:
            if isinstance(value, base):
                number = self.share(value, name)
                self._fresh.append(number)
                return {"t": "ref", "v": number}
        raise Unsendable(f"a {type(value).__name__} cannot be sent")

    # ---- receiving

    def unpack(self, message: Any) -> Any:
        """The value of what `pack` wrote; raises ProtocolError for anything else."""
        if type(message) is not list or len(message) != 2 or type(message[1]) is not list:
            raise ProtocolError("a value without objects")
        body, table = message
        self.filling += 1
        try:
            waiting: list[Any] = []
            whole: list[Any] = []
            for entry in table:
                if entry[1] == "class":
                    self.inside("class", [entry[0], *entry[2]])
                    continue
                if (later := self._receive(*entry)) is not None:
                    (whole if later else waiting).append(entry)
                self.before.pop(entry[0], None)
            for number, kind, content in reversed(whole):  # what they are made of was met after them
                self.share(self._kind(kind).make(self._decode_parts(content)), kind, number)
            for number, kind, content in sorted(waiting, key=self._rank) if len(waiting) > 1 else waiting:
                parts = self._decode_parts(content)
                if kind == "instance":
                    _fill_instance(self.objects[number], parts)
                else:
                    self._kind(kind).fill(self.objects[number], parts)
            for number, kind, _ in table:
                if kind == "class":
                    continue
                self.before[number] = self._parts(number, self.objects[number])
            return self.decode(body)
        except _MALFORMED as error:
            raise ProtocolError(f"malformed: {type(error).__name__}: {error}"[:200]) from None
        finally:
            self.filling -= 1

    def _rank(self, entry: Any) -> int:
        return 0 if entry[1] == "instance" else self._kind(entry[1]).rank

    def _receive(self, number: Any, kind: Any, content: Any) -> bool | None:
        """Have an object of this number. None where it is whole, False where it is empty, True where it is yet to be
        made, since it is made as a whole."""
        if type(number) is not int or type(kind) is not str or type(content) is not list:
            raise ProtocolError("a malformed object")
        if number in self.objects:
            if kind != self.kinds[number]:
                raise ProtocolError("an object of another kind than before")
            return False
        if number % 2 == self.first or number < 0:
            raise ProtocolError("an object that is not there")
        if kind == "instance":
            found = self.classes.get(_text(content[0]))
            if found is None or issubclass(found, Enum | BaseException | tuple):
                raise ProtocolError(f"no class {str(content[0])[:40]!r}")
            self.share(object.__new__(found), kind, number)
            return False
        if kind == "list" and not {dict, list} & set(map(type, content)):
            self.share(content.copy(), kind, number)  # as large as a list that was written down
            return None
        made = self._kind(kind)
        if not made.whole:
            first = [self.decode(content[0])] if kind in ("deque", "objects") else []  # a length, a shape
            self.share(made.make([*first, *content[1:]]), kind, number)
        return made.whole

    def _decode_parts(self, content: list[Any]) -> list[Any]:
        kinds = set(map(type, content))
        if dict not in kinds and list not in kinds:
            return content.copy()  # what is built may be changed, and the message be looked at again
        return [self.decode(item) for item in content]

    def decode(self, data: Any, depth: int = 0) -> Any:
        kind = type(data)
        if kind in _ATOMS or kind is int:
            return data
        if depth > self.deepest:
            raise ProtocolError(f"nested deeper than {self.deepest} levels")
        if kind is not dict or set(data) != {"t", "v"} or type(data["t"]) is not str:
            raise ProtocolError("a value without type tag")
        tag, content = data["t"], data["v"]
        if tag == "ref":
            if type(content) is not int or content not in self.objects:
                raise ProtocolError("an object that is not there")
            return self.objects[content]
        try:
            if tag in _BUILDERS:
                return _BUILDERS[tag](content, lambda item: self.decode(item, depth + 1))
            if tag in ("type", "enum", "named tuple", "error"):
                return self._of_class(tag, content, depth + 1)
        except _MALFORMED as error:
            raise ProtocolError(f"malformed {tag[:40]}: {error}"[:200]) from None
        return self.inside(tag, content)

    def _of_class(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "type":
            name = _text(content)
            return _TYPES.get(name) or self.classes.get(name) or ERRORS[name]
        name, *rest = _plain_list(content)
        found = self.classes.get(_text(name)) or ERRORS.get(name)
        if tag == "enum" and found is not None and issubclass(found, Enum):
            member, value = rest
            return (
                found[member]
                if type(member) is str and member in found.__members__
                else found(self.decode(value, depth))
            )
        if tag == "named tuple" and found is not None and is_named_tuple(found):
            return tuple.__new__(found, [self.decode(item, depth) for item in rest])
        if tag == "error" and found is not None and issubclass(found, BaseException):
            arguments, attributes = rest
            error = make_error(
                found,
                [self.decode(item, depth) for item in _plain_list(arguments)],
                {_text(key): self.decode(item, depth) for key, item in _plain_list(attributes)},
            )
            if self.answers:
                error.__dict__[MARK] = True
            return error
        raise ValueError(f"no such class {name[:40]!r}")


def make_error(kind: type[BaseException], arguments: list[Any], attributes: dict[str, Any]) -> BaseException:
    """An exception with these arguments, whatever its class wants of its caller."""
    error = kind.__new__(kind, *arguments)
    if kind.__module__ == "builtins":
        try:
            kind.__init__(error, *arguments)
        except TypeError:  # such as UnicodeDecodeError, whose text is all that is there
            error = kind.__new__(kind)
    error.args = tuple(arguments)
    _refuse_methods(kind, attributes)
    error.__dict__.update(attributes)
    return error


def _fill_instance(value: Any, parts: list[Any]) -> None:
    fields = dict(_pairs(parts[1:]))
    _refuse_methods(type(value), fields)
    if hasattr(value, "__dict__"):
        value.__dict__.clear()
    for name, item in fields.items():
        if isinstance(getattr(type(value), name, None), types.MemberDescriptorType):
            object.__setattr__(value, name, item)
        else:
            value.__dict__[name] = item


def _refuse_methods(kind: type, fields: Mapping[str, Any]) -> None:
    """A method of a class that both sides have is the class's own, whatever its object holds under that name."""
    for name in fields:
        if not _text(name).isidentifier():
            raise ValueError("a field without a name")
        own = getattr(kind, name, None)
        if callable(own) or isinstance(own, property | classmethod | staticmethod):
            raise ValueError(f"{name[:40]} is a method")


_MALFORMED = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, ImportError)


def _plain_list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise TypeError("not a list")
    return content


def _text(content: Any) -> str:
    if type(content) is not str:
        raise TypeError("not a string")
    return content


def _mapping(content: Any, item: Callable[[Any], Any]) -> dict[Any, Any]:
    return {item(key): item(value) for key, value in _plain_list(content)}


def _stdlib(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _integer(content: Any, bits: int = MAX_BITS) -> int:
    if len(_text(content)) > bits // 4 + 4:
        raise ValueError(f"more than {bits} bits")
    return int(content, 16)


def _fraction(content: Any, item: Callable[[Any], Any]) -> Any:
    parts = [_integer(part, MAX_FRACTION_BITS) for part in _plain_list(content)]
    return _stdlib("fractions", "Fraction")(*parts)


def _decimal(content: Any, item: Callable[[Any], Any]) -> Any:
    if len(_text(content)) > 10_000:
        raise ValueError("more than 10000 digits")
    return _stdlib("decimal", "Decimal")(content)


_BUILDERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "int": lambda content, item: _integer(content),
    "tuple": lambda content, item: tuple(map(item, _plain_list(content))),
    "frozenset": lambda content, item: frozenset(map(item, _plain_list(content))),
    "dict_keys": lambda content, item: dict.fromkeys(map(item, _plain_list(content))).keys(),
    "dict_values": lambda content, item: dict(enumerate(map(item, _plain_list(content)))).values(),
    "dict_items": lambda content, item: _mapping(content, item).items(),
    "mappingproxy": lambda content, item: types.MappingProxyType(_mapping(content, item)),
    "complex": lambda content, item: complex(float(content[0]), float(content[1])),
    "bytes": lambda content, item: _text(content).encode("latin-1"),
    "memoryview": lambda content, item: memoryview(_text(content).encode("latin-1")),
    "range": lambda content, item: range(*map(_integer, _plain_list(content))),
    "Fraction": _fraction,
    "Decimal": _decimal,
    "date": lambda content, item: _stdlib("datetime", "date").fromisoformat(_text(content)),
    "datetime": lambda content, item: _stdlib("datetime", "datetime").fromisoformat(_text(content)),
    "time": lambda content, item: _stdlib("datetime", "time").fromisoformat(_text(content)),
    "timedelta": lambda content, item: _stdlib("datetime", "timedelta")(*map(int, _plain_list(content))),
}


class Channel:
    """Whole messages over a stream socket, each wait bounded by ``deadline`` (monotonic seconds; None waits)."""

    def __init__(self, sock: socket.socket, deadline: float | None = None):
        self.sock, self.deadline = sock, deadline
        self.watch: Callable[[], None] | None = None  # called now and then while a message is awaited
        self.size = 0  # bytes of the last message received
        self._received = b""

    def _arm(self, most: float | None = None) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left if most is None else min(left, most))

    def send(self, message: Any) -> None:
        """Raises Unsendable where the message is too long, OSError where nobody listens, TimeoutError."""
        body = to_json(message).encode("ascii")
        if len(body) > MAX_MESSAGE:
            raise Unsendable(f"a message of {len(body)} bytes, more than {MAX_MESSAGE}")
        self._arm()
        self.sock.sendall(_HEADER.pack(len(body)) + body)

    def receive(self) -> Any:
        """Raises EOFError, TimeoutError, or ProtocolError for anything that is no message."""
        (size,) = _HEADER.unpack(self._exactly(_HEADER.size))
        self.size = size
        if size > MAX_MESSAGE:
            raise ProtocolError(f"announced a message of {size} bytes, more than {MAX_MESSAGE}")
        try:
            return from_json(self._exactly(size).decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"not JSON: {error}"[:200]) from None

    def _exactly(self, size: int) -> bytes:
        parts, have = [self._received], len(self._received)
        while have < size:
            self._arm(self.watch and LOOK_SECONDS)
            try:
                part = self.sock.recv(max(65536, min(size - have, 1 << 20)))
            except ConnectionError:
                part = b""
            except TimeoutError:
                if self.watch is None:
                    raise
                self.watch()
                continue
            if not part:
                raise EOFError
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._received = data[size:]
        return data[:size]


to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
from_json = json.JSONDecoder().decode
