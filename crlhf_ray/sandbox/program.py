"""The verifier's side of a running program: calls go in, plain values come out, and objects stay where they are."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crlhf_ray.sandbox.exchange import Ended, Exchange, Refused, Stopped
from crlhf_ray.sandbox.guest import wire
from crlhf_ray.sandbox.operators import add_operators, remote_class
from crlhf_ray.sandbox.remote import (
    ANSWER,
    MADE,
    RemoteClass,
    RemoteObject,
    is_of_the_program,
    remote_of,
    stand_in,
)

MAX_ITEMS = 1_000_000
MAX_OBJECTS = 20_000
PLAIN = frozenset({int, float, str, tuple, frozenset, list, dict, set})
CHUNK_CALLS, CHUNK_BYTES = 64, 64 << 10


_FIELD: Any = vars(dataclasses)["_FIELD"]  # what tells a field from a class variable


class Program(Exchange):
    """One program at the other end of a channel. Whatever it sends can only be a value, never a verdict.

    given: what the tests give the program and ask of it. libraries: whose objects it may answer, such as numpy.

    Methods raise Stopped when the program broke the protocol or the deadline, and what the program's own code raised
    as its own class where tests know that, and else as the nearest built-in exception.
    """

    # ---- what tests do with a program

    def load(self, source: str, names: Sequence[str]) -> dict[str, Any]:
        """Run the source text; answers what it bound to the names."""
        bound = self.ask("load", source, tuple(names), tuple(self._classes), tuple(self.asked))
        if self.asked:  # before there are objects of these classes, which may be keys
            self.asked_classes = {kind for kind in self._sequence(bound) if isinstance(kind, RemoteClass)}
            for kind in self._numbers.values():
                self._equip(kind)
            bound = self.ask("bound", tuple(names))
        if type(bound) is not tuple or not all(type(pair) is tuple and len(pair) == 2 for pair in bound):
            self.stop("error", "protocol: names of the wrong form")
        if not {name for name, _ in bound} <= set(names):
            self.stop("error", "protocol: names that nobody asked for")
        self._answered = self._answered or not all(callable(value) for _, value in bound)
        return dict(bound)

    def call(self, function: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Call one of the program's objects."""
        return self.ask("call", function, tuple(arguments), tuple(named.items()))

    def construct(self, kind: RemoteClass, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Call one of the program's classes: what a test makes itself of a class that the problem asks for is MADE."""
        made = self.call(kind, arguments, named)
        if isinstance(made, RemoteObject) and isinstance(made, kind) and self.is_asked(made):
            object.__setattr__(made, "__level__", MADE)
        return made

    def is_asked(self, value: Any) -> bool:
        """Whether it is an object of a class that the problem asks for."""
        return isinstance(value, RemoteObject) and any(kind in self.asked_classes for kind in type(value).__mro__)

    def calls(
        self, function: Any, batch: Sequence[Sequence[Any]], *, after: bool = False
    ) -> Iterator[tuple[Any, list[Any] | None]]:
        """Result, and where asked for the arguments ``after`` it, of many calls, a message for many small ones.

        Raises as `call` does.
        """
        number, start = self._function(function), 0
        while start < len(batch):
            chunk: list[Any] = []
            size = 0
            while start + len(chunk) < len(batch) and len(chunk) < CHUNK_CALLS and size < CHUNK_BYTES:
                chunk.append(self._packed_apart(tuple(batch[start + len(chunk)])))
                size += len(repr(chunk[-1]))
            answers = self.ask("calls", packed=[number, chunk, after])
            if type(answers) is not list or not 1 <= len(answers) <= len(chunk):
                self.stop("error", "protocol: calls that were not asked for")
            for answer in answers:
                match answer:
                    case ["raised", content, [str(builtin), str(name), str(text)]]:
                        self._raise(self._unpacked(content), builtin, name, text)
                match self._unpacked_apart(answer):
                    case (result, None) if not after:
                        yield result, None
                    case (result, tuple(given)) if after:
                        yield result, list(given)
                    case _:
                        self.stop("error", "protocol: an answer of the wrong form")
            start += len(answers)

    def _packed_apart(self, value: Any) -> Any:
        try:
            return self._apart().pack(value)
        except (wire.Unsendable, RecursionError) as error:
            self._refuse(error)

    def _unpacked_apart(self, content: Any) -> Any:
        try:
            return self._apart().unpack(content)
        except (wire.ProtocolError, RecursionError) as error:
            self.stop("error", f"protocol: {error}")

    def optimisation(self, function: Any, arguments: Sequence[Any]) -> Any:
        """The optimisation problem that the function returns, as plain data (see guest/cvx.py)."""
        self._function(function)
        return self.ask("optimisation", function, tuple(arguments))

    def _function(self, function: Any) -> int:
        if isinstance(function, RemoteObject | RemoteClass) and remote_of(function)[0] is self:
            return int(remote_of(function)[1])
        self.stop("wrong", "what should be a function is none")

    def items(self, iterator: Any) -> tuple[tuple[Any, ...], Any]:
        """The next items of an iterator, and ``(value,)``, an exception or None for how it ended."""
        return self._pieces(self.ask("next", iterator))

    def _pieces(self, answer: Any) -> tuple[tuple[Any, ...], Any]:
        match answer:
            case (tuple(items), None | (_,) | Exception() as end):
                return items, end
        self.stop("error", "protocol: items of the wrong form")

    def resume(self, operation: str, generator: Any, value: Any) -> Any:
        """`send` a value into a generator or `throw` an exception."""
        return self.one(self.ask(operation, generator, value), StopIteration)

    def plain(self, value: Any) -> Any:
        """What an object holds whose class is made from a plain type, as that type. What cannot change does not."""
        if (held := vars(value).get("__held__")) is not None:
            return held[0]
        found = self.ask("plain", value)
        if type(found) not in PLAIN:
            self.stop("error", "protocol: a plain value of the wrong form")
        if type(found) not in (list, dict, set):
            object.__setattr__(value, "__held__", (found,))
        return found

    def fields(self, kind: RemoteClass) -> dict[str, dataclasses.Field[Any]]:
        """Of a dataclass of the program. Raises AttributeError where it is none."""
        found = {}
        for entry in self._sequence(self.ask("fields", kind)):
            match entry:
                case (str(name), annotation, bool(init), tuple(default)) if name.isidentifier():
                    field: Any = dataclasses.field(init=init, default=default[0] if default else dataclasses.MISSING)
                    field.name, field.type, field._field_type = name, annotation, _FIELD
                    found[name] = field
                case _:
                    self.stop("error", "protocol: fields of the wrong form")
        return found

    def _sequence(self, value: Any) -> tuple[Any, ...]:
        return value if type(value) is tuple else self.stop("error", "protocol: an answer of the wrong form")

    def run(self, name: str, target: Any, *arguments: Any) -> Any:
        """Await something to its end, in the program's own event loop."""
        return self.one(self.ask("await", name, target, arguments), StopAsyncIteration)

    def one(self, answer: Any, end: type[Exception]) -> Any:
        items, ended = self._pieces(answer)
        if len(items) == 1:
            return items[0]
        raise end(*(ended if isinstance(ended, tuple) else ()))

    # ---- objects

    def release(self, number: int) -> None:
        self._released.add(number)

    def _outside(self, value: Any) -> dict[str, Any] | None:
        """What stands for an object of ours that is no value."""
        if isinstance(value, RemoteObject | RemoteClass):
            program, number = remote_of(value)
            if program is self:
                return {"t": "class" if isinstance(value, RemoteClass) else "object", "v": [number]}
        if isinstance(value, int | float | str | tuple | frozenset | list | dict | set):
            return None
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if isinstance(module, str) and self._is_library(module) and _found(module, name) is value:
            return {"t": "named", "v": [module, name]}
        if isinstance(value, Iterator):
            return {"t": "iterator", "v": self._hand(value.__next__, value)}
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial) or (
            isinstance(value, types.BuiltinMethodType | types.MethodWrapperType)
            and type(value.__self__) in (list, dict, set, str, tuple)
        ):
            return {"t": "function", "v": self._hand(value, value)}
        own = type(value).__module__ == "solution"
        self.stopped = self.stopped or Refused(
            f"an object of the {'test' if own else 'library'}'s own class {type(value).__name__} cannot be handed to "
            "the program",
            answered=self._answered and not own,
        )
        raise self.stopped

    def _is_library(self, module: str) -> bool:
        return module.split(".")[0] in {*sys.stdlib_module_names, *self._libraries}

    def _hand(self, function: Callable[..., Any], value: Any) -> int:
        if id(value) not in self._handed_numbers:
            self._handed_numbers[id(value)] = len(self._handed)
            self._handed.append(function)  # which keeps the value, and with it its identity
        return self._handed_numbers[id(value)]

    def _inside(self, tag: str, content: Any) -> Any:
        match tag, content:
            case "class", _:
                return self._class(content)
            case "object", [int(number), kind] if number >= 0:
                return self._object(number, kind)
            case "theirs", int(number) if 0 <= number < len(self._handed):
                function = self._handed[number]
                bound = getattr(function, "__self__", None)
                return bound if isinstance(bound, Iterator) else function
        raise wire.ProtocolError(f"unknown type tag {tag[:40]!r}")

    def _class(self, content: Any) -> RemoteClass:
        match content:
            case [int(number)] if number in self._numbers:
                return self._numbers[number]
            case [int(number), str(name), str(home), list(specials), list(bases)] if number not in self._numbers:
                if len(self._numbers) >= MAX_OBJECTS:
                    raise wire.ProtocolError(f"more than {MAX_OBJECTS} objects")
                above = [self.heap.decode(base) for base in bases]
                made = remote_class(self, number, name, home, frozenset(map(str, specials)), above)
                self._equip(made)
                return self._numbers.setdefault(number, made)
        raise wire.ProtocolError("a malformed class")

    def _equip(self, kind: RemoteClass) -> None:
        """Give a class its operators, if the problem asks for it: which one that is, the program's names say."""
        if any(base in self.asked_classes for base in kind.__mro__):
            add_operators(kind)

    def _object(self, number: int, kind: Any) -> Any:
        kind = self.heap.decode(kind)
        if not isinstance(kind, RemoteClass):
            raise wire.ProtocolError("a malformed handle")
        self._released.discard(number)
        known = self._objects.get(number)
        if known is None:
            if len(self._objects) >= MAX_OBJECTS:
                raise wire.ProtocolError(f"more than {MAX_OBJECTS} objects")
            known = self._objects[number] = stand_in(kind, number)
        # An answer is an answer, though the test may have made it itself.
        object.__setattr__(known, "__level__", min(known.__level__, ANSWER))
        return known

    def adopt(self, value: Any, number: int) -> None:
        self._objects[number] = value


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


__all__ = ["Ended", "Program", "RemoteObject", "Stopped", "is_of_the_program"]
