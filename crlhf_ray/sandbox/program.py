"""The verifier's side of a running program: calls go in, plain values come out, and objects stay where they are."""

from __future__ import annotations

import builtins

# Answers may need these, and under the limits of a check an import may fail, or end halfway.
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from crlhf_ray.problems.checkers import Untestable
from crlhf_ray.sandbox.guest import wire
from crlhf_ray.sandbox.verdict import Status

MAX_ITEMS = 1_000_000
MAX_OBJECTS = 20_000
CHUNK_CALLS, CHUNK_BYTES = 64, 64 << 10


class Stopped(BaseException):
    """The check is over. Not an Exception, so that no handler in a test can catch it by accident."""

    def __init__(self, status: Status, detail: str = ""):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class Ended(Stopped):
    """The program's process is gone; how it ended decides the status."""


class RemoteError(Exception):
    """Raised by the program. Also an instance of the nearest built-in type, for tests that expect one."""


@lru_cache
def _remote_kind(name: str) -> type[RemoteError]:
    return type(f"Remote{name}", (RemoteError, getattr(builtins, name)), {})


class RemoteObject:
    """An object of the program. It equals only itself, and says nothing about itself but its truth value."""

    def __init__(self, program: Program, number: int, truth: bool):
        object.__setattr__(self, "_remote", (program, number, truth))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        program, number, _ = self._remote
        return program.call(number, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        program, number, _ = self._remote
        return program.decode(program.ask("get", number, name))

    def __setattr__(self, name: str, value: Any) -> None:
        program, number, _ = self._remote
        program.ask("set", number, name, program.encode(value))

    def __bool__(self) -> bool:
        return bool(self._remote[2])

    def __str__(self) -> str:
        program, number, _ = self._remote
        return str(program.ask("text", number, "str"))

    def __repr__(self) -> str:
        program, number, _ = self._remote
        return str(program.ask("text", number, "repr"))


class RemoteIterator(RemoteObject):
    """An iterator of the program, read in pieces, at most MAX_ITEMS in all."""

    def __init__(self, program: Program, number: int, truth: bool):
        super().__init__(program, number, truth)
        object.__setattr__(self, "_items", deque())
        object.__setattr__(self, "_taken", 0)
        object.__setattr__(self, "_ended", False)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._items and not self._ended:
            program, number, _ = self._remote
            items = program.decode(program.ask("next", number))
            if type(items) is not list:
                program.stop("error", "protocol: items that are no list")
            object.__setattr__(self, "_ended", len(items) < wire.ITERATOR_CHUNK)
            object.__setattr__(self, "_taken", self._taken + len(items))
            if self._taken > MAX_ITEMS:
                program.stop("error", f"an iterator of more than {MAX_ITEMS} items")
            self._items.extend(items)
        if not self._items:
            raise StopIteration
        return self._items.popleft()


def mirror(old: Any, new: Any) -> Any:
    """Make ``old`` equal to ``new`` in place where both are the same kind of container; answers what stands for it."""
    if type(old) is not type(new):
        return new
    if type(old) in (int, float, bool, str, type(None)):
        return old if old == new else new
    if type(old) is list:
        old[:] = [mirror(old[i], item) if i < len(old) else item for i, item in enumerate(new)]
    elif type(old) is tuple and len(old) == len(new):
        parts = tuple(map(mirror, old, new))
        return old if all(part is was for part, was in zip(parts, old, strict=True)) else parts
    elif isinstance(old, dict):
        merged = {key: mirror(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        dict.update(old, merged)
    elif isinstance(old, set):
        old.intersection_update(new)
        old.update(new)
    elif isinstance(old, deque):
        old.clear()
        old.extend(new)
    elif isinstance(old, bytearray):
        old[:] = new
    elif type(old).__name__ == "ndarray" and old.shape == new.shape and old.dtype.kind == new.dtype.kind:
        old[...] = new
    else:
        return new
    return old


class Program:
    """One program at the other end of a channel. Whatever it sends can only be a value, never a verdict.

    arrays: whether it may answer numpy arrays, which compare by rules of their own.

    Methods raise Stopped when the program broke the protocol or the deadline, and what the program's own code raised
    as the nearest built-in exception.
    """

    def __init__(self, channel: wire.Channel, arrays: bool = False):
        self._channel, self._arrays = channel, arrays
        self._sent = 0
        self._objects: dict[int, RemoteObject] = {}
        self.stopped: Stopped | None = None

    def stop(self, status: Status, detail: str) -> NoReturn:
        """End the check with this status, whatever the caller does with the exception."""
        self.stopped = self.stopped or Stopped(status, detail)
        raise self.stopped

    def ask(self, operation: str, *arguments: Any, given: Sequence[Any] = ()) -> Any:
        """Send one request and answer its result, still encoded. What it changed of ``given`` is changed here too."""
        if self.stopped is not None:
            raise self.stopped
        self._sent += 1
        try:
            self._channel.send([self._sent, operation, *arguments])
            answer = self._channel.receive()
        except TimeoutError:
            self.stop("timeout", "no answer within the wall-clock limit")
        except wire.ProtocolError as error:
            self.stop("error", f"protocol: {error}")
        except ValueError as error:
            self.stop("error", f"cannot be sent: {error}")
        except (EOFError, OSError):
            self.stopped = Ended("killed", "the program ended its process")
            raise self.stopped from None
        return self._result(answer, given)

    def _result(self, answer: Any, given: Sequence[Any]) -> Any:
        match answer:
            case [int(number), "ok", result] if number == self._sent:
                return result
            case [int(number), "ok", result, after] if number == self._sent:
                self._mirror(given, after)
                return result
            case [int(number), "raised", str(builtin), str(name), str(text)] if number == self._sent:
                self.raise_(builtin, name, text)
            case [int(number), "raised", str(builtin), str(name), str(text), after] if number == self._sent:
                self._mirror(given, after)
                self.raise_(builtin, name, text)
        self.stop("error", f"protocol: an answer of the wrong form: {str(answer)[:80]}")

    def raise_(self, builtin: str, name: str, text: str) -> NoReturn:
        """Raise here what was raised there."""
        if builtin in ("MemoryError",):
            self.stop("out_of_memory", text or builtin)
        kind = getattr(builtins, builtin, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):  # SystemExit and the like end the program
            self.stop("error", f"{name[:100]}: {text[:300]}".rstrip(": "))
        if issubclass(kind, StopIteration | StopAsyncIteration):
            kind = RuntimeError  # in a test's `all(map(f, ...))` it would end the loop as if all had been right
        try:
            error = _remote_kind(kind.__name__)(f"{name}: {text}" if name != builtin else text)
        except TypeError:
            error = RemoteError(f"{name}: {text}")
        raise error

    def load(self, source: str, names: Sequence[str]) -> dict[str, Any]:
        """Run the source text; answers what it bound to the names."""
        bound = self.ask("load", source, list(names))
        if type(bound) is not dict or not set(bound) <= set(names):
            self.stop("error", "protocol: names that nobody asked for")
        return {name: self.decode(value) for name, value in bound.items()}

    def call(self, number: int, arguments: Sequence[Any], named: dict[str, Any] | None = None) -> Any:
        """Call one of the program's objects, and change the arguments here as the call changed them there."""
        named = named or {}
        keywords = [[name, self.encode(value)] for name, value in named.items()]
        given = [*arguments, *named.values()]
        return self.decode(self.ask("call", number, [self.encode(item) for item in arguments], keywords, given=given))

    def calls(self, function: Any, batch: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, list[Any]]]:
        """Result and arguments afterwards of many calls, a message for many small ones. Raises as `call` does."""
        if not (isinstance(function, RemoteObject) and function._remote[0] is self):
            self.stop("wrong", "what should be a function is none")
        number, start = function._remote[1], 0
        while start < len(batch):
            chunk: list[Any] = []
            size = 0
            while start + len(chunk) < len(batch) and len(chunk) < CHUNK_CALLS and size < CHUNK_BYTES:
                chunk.append([self.encode(value) for value in batch[start + len(chunk)]])
                size += len(repr(chunk[-1]))
            answers = self.ask("calls", number, chunk)
            if type(answers) is not list or not 1 <= len(answers) <= len(chunk):
                self.stop("error", "protocol: calls that were not asked for")
            for answer, given in zip(answers, chunk, strict=False):
                match answer:
                    case ["ok", result, None]:
                        yield self.decode(result), self.decode(given)
                    case ["ok", result, list(after)]:
                        yield self.decode(result), self.decode(after)
                    case ["raised", str(builtin), str(name), str(text), *_]:
                        self.raise_(builtin, name, text)
                    case _:
                        self.stop("error", "protocol: an answer of the wrong form")
            start += len(answers)

    def optimisation(self, function: Any, arguments: Sequence[Any]) -> Any:
        """The optimisation problem that the function returns, as plain data (see sandbox/cvx.py)."""
        if not (isinstance(function, RemoteObject) and function._remote[0] is self):
            self.stop("wrong", "what should be a function is none")
        return self.decode(self.ask("optimisation", function._remote[1], [self.encode(item) for item in arguments]))

    def _mirror(self, given: Sequence[Any], after: Any) -> None:
        if after is None:
            return
        changed = self.decode(after)
        if type(changed) is not list or len(changed) != len(given):
            self.stop("error", "protocol: arguments that were not given")
        for old, new in zip(given, changed, strict=True):
            mirror(old, new)

    def encode(self, value: Any) -> Any:
        return wire.encode(value, self._handle)

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, RemoteObject) and value._remote[0] is self:
            return {"t": wire.HANDLE, "v": [value._remote[1], True]}
        raise Untestable(f"a {type(value).__name__} cannot be handed to the program, only plain values can")

    def decode(self, data: Any) -> Any:
        try:
            return wire.decode(data, self._object, array=self._array)
        except (wire.ProtocolError, RecursionError) as error:
            self.stop("error", f"protocol: {error}")

    def _array(self, content: Any) -> Any:
        """An array of the widest numbers of its kind, and a single number as Python's own.

        Narrow ones draw what they are compared with down to their own width, where 100000 is infinite.
        """
        if not self._arrays:
            raise wire.ProtocolError("an array, and the problem allows no numpy")
        array = wire.array(content)
        array = array.astype(
            {"f": "float64", "c": "complex128", "i": "int64", "u": "uint64"}.get(array.dtype.kind, "bool")
        )
        return array if array.ndim else array.item()

    def _object(self, tag: str, content: Any) -> RemoteObject:
        match content:
            case [int(number), bool(truth)] if number >= 0:
                kind = RemoteIterator if tag == wire.ITERATOR else RemoteObject
                known = self._objects.get(number)
                if type(known) is not kind:
                    if len(self._objects) >= MAX_OBJECTS:
                        raise wire.ProtocolError(f"more than {MAX_OBJECTS} objects")
                    known = self._objects[number] = kind(self, number, truth)
                return known
        raise wire.ProtocolError("a malformed handle")
