"""Runs one program and answers calls on it. Everything here is within the program's reach: nothing here is trusted."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import importlib
import io
import math
import operator
import random
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import values, wire
from .heap import Heap

MAX_HANDLES = 10_000
EXACT_ITEMS = 64  # of an iterator, fetched one by one; afterwards several at once, for so many seconds at most
AHEAD_ITEMS, AHEAD_SECONDS = 256, 0.01

_BY_NAME = {name: getattr(operator, name) for name in (*wire.COMPARISONS, *wire.ARITHMETIC) if hasattr(operator, name)}
_BY_NAME |= {"and": operator.and_, "or": operator.or_}
_BY_NAME |= {f"i{name}": getattr(operator, f"i{name}") for name in wire.ARITHMETIC}
_BY_NAME |= {
    name: getattr(operator, name) for name in ("neg", "pos", "invert", "getitem", "setitem", "delitem", "index")
}
_BY_NAME |= {
    name: getattr(builtins, name) for name in ("abs", "int", "float", "complex", "round", "len", "iter", "bool")
}
_BY_NAME |= {name: getattr(builtins, name) for name in ("reversed", "hash", "bytes", "format", "str", "repr", "divmod")}
_BY_NAME |= {"trunc": math.trunc, "floor": math.floor, "ceil": math.ceil, "contains": operator.contains}
_BY_NAME |= {"copy": copy.copy, "deepcopy": copy.deepcopy}
_SPECIAL = {"getitem", "setitem", "delitem", "len", "iter", "next", "reversed", "contains", "enter", "exit", "bool"}
_SPECIAL |= {"call", "hash", "format", "bytes", "instancecheck"}
_NAMES = (*wire.COMPARISONS, *wire.ARITHMETIC, *wire.UNARY, *wire.AWAITED, *sorted(_SPECIAL))
_PLAIN_BASES = (int, float, str, tuple, frozenset, list, dict, set)


_METHODS = tuple((name, f"__{name}__") for name in _NAMES)


def _itself(self: Any) -> Any:
    return self


@functools.cache
def specials(kind: type) -> list[str]:
    """Which special methods objects of this class have, beyond those that every object has."""
    found = []
    for name, method in _METHODS:
        own = getattr(kind, method, None)
        if own is not None and own is not getattr(object, method, None):
            found.append(name)
    for name in wire.ARITHMETIC:
        found += [f"{side}{name}" for side in "ir" if hasattr(kind, f"__{side}{name}__")]
    if issubclass(kind, _PLAIN_BASES):
        found.append("plain")
    begin = getattr(kind, "__iter__", None)
    if "next" in found and isinstance(begin, types.FunctionType) and begin.__code__.co_code != _itself.__code__.co_code:
        found.append("begins")  # each time that it is iterated
    return found


for _kind in (types.FunctionType, type, types.MethodType, types.GeneratorType):
    specials(_kind)  # once for all programs


class Theirs:
    """A function of the tests, called back."""

    def __init__(self, worker: Worker, number: int):
        self._number, self._call = number, lambda *arguments, **named: worker.back(number, arguments, named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **named)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)


class TheirIterator(Theirs):
    def __iter__(self) -> TheirIterator:
        return self

    def __next__(self) -> Any:
        return self._call()


class TellingHeap(Heap):
    """Says of each class what it is before the first object of it."""

    def __init__(self, worker: Worker, classes: Mapping[str, type]):
        super().__init__(1, worker.keep, worker.find, classes)
        self.worker = worker

    def pack(self, value: Any) -> list[Any]:
        body, table = super().pack(value)
        told, self.worker.descriptions = self.worker.descriptions, []
        return [body, told + table]


class Worker:
    """One program in its own module, reached by messages ``[number, operation, ...]``."""

    def __init__(self, channel: wire.Channel):
        self.channel = channel
        self.handles: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.described: set[int] = set()
        self.descriptions: list[Any] = []
        self.count = 0
        self.asked: frozenset[str] = frozenset()  # names that the tests use, and whose classes never travel as content
        self.module = types.ModuleType("solution")
        self.theirs: dict[int, Theirs] = {}
        self.lock = threading.RLock()
        self.heap = TellingHeap(self, {})
        self.ahead: dict[int, int] = {}
        self.loop: Any = None
        self.operations: dict[str, Callable[..., list[Any]]] = {
            name: getattr(self, name)
            for name in (
                "load",
                "bound",
                "call",
                "calls",
                "next",
                "send",
                "throw",
                "get",
                "set",
                "plain",
                "fields",
                "optimisation",
            )
        } | {"await": self.run, "exit": self.exit, "operate": self.operate, "enter": self.enter}

    def serve(self) -> None:
        """Answer until the verifier goes away. Runs until the process is killed."""
        while True:
            self.answer(self.channel.receive())

    def answer(self, message: list[Any]) -> None:
        number, operation, content, forgotten, released, streams, state = message
        try:
            self.heap.forget(forgotten)
            for handle in released:
                self.numbers.pop(id(self.handles.pop(handle, None)), None)
            if state is not None:
                random.setstate(tuple(tuple(part) if type(part) is list else part for part in state))
            operands = self.heap.unpack(content) if operation != "calls" else content
            if True in streams:
                with captured(streams) as written:
                    answer = self.operations[operation](*operands)
                answer += [[stream and stream.getvalue() for stream in written], state and random.getstate()]
            else:
                answer = [*self.operations[operation](*operands), [], state and random.getstate()]
        except BaseException as error:
            answer = self.raised(error)
        try:
            self.channel.send([number, *answer])
        except (ValueError, MemoryError) as error:  # longer than a message may be
            self.channel.send([number, *self.raised(error)])

    def raised(self, error: BaseException) -> list[Any]:
        """An exception as an answer. Its own class and arguments, where they can be sent."""
        mine = values.describe(error)
        try:
            known = self.heap.classes.get(type(error).__qualname__) is type(error)
            plain = known or values.ERRORS.get(type(error).__name__) is type(error)
            content = self.heap.pack(error if plain else (type(error), error, error.args))
        except BaseException:
            content = self.heap.pack(None)
        return ["raised", content, mine, None, None]

    def ok(self, value: Any) -> list[Any]:
        return ["ok", self.heap.pack(value)]

    # ---- objects

    def keep(self, value: Any) -> dict[str, Any] | None:
        """A handle for an object that cannot be sent; the same object keeps its number. None where its content can."""
        kind = type(value)
        if isinstance(value, type):
            return self.of_class(value)
        if isinstance(value, Theirs):
            return {"t": "theirs", "v": value._number}
        if isinstance(value, _PLAIN_BASES) and not self.is_asked(kind):
            return None
        number = self.number(value)
        return {"t": "object", "v": [number, self.of_class(kind)]}

    def is_asked(self, kind: type) -> bool:
        return any(base.__module__ == "solution" and base.__qualname__ in self.asked for base in kind.__mro__)

    def number(self, value: Any) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            if len(self.handles) >= MAX_HANDLES:
                raise MemoryError(f"more than {MAX_HANDLES} objects handed out")
            number, self.count = self.count, self.count + 1
            self.handles[number] = value
            self.numbers[id(value)] = number
        return number

    def of_class(self, kind: type) -> dict[str, Any]:
        """A class. The next message tells its name, special methods and the classes that it is made from."""
        number = self.number(kind)
        if number in self.described:
            return {"t": "class", "v": [number]}
        self.described.add(number)
        bases: list[Any] = []
        for base in kind.__mro__[1:]:
            if base.__module__ in ("solution", "__main__"):
                bases.append(self.of_class(base))
            elif values.ERRORS.get(base.__name__) is base:
                bases.append({"t": "type", "v": base.__name__})
                break
        self.descriptions.append([number, "class", [kind.__name__, kind.__module__, specials(kind), bases]])
        return {"t": "class", "v": [number]}

    def find(self, tag: str, content: Any) -> Any:
        """What the verifier means by a tag of its own."""
        if tag in ("object", "class"):
            return self.handles[content[0]]
        if tag in ("function", "iterator"):
            if content not in self.theirs:
                self.theirs[content] = (Theirs if tag == "function" else TheirIterator)(self, content)
            return self.theirs[content]
        if tag == "named":
            found = importlib.import_module(content[0])
            for name in content[1].split("."):
                found = getattr(found, name)
            return found
        raise wire.ProtocolError(f"unknown tag {tag!r}")

    def back(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the tests, and serve what it asks meanwhile."""
        with self.lock:
            self.channel.send(["back", number, self.heap.pack((arguments, tuple(named.items())))])
            while True:
                message = self.channel.receive()
                if message[0] != "back":
                    self.answer(message)
                    continue
                _, status, content, forgotten = message
                self.heap.forget(forgotten)
                value = self.heap.unpack(content)
                if status == "ok":
                    return value
                if status == "end":
                    raise StopIteration
                raise value

    # ---- operations

    def load(self, source: str, names: list[str], classes: list[str], asked: list[str]) -> list[Any]:
        """Run the program; answer what it bound to the names, or first the classes that it has by those asked for."""
        sys.modules["solution"] = self.module
        self.asked = frozenset(names)
        exec(compile(source, "<program>", "exec", dont_inherit=True), self.module.__dict__)
        bound = self.module.__dict__
        self.heap.classes = {name: bound[name] for name in classes if isinstance(bound.get(name), type)}
        if asked:
            return self.ok(tuple(bound[name] for name in asked if isinstance(bound.get(name), type)))
        return self.bound(names)

    def bound(self, names: list[str]) -> list[Any]:
        return self.ok(tuple((name, self.module.__dict__[name]) for name in names if name in self.module.__dict__))

    def call(self, function: Any, arguments: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> list[Any]:
        return self.ok(function(*arguments, **dict(named)))

    def calls(self, function: int, batch: list[Any], after: bool) -> list[Any]:
        """Several calls in one message: up to one that raises, or as many as answers fit into a message."""
        answers: list[Any] = []
        room = wire.MAX_MESSAGE // 4
        for content in batch:
            heap = TellingHeap(self, self.heap.classes)
            try:
                arguments = heap.unpack(content)
                answer = self.handles[function](*arguments)
                whole = TellingHeap(self, self.heap.classes).pack((answer, arguments if after else None))
                answers.append(whole)
                room -= len(wire.to_json(whole))
            except BaseException as error:
                answers.append(["raised", *self.raised(error)[1:3]])
                break
            if room < 0:
                break
        return ["ok", answers]

    def operate(self, name: str, operands: list[Any]) -> list[Any]:
        return self.ok(_BY_NAME[name](*operands))

    def enter(self, manager: Any) -> list[Any]:
        return self.ok(type(manager).__enter__(manager))

    def exit(self, manager: Any, error: Any) -> list[Any]:
        return self.ok(bool(type(manager).__exit__(manager, error and type(error), error, None)))

    def next(self, iterator: Any) -> list[Any]:
        """The next items of an iterator: ``(items, how it ended or None)``."""
        taken = self.ahead.get(id(iterator), 0)
        items: list[Any] = []
        until = time.monotonic() + AHEAD_SECONDS
        wanted = 1 if taken < EXACT_ITEMS or "begins" in specials(iterator.__class__) else AHEAD_ITEMS
        try:
            while len(items) < wanted and (not items or time.monotonic() < until):
                items.append(next(iterator))
        except StopIteration as ended:
            return self.ok((tuple(items), (ended.value,)))
        except Exception as error:
            if not items:
                raise
            return self.ok((tuple(items), error))
        self.ahead[id(iterator)] = taken + len(items)
        return self.ok((tuple(items), None))

    def send(self, generator: Any, value: Any) -> list[Any]:
        try:
            return self.ok(((generator.send(value),), None))
        except StopIteration as ended:
            return self.ok(((), (ended.value,)))

    def throw(self, generator: Any, error: BaseException) -> list[Any]:
        try:
            return self.ok(((generator.throw(error),), None))
        except StopIteration as ended:
            return self.ok(((), (ended.value,)))

    def plain(self, value: Any) -> list[Any]:
        """What a subclass of a plain type holds, by that type's own methods."""
        for base, content in values.NUMBERS:
            if isinstance(value, base):
                return self.ok(content(value))
        if isinstance(value, dict):
            return self.ok(dict(dict.items(value)))
        kind = list if isinstance(value, list) else set
        return self.ok(kind(kind.__iter__(value)))

    def fields(self, kind: Any) -> list[Any]:
        """Of a dataclass: name, type, whether it is an argument, and ``(default,)`` or ``()``."""
        if not hasattr(kind, "__dataclass_fields__"):
            raise AttributeError("__dataclass_fields__")
        import dataclasses

        fields = dataclasses.fields(kind)
        none = dataclasses.MISSING
        return self.ok(tuple((f.name, f.type, f.init, () if f.default is none else (f.default,)) for f in fields))

    def run(self, name: str, target: Any, arguments: list[Any]) -> list[Any]:
        """Await something to its end, in the program's own event loop."""
        import asyncio

        async def wait() -> Any:
            return await (target if name == "await" else getattr(target, f"__{name}__")(*arguments))

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        try:
            return self.ok(((self.loop.run_until_complete(wait()),), None))
        except StopAsyncIteration:
            return self.ok(((), (None,)))

    def get(self, target: Any, name: str) -> list[Any]:
        return self.ok(getattr(target, name))

    def set(self, target: Any, name: str, value: Any) -> list[Any]:
        setattr(target, name, value)
        return self.ok(None)

    def optimisation(self, function: Any, arguments: list[Any]) -> list[Any]:
        """Call a function that returns a cvxpy problem; answer that problem as plain data."""
        from . import cvx

        return self.ok(cvx.export(function(*arguments)))


@contextlib.contextmanager
def captured(streams: list[bool]) -> Iterator[list[io.StringIO | None]]:
    """Keep what is written to standard output and error, where the tests have put something else in their place."""
    kept = [io.StringIO() if wanted else None for wanted in streams]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = kept[0] or sys.stdout, kept[1] or sys.stderr
    try:
        yield kept
    finally:
        if kept[0]:
            sys.stdout = before[0]
        if kept[1]:
            sys.stderr = before[1]
