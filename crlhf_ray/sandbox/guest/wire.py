"""The messages between verifier and program: length-prefixed JSON with plain tagged data, and nothing that executes.

Both sides share this file. Values are None, bool, int, float, str and list as JSON has them, and everything else as
``{"t": tag, "v": content}``. Objects of other types stay where they are and travel as a handle.
"""

from __future__ import annotations

import importlib
import json
import socket
import struct
import sys
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

MAX_MESSAGE = 16 << 20  # bytes: more than any honest answer, little enough to parse in a second or two
MAX_DEPTH = 100
MAX_BITS = 1 << 22  # of an integer: an answer of HumanEval+ has 3.3 million; longer ones take seconds an operation
MAX_FRACTION_BITS = 1 << 14
ITERATOR_CHUNK = 256
HANDLE, ITERATOR = "object", "iterator"

_HEADER = struct.Struct(">I")
_ATOMS = frozenset({type(None), bool, float, str})
_SEQUENCES: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
_MAPPINGS: dict[type, str] = {dict: "dict", Counter: "Counter", OrderedDict: "OrderedDict", defaultdict: "defaultdict"}
_KEYS: dict[type, str] = {type({}.keys()): "dict_keys", type({}.values()): "dict_values"}
_ITEMS: type = type({}.items())
# Found by name, so that a program that never uses these modules does not carry them.
_BY_TEXT: dict[str, Callable[[Any], Any]] = {
    "complex": lambda value: [value.real, value.imag],
    "bytes": lambda value: value.decode("latin-1"),
    "bytearray": lambda value: value.decode("latin-1"),
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
    for kind in [bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict]
}
# Subclasses are sent as the content of their plain base, read by the base's own methods.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)


class ProtocolError(Exception):
    """The other side sent something that is no message."""


def encode(value: Any, keep: Callable[[Any], dict[str, Any]], depth: int = 0) -> Any:
    """Turn a value into what JSON can carry. ``keep`` is given every object of an unknown type and returns its tag."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        if -(1 << 63) <= value < 1 << 63:
            return value
        if value.bit_length() > MAX_BITS:
            raise ValueError(f"an integer of {value.bit_length()} bits, more than {MAX_BITS}")
        return {"t": "int", "v": hex(value)}
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        kinds = set(map(type, value))
        if kinds <= _ATOMS:
            return value
        return [encode(item, keep, depth + 1) for item in value]
    if kind in _SEQUENCES:
        return {"t": _SEQUENCES[kind], "v": [encode(item, keep, depth + 1) for item in value]}
    if kind in _MAPPINGS:
        pairs = [[encode(key, keep, depth + 1), encode(item, keep, depth + 1)] for key, item in dict.items(value)]
        return {"t": _MAPPINGS[kind], "v": pairs}
    if kind in _KEYS:
        return {"t": _KEYS[kind], "v": [encode(item, keep, depth + 1) for item in value]}
    if kind is _ITEMS:
        return {"t": "dict_items", "v": [[encode(part, keep, depth + 1) for part in item] for item in value]}
    if kind.__module__ in _TEXT_MODULES and kind.__name__ in _BY_TEXT:
        return {"t": kind.__name__, "v": _BY_TEXT[kind.__name__](value)}
    if kind is type and value in _TYPES.values():
        return {"t": "type", "v": value.__name__}
    if kind.__module__ == "numpy":
        return _encode_numpy(value, keep, depth)
    for base, plain in _BASES:
        if isinstance(value, base):
            return encode(plain(value), keep, depth + 1)
    return keep(value)


def _encode_numpy(value: Any, keep: Callable[[Any], dict[str, Any]], depth: int) -> Any:
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.generic) and value.dtype.kind in "biufcSU":
        plain = value.item()
        if type(plain) is type(value):  # Python has no number as wide
            plain = complex(value) if value.dtype.kind == "c" else float(value)
        return encode(plain, keep, depth + 1)
    if type(value) is numpy.ndarray and value.dtype.kind in "biufc":
        content = numpy.ascontiguousarray(value).tobytes().decode("latin-1")
        return {"t": "ndarray", "v": [value.dtype.str, list(value.shape), content]}
    return keep(value)


def array(content: Any) -> Any:
    """A numpy array as it was."""
    import numpy

    dtype, shape, data = content
    kind = numpy.dtype(_text(dtype))
    if kind.kind not in "biufc" or not all(type(size) is int and size >= 0 for size in _plain_list(shape)):
        raise ValueError("not a numeric array")
    return numpy.frombuffer(_text(data).encode("latin-1"), dtype=kind).reshape(shape).copy()


def decode(data: Any, handle: Callable[[str, Any], Any], depth: int = 0, array: Callable[[Any], Any] = array) -> Any:
    """Build the value again; raises ProtocolError for anything that `encode` does not write.

    ``handle(tag, content)`` makes what stands for an object of the other side, ``array(content)`` a numpy array.
    """
    kind = type(data)
    if kind in _ATOMS or kind is int:
        return data
    if depth > MAX_DEPTH + 1:
        raise ProtocolError(f"nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        kinds = set(map(type, data))
        if list not in kinds and dict not in kinds:
            return data.copy()  # what is built may be changed, and the message be looked at again
        return [decode(item, handle, depth + 1, array) for item in data]
    if kind is not dict or set(data) != {"t", "v"} or type(data["t"]) is not str:
        raise ProtocolError("a value without type tag")
    tag, content = data["t"], data["v"]
    if tag in (HANDLE, ITERATOR):
        return handle(tag, content)
    builder = _BUILDERS.get(tag)
    if builder is None and tag != "ndarray":
        raise ProtocolError(f"unknown type tag {tag[:40]!r}")
    try:
        return builder(content, lambda item: decode(item, handle, depth + 1, array)) if builder else array(content)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, ImportError) as error:
        raise ProtocolError(f"malformed {tag}: {error}"[:200]) from None


def _plain_list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise TypeError("not a list")
    return content


def _text(content: Any) -> str:
    if type(content) is not str:
        raise TypeError("not a string")
    return content


def _mapping(content: Any, item: Callable[[Any], Any]) -> dict[Any, Any]:
    # In Python's own steps, between which a time limit can end it: keys may be made to collide.
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


def _counter(content: Any, item: Callable[[Any], Any]) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, _mapping(content, item))
    return counter


_BUILDERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "int": lambda content, item: _integer(content),
    "tuple": lambda content, item: tuple(map(item, _plain_list(content))),
    "set": lambda content, item: set(map(item, _plain_list(content))),
    "frozenset": lambda content, item: frozenset(map(item, _plain_list(content))),
    "deque": lambda content, item: deque(map(item, _plain_list(content))),
    "dict": _mapping,
    "dict_keys": lambda content, item: dict.fromkeys(map(item, _plain_list(content))).keys(),
    "dict_values": lambda content, item: dict(enumerate(map(item, _plain_list(content)))).values(),
    "dict_items": lambda content, item: _mapping(content, item).items(),
    "Counter": _counter,
    "OrderedDict": lambda content, item: OrderedDict(_mapping(content, item)),
    "defaultdict": lambda content, item: defaultdict(None, _mapping(content, item)),
    "complex": lambda content, item: complex(float(content[0]), float(content[1])),
    "bytes": lambda content, item: _text(content).encode("latin-1"),
    "bytearray": lambda content, item: bytearray(_text(content).encode("latin-1")),
    "range": lambda content, item: range(*map(_integer, _plain_list(content))),
    "Fraction": _fraction,
    "Decimal": _decimal,
    "date": lambda content, item: _stdlib("datetime", "date").fromisoformat(_text(content)),
    "datetime": lambda content, item: _stdlib("datetime", "datetime").fromisoformat(_text(content)),
    "time": lambda content, item: _stdlib("datetime", "time").fromisoformat(_text(content)),
    "timedelta": lambda content, item: _stdlib("datetime", "timedelta")(*map(int, _plain_list(content))),
    "type": lambda content, item: _TYPES[_text(content)],
}


class Channel:
    """Whole messages over a stream socket, each wait bounded by ``deadline`` (monotonic seconds; None waits)."""

    def __init__(self, sock: socket.socket, deadline: float | None = None):
        self.sock, self.deadline = sock, deadline
        self._received = b""

    def _arm(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)

    def send(self, message: Any) -> None:
        """Raises ValueError where the message is too long, OSError where nobody listens, TimeoutError."""
        body = to_json(message).encode("ascii")
        if len(body) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(body)} bytes, more than {MAX_MESSAGE}")
        self._arm()
        self.sock.sendall(_HEADER.pack(len(body)) + body)

    def receive(self) -> Any:
        """Raises EOFError, TimeoutError, or ProtocolError for anything that is no message."""
        (size,) = _HEADER.unpack(self._exactly(_HEADER.size))
        if size > MAX_MESSAGE:
            raise ProtocolError(f"announced a message of {size} bytes, more than {MAX_MESSAGE}")
        try:
            return from_json(self._exactly(size).decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"not JSON: {error}"[:200]) from None

    def _exactly(self, size: int) -> bytes:
        parts, have = [self._received], len(self._received)
        while have < size:
            self._arm()
            try:
                part = self.sock.recv(max(65536, min(size - have, 1 << 20)))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._received = data[size:]
        return data[:size]


to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
from_json = json.JSONDecoder().decode
