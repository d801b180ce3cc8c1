"""Values that never change: what travels for them, and what is made of that again."""

from __future__ import annotations

import importlib
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import wire

ATOMS = frozenset({type(None), bool, float, str})
SEQUENCES: dict[type, str] = {tuple: "tuple", frozenset: "frozenset"}
KEYS: dict[type, str] = {type({}.keys()): "dict_keys", type({}.values()): "dict_values"}
ITEMS: type = type({}.items())
# Found by name, so that a program that never uses these modules does not carry them.
BY_TEXT: dict[str, Callable[[Any], Any]] = {
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
TEXT_MODULES = frozenset({"builtins", "fractions", "decimal", "datetime"})
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in [bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, type(None)]
}
TYPES |= {kind.__name__: kind for kind in [Counter, OrderedDict, defaultdict, deque]}
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


def describe(error: BaseException) -> list[str]:
    """The built-in type nearest to the error's own, its own, and its text."""
    builtin = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return [builtin.__name__, type(error).__name__[:100], text]


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


def pairs(parts: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(parts) % 2:
        raise ValueError("a key without value")
    return list(zip(parts[::2], parts[1::2], strict=True))


def fill_instance(value: Any, parts: list[Any]) -> None:
    fields = dict(pairs(parts[1:]))
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
        if not text(name).isidentifier():
            raise ValueError("a field without a name")
        own = getattr(kind, name, None)
        if callable(own) or isinstance(own, property | classmethod | staticmethod):
            raise ValueError(f"{name[:40]} is a method")


def plain_list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise TypeError("not a list")
    return content


def text(content: Any) -> str:
    if type(content) is not str:
        raise TypeError("not a string")
    return content


def _mapping(content: Any, item: Callable[[Any], Any]) -> dict[Any, Any]:
    return {item(key): item(value) for key, value in plain_list(content)}


def _stdlib(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _integer(content: Any, bits: int = wire.MAX_BITS) -> int:
    if len(text(content)) > bits // 4 + 4:
        raise ValueError(f"more than {bits} bits")
    return int(content, 16)


def _fraction(content: Any, item: Callable[[Any], Any]) -> Any:
    parts = [_integer(part, wire.MAX_FRACTION_BITS) for part in plain_list(content)]
    return _stdlib("fractions", "Fraction")(*parts)


def _decimal(content: Any, item: Callable[[Any], Any]) -> Any:
    if len(text(content)) > 10_000:
        raise ValueError("more than 10000 digits")
    return _stdlib("decimal", "Decimal")(content)


BUILDERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "int": lambda content, item: _integer(content),
    "tuple": lambda content, item: tuple(map(item, plain_list(content))),
    "frozenset": lambda content, item: frozenset(map(item, plain_list(content))),
    "dict_keys": lambda content, item: dict.fromkeys(map(item, plain_list(content))).keys(),
    "dict_values": lambda content, item: dict(enumerate(map(item, plain_list(content)))).values(),
    "dict_items": lambda content, item: _mapping(content, item).items(),
    "mappingproxy": lambda content, item: types.MappingProxyType(_mapping(content, item)),
    "complex": lambda content, item: complex(float(content[0]), float(content[1])),
    "bytes": lambda content, item: text(content).encode("latin-1"),
    "memoryview": lambda content, item: memoryview(text(content).encode("latin-1")),
    "range": lambda content, item: range(*map(_integer, plain_list(content))),
    "Fraction": _fraction,
    "Decimal": _decimal,
    "date": lambda content, item: _stdlib("datetime", "date").fromisoformat(text(content)),
    "datetime": lambda content, item: _stdlib("datetime", "datetime").fromisoformat(text(content)),
    "time": lambda content, item: _stdlib("datetime", "time").fromisoformat(text(content)),
    "timedelta": lambda content, item: _stdlib("datetime", "timedelta")(*map(int, plain_list(content))),
}
