"""Runs one program and answers calls on it. Everything here is within the program's reach: nothing here is trusted."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import wire

MAX_HANDLES = 10_000

_MUTABLE = frozenset({"dict", "set", "deque", "bytearray", "Counter", "OrderedDict", "defaultdict", "ndarray"})


def describe(error: BaseException) -> list[Any]:
    """The built-in type nearest to the error's own, whether handlers may catch it, and its text."""
    builtin = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return ["raised", builtin.__name__, type(error).__name__[:100], text]


def changeable(item: Any) -> bool:
    """Whether a call may change this argument, itself or what it holds."""
    if type(item) is not dict:
        return type(item) is list
    return item["t"] in _MUTABLE or (item["t"] == "tuple" and any(map(changeable, item["v"])))


class Worker:
    """One program in its own module, reached by messages ``[operation, ...]``."""

    def __init__(self, channel: wire.Channel):
        self.channel = channel
        self.handles: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.operations: dict[str, Callable[..., list[Any]]] = {
            "load": self.load,
            "call": self.call,
            "calls": self.calls,
            "next": self.next,
            "get": self.get,
            "set": self.set,
            "text": self.text,
            "optimisation": self.optimisation,
        }

    def serve(self) -> None:
        """Answer until the verifier goes away. Runs until the process is killed."""
        while True:
            number, operation, *arguments = self.channel.receive()
            try:
                answer = self.operations[operation](*arguments)
            except BaseException as error:
                answer = describe(error)
            try:
                self.channel.send([number, *answer])
            except (ValueError, MemoryError) as error:  # longer than a message may be
                self.channel.send([number, *describe(error)])

    def load(self, source: str, names: list[str]) -> list[Any]:
        """Run the program; answer what it bound to the wanted names."""
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
        return ["ok", {name: self.encode(module.__dict__[name]) for name in names if name in module.__dict__}]

    def encode(self, value: Any) -> Any:
        return wire.encode(value, self.keep)

    def keep(self, value: Any) -> dict[str, Any]:
        """A handle for an object that cannot be sent, with its truth value; the same object keeps its number."""
        number = self.numbers.get(id(value))
        if number is None:
            if len(self.handles) >= MAX_HANDLES:
                raise MemoryError(f"more than {MAX_HANDLES} objects handed out")
            number = len(self.handles)
            self.handles.append(value)
            self.numbers[id(value)] = number
        tag = wire.ITERATOR if isinstance(value, Iterator) else wire.HANDLE
        return {"t": tag, "v": [number, bool(value)]}

    def decode(self, data: Any) -> Any:
        return wire.decode(data, lambda tag, content: self.handles[content[0]])

    def call(self, number: int, arguments: list[Any], named: list[list[Any]]) -> list[Any]:
        """Call an object; answer what came of it and, where they changed, all arguments as they are afterwards."""
        given = [*arguments, *(item for _, item in named)]
        values = [self.decode(item) for item in given]
        keywords = {name: value for (name, _), value in zip(named, values[len(arguments) :], strict=True)}
        try:
            answer = ["ok", self.encode(self.handles[number](*values[: len(arguments)], **keywords))]
        except Exception as error:
            answer = describe(error)
        if not any(map(changeable, given)):
            return [*answer, None]
        after = [self.encode(value) for value in values]
        return [*answer, None if after == given else after]

    def calls(self, number: int, batch: list[list[Any]]) -> list[Any]:
        """Several calls in one message: up to one that raises, or as many as answers fit into a message."""
        answers: list[list[Any]] = []
        room = wire.MAX_MESSAGE // 4
        for arguments in batch:
            try:
                answers.append(self.call(number, arguments, []))
                if answers[-1][0] == "raised":
                    break
                room -= len(wire.to_json(answers[-1]))
            except BaseException as error:
                answers.append(describe(error))
                break
            if room < 0:
                break
        return ["ok", answers]

    def next(self, number: int) -> list[Any]:
        """The next items of an iterator; fewer than ITERATOR_CHUNK where it ended."""
        return ["ok", [self.encode(item) for item in itertools.islice(self.handles[number], wire.ITERATOR_CHUNK)]]

    def get(self, number: int, name: str) -> list[Any]:
        return ["ok", self.encode(getattr(self.handles[number], name))]

    def set(self, number: int, name: str, value: Any) -> list[Any]:
        setattr(self.handles[number], name, self.decode(value))
        return ["ok", None]

    def optimisation(self, number: int, arguments: list[Any]) -> list[Any]:
        """Call a function that returns a cvxpy problem; answer that problem as plain data."""
        import cvx

        return ["ok", self.encode(cvx.export(self.handles[number](*[self.decode(item) for item in arguments])))]

    def text(self, number: int, form: str) -> list[Any]:
        return ["ok", (repr if form == "repr" else str)(self.handles[number])[:100_000]]


def run_script(source: str) -> None:
    """Run a whole program that reads standard input and writes standard output, and end the process as it does."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    status = 0
    if "/dev/stdin" in source:  # a link to here, where there is no /proc that it could lead to
        with contextlib.suppress(OSError), open("/tmp/.stdin", "wb") as copy:
            copy.write(os.pread(0, os.fstat(0).st_size, 0))
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        status = OUT_OF_MEMORY
    except BaseException as error:
        print(*describe(error)[2:], sep=": ", file=sys.stderr)
        status = 1
    # The way in which Python itself ends: threads are awaited, exit handlers called, forgotten files written.
    ctypes.pythonapi.Py_Exit(status & 0xFF)


OUT_OF_MEMORY = 137  # exit status of a script that ran into the memory limit
