"""Objects that change and that both sides have, each known by a number."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from . import kinds, values, wire

_MALFORMED = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, ImportError)


def _frames() -> Any:
    return importlib.import_module(".frames", __package__)  # only where there is pandas


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
        self.deepest = wire.MAX_DEPTH + 1 if first else wire.MAX_DEPTH - 20
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
        return before is not None and not kinds.unchanged(self._parts(number, self.objects[number]), before)

    def _parts(self, number: int, value: Any) -> Sequence[Any]:
        kind = self.kinds[number]
        if kind == "instance":
            parts: list[Any] = [type(value).__qualname__]
            for item in values.fields_of(value).items():
                parts += item
            return parts
        return self._kind(kind).parts(value)

    def _kind(self, name: str) -> kinds.Kind:
        found = kinds.KINDS.get(name)
        if found is None and name in kinds.ARRAY_KINDS and "numpy" in self.libraries:
            found = kinds.ARRAY_KINDS[name]
            if name == "ndarray" and self.answers:
                found = replace(found, make=kinds.wide_array)
        if found is None and name in ("DataFrame", "Series", "Index") and "pandas" in self.libraries:
            found = _frames().kinds(self.answers)[name]
        if found is None:
            raise wire.ProtocolError(f"unknown kind of object {name[:40]!r}")
        return found

    def _encode_parts(self, parts: Sequence[Any]) -> list[Any]:
        found = set(map(type, parts))
        if found <= values.ATOMS or (found == {int} and min(parts) >= -(1 << 63) and max(parts) < 1 << 63):
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
        if kind in values.ATOMS:
            return value
        if kind is int:
            if -(1 << 63) <= value < 1 << 63:
                return value
            if value.bit_length() > wire.MAX_BITS:
                raise wire.Unsendable(f"an integer of {value.bit_length()} bits, more than {wire.MAX_BITS}")
            return {"t": "int", "v": hex(value)}
        if depth > wire.MAX_DEPTH:
            raise wire.Unsendable(f"nested deeper than {wire.MAX_DEPTH} levels")
        number = self.numbers.get(id(value))
        if number is not None:
            return {"t": "ref", "v": number}
        if kind in values.SEQUENCES:
            return {"t": values.SEQUENCES[kind], "v": [self.encode(item, depth + 1) for item in value]}
        shared = kinds.EXACT.get(kind) or self._shared(value, kind)
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
            found: str | None = _frames().kind_of(value)
            return found
        return None

    def _is_ours(self, kind: type) -> bool:
        return self.classes.get(kind.__qualname__) is kind

    def _encode_other(self, value: Any, kind: Any, depth: int) -> Any:
        if kind is types.FunctionType or hasattr(kind, "__remote__"):  # what most messages have
            return self.outside(value)

        def several(items: Any) -> list[Any]:
            return [self.encode(item, depth) for item in items]

        if kind in values.KEYS:
            return {"t": values.KEYS[kind], "v": several(value)}
        if kind is values.ITEMS:
            return {"t": "dict_items", "v": [several(item) for item in value]}
        if kind.__module__ in values.TEXT_MODULES and kind.__name__ in values.BY_TEXT:
            return {"t": kind.__name__, "v": values.BY_TEXT[kind.__name__](value)}
        if isinstance(value, type):
            if (
                values.TYPES.get(value.__name__) is value
                or values.ERRORS.get(value.__name__) is value
                or self._is_ours(value)
            ):
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
        if isinstance(value, BaseException) and (values.ERRORS.get(kind.__name__) is kind or self._is_ours(kind)):
            attributes = [several(pair) for pair in vars(value).items() if pair[0] != wire.MARK]
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
        for base, plain in values.NUMBERS:
            if isinstance(value, base):
                return self.encode(plain(value), depth)
        for base, name in kinds.DERIVED:
            if isinstance(value, base):
                number = self.share(value, name)
                self._fresh.append(number)
                return {"t": "ref", "v": number}
        raise wire.Unsendable(f"a {type(value).__name__} cannot be sent")

    # ---- receiving

    def unpack(self, message: Any) -> Any:
        """The value of what `pack` wrote; raises ProtocolError for anything else."""
        if type(message) is not list or len(message) != 2 or type(message[1]) is not list:
            raise wire.ProtocolError("a value without objects")
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
                    values.fill_instance(self.objects[number], parts)
                else:
                    self._kind(kind).fill(self.objects[number], parts)
            for number, kind, _ in table:
                if kind == "class":
                    continue
                self.before[number] = self._parts(number, self.objects[number])
            return self.decode(body)
        except _MALFORMED as error:
            raise wire.ProtocolError(f"malformed: {type(error).__name__}: {error}"[:200]) from None
        finally:
            self.filling -= 1

    def _rank(self, entry: Any) -> int:
        return 0 if entry[1] == "instance" else self._kind(entry[1]).rank

    def _receive(self, number: Any, kind: Any, content: Any) -> bool | None:
        """Have an object of this number. None where it is whole, False where it is empty, True where it is yet to be
        made, since it is made as a whole."""
        if type(number) is not int or type(kind) is not str or type(content) is not list:
            raise wire.ProtocolError("a malformed object")
        if number in self.objects:
            if kind != self.kinds[number]:
                raise wire.ProtocolError("an object of another kind than before")
            return False
        if number % 2 == self.first or number < 0:
            raise wire.ProtocolError("an object that is not there")
        if kind == "instance":
            found = self.classes.get(values.text(content[0]))
            if found is None or issubclass(found, Enum | BaseException | tuple):
                raise wire.ProtocolError(f"no class {str(content[0])[:40]!r}")
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
        if not {dict, list} & set(map(type, content)):
            return content.copy()  # what is built may be changed, and the message be looked at again
        return [self.decode(item) for item in content]

    def decode(self, data: Any, depth: int = 0) -> Any:
        kind = type(data)
        if kind in values.ATOMS or kind is int:
            return data
        if depth > self.deepest:
            raise wire.ProtocolError(f"nested deeper than {self.deepest} levels")
        if kind is not dict or set(data) != {"t", "v"} or type(data["t"]) is not str:
            raise wire.ProtocolError("a value without type tag")
        tag, content = data["t"], data["v"]
        if tag == "ref":
            if type(content) is not int or content not in self.objects:
                raise wire.ProtocolError("an object that is not there")
            return self.objects[content]
        try:
            if tag in values.BUILDERS:
                return values.BUILDERS[tag](content, lambda item: self.decode(item, depth + 1))
            if tag in ("type", "enum", "named tuple", "error"):
                return self._of_class(tag, content, depth + 1)
        except _MALFORMED as error:
            raise wire.ProtocolError(f"malformed {tag[:40]}: {error}"[:200]) from None
        return self.inside(tag, content)

    def _of_class(self, tag: str, content: Any, depth: int) -> Any:
        if tag == "type":
            name = values.text(content)
            return values.TYPES.get(name) or self.classes.get(name) or values.ERRORS[name]
        name, *rest = values.plain_list(content)
        found = self.classes.get(values.text(name)) or values.ERRORS.get(name)
        if tag == "enum" and found is not None and issubclass(found, Enum):
            member, value = rest
            return (
                found[member]
                if type(member) is str and member in found.__members__
                else found(self.decode(value, depth))
            )
        if tag == "named tuple" and found is not None and values.is_named_tuple(found):
            return tuple.__new__(found, [self.decode(item, depth) for item in rest])
        if tag == "error" and found is not None and issubclass(found, BaseException):
            arguments, attributes = rest
            error = values.make_error(
                found,
                [self.decode(item, depth) for item in values.plain_list(arguments)],
                {values.text(key): self.decode(item, depth) for key, item in values.plain_list(attributes)},
            )
            if self.answers:
                error.__dict__[wire.MARK] = True
            return error
        raise ValueError(f"no such class {name[:40]!r}")
