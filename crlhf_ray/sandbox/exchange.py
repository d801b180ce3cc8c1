"""One exchange of messages with a running program, and how it can end."""

from __future__ import annotations

import builtins

# Answers may need these, and under the limits of a check an import may fail, or end halfway.
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from crlhf_ray.problems.names import Given
from crlhf_ray.sandbox.guest import values, wire
from crlhf_ray.sandbox.guest.heap import Heap
from crlhf_ray.sandbox.remote import RemoteClass, mark
from crlhf_ray.sandbox.verdict import Status

NO_ANSWER = "no answer within the wall-clock limit"


class Stopped(BaseException):
    """The check is over. Not an Exception, so that no handler in a test can catch it by accident."""

    def __init__(self, status: Status, detail: str = ""):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class Ended(Stopped):
    """The program's process is gone; how it ended decides the status."""


class Refused(Stopped):
    """A test hands the program what cannot be sent. answered: the program had answered by then, and may be why."""

    def __init__(self, detail: str, *, answered: bool):
        super().__init__("infra_error", detail)
        self.answered = answered


class Exchange:
    """Requests to the program at the other end of a channel, and its calls back.

    Whatever the program sends can only be a value, never a verdict. `Program` says what the values stand for.
    """

    def __init__(
        self,
        channel: wire.Channel,
        libraries: Sequence[str] = (),
        given: Given | None = None,
    ):
        self._channel, self._libraries = channel, libraries
        given = given or Given()
        self.asked, self.suppresses, self._seeded = given.asked, given.suppresses, given.seeded
        self._sent = 0
        self._answered = False
        self._numbers: dict[int, RemoteClass] = {}
        self.asked_classes: set[RemoteClass] = set()
        self._objects: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._released: set[int] = set()
        self._handed: list[Callable[..., Any]] = []
        self._handed_numbers: dict[int, int] = {}
        self._streams = (sys.stdout, sys.stderr)
        self._classes = given.classes
        self.heap = self._apart()
        self.stopped: Stopped | None = None

    # ---- messages

    def stop(self, status: Status, detail: str) -> NoReturn:
        """End the check with this status, whatever the caller does with the exception."""
        self.stopped = self.stopped or Stopped(status, detail)
        raise self.stopped

    def ask(self, operation: str, *operands: Any, packed: Any = None) -> Any:
        """Send one request and answer its result. What it changed of objects that both sides have is changed here."""
        if self.stopped is not None:
            raise self.stopped
        # While an answer is being taken in, what it refers to has to stay.
        forgotten = [] if self.heap.filling else self._forget()
        content = self._packed(operands) if packed is None else packed
        self._sent += 1
        number = self._sent
        released: list[int] = []
        if not self.heap.filling:
            released, self._released = sorted(self._released), set()
        replaced = [now is not then for now, then in zip((sys.stdout, sys.stderr), self._streams, strict=True)]
        state = random.getstate() if self._seeded else None
        self._send([number, operation, content, forgotten, released, replaced, state])
        while True:
            match self._receive():
                case [int(answered), "ok", result, list(written), after] if answered == number:
                    self._after(written, after)
                    self._answered = self._answered or operation not in ("load", "bound")
                    return result if packed is not None else self._unpacked(result)
                case [int(answered), "raised", content, [str(builtin), str(name), str(text)], _, _] if (
                    answered == number
                ):
                    self._answered = True
                    self._raise(self._unpacked(content), builtin, name, text)
                case ["back", int(handed), content] if 0 <= handed < len(self._handed):
                    self._answered = True
                    self._call_back(handed, content)
                case answer:
                    self.stop("error", f"protocol: an answer of the wrong form: {str(answer)[:80]}")

    def _packed(self, value: Any) -> Any:
        try:
            return self.heap.pack(value)
        except (wire.Unsendable, RecursionError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        self.stopped = self.stopped or Refused(
            f"an argument cannot be sent to the program: {error}", answered=self._answered
        )
        raise self.stopped from None

    def _unpacked(self, content: Any) -> Any:
        try:
            return self.heap.unpack(content)
        except (wire.ProtocolError, RecursionError) as error:
            self.stop("error", f"protocol: {error}")

    def _send(self, message: Any) -> None:
        try:
            self._channel.send(message)
        except TimeoutError:
            self.stop("timeout", NO_ANSWER)
        except (wire.Unsendable, RecursionError) as error:
            self._refuse(error)
        except OSError:
            self._end()

    def _receive(self) -> Any:
        try:
            answer = self._channel.receive()
        except TimeoutError:
            self.stop("timeout", NO_ANSWER)
        except wire.ProtocolError as error:
            self.stop("error", f"protocol: {error}")
        except (EOFError, OSError):
            self._end()
        return answer

    def _end(self) -> NoReturn:
        self.stopped = Ended("killed", "the program ended its process")
        raise self.stopped from None

    def _after(self, written: list[Any], state: Any) -> None:
        """What the program printed and drew, where tests have to do with that."""
        for stream, text, ours in zip((sys.stdout, sys.stderr), written, self._streams, strict=False):
            if type(text) is str and stream is not ours:
                stream.write(text)
        if self._seeded and type(state) is list and len(state) == 3 and type(state[1]) is list:
            try:
                random.setstate((state[0], tuple(state[1]), state[2]))
            except (TypeError, ValueError) as error:
                self.stop("error", f"protocol: {error}")

    def _forget(self) -> list[int]:
        """Objects that no test can look at any more, or that are too many to follow: no longer one on both sides."""
        objects = self.heap.objects
        alone = []
        for number in list(objects):
            # The heap's own and the argument; but what a test changed and let go (`f().items.clear()`) is sent first.
            if sys.getrefcount(objects[number]) == 2 and not self.heap.has_changed(number):
                alone.append(number)
        alone += list(objects)[: max(0, len(objects) - len(alone) - wire.MAX_SHARED)]
        self.heap.forget(alone)
        return alone

    def _call_back(self, handed: int, content: Any) -> None:
        """Call a function that a test handed over, as the program asks, and tell the program what came of it."""
        match self._unpacked(content):
            case (tuple(arguments), tuple(named)) if all(type(pair) is tuple and len(pair) == 2 for pair in named):
                pass
            case _:
                self.stop("error", "protocol: a call of the wrong form")
        try:
            answer = ["ok", self._packed(self._handed[handed](*arguments, **dict(named)))]
        except StopIteration:
            answer = ["end", self._packed(None)]
        except Exception as error:
            mark(error)
            plain = values.ERRORS.get(type(error).__name__) is type(error) or type(error) in self._classes.values()
            answer = ["raised", self._packed(error if plain else Exception(f"{type(error).__name__}: {error}"))]
        self._send(["back", *answer, self._forget()])

    def _raise(self, error: Any, builtin: str, name: str, text: str) -> NoReturn:
        """Raise here what was raised there."""
        if builtin in ("MemoryError",):
            self.stop("out_of_memory", text or builtin)
        kind = getattr(builtins, builtin, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):  # SystemExit and the like end the program
            self.stop("error", f"{name[:100]}: {text[:300]}".rstrip(": "))
        if isinstance(error, tuple) and len(error) == 3 and isinstance(error[0], RemoteClass | type):
            error = self._own_error(*error)
        if not isinstance(error, Exception) or isinstance(error, StopIteration | StopAsyncIteration):
            # In a test's `all(map(f, ...))` the end of an iteration would end the loop as if all had been right.
            kind = RuntimeError if issubclass(kind, StopIteration | StopAsyncIteration) else kind
            error = values.make_error(kind, [f"{name}: {text}" if name != kind.__name__ else text], {})
        raise mark(error)

    def _own_error(self, kind: Any, error: Any, arguments: Any) -> Any:
        """An exception of the program's own class, or of one in the standard library."""
        if not (isinstance(kind, RemoteClass) and issubclass(kind, Exception) and type(arguments) is tuple):
            return None
        home: str = type.__getattribute__(kind, "__home__")
        known = getattr(sys.modules.get(home), kind.__name__, None)
        root = home.split(".")[0]
        # Whether a case of unittest is skipped is not the program's to say.
        if (
            root in sys.stdlib_module_names
            and root != "unittest"
            and isinstance(known, type)
            and issubclass(known, Exception)
        ):
            return values.make_error(known, list(arguments), {})
        if isinstance(error, kind):
            error.args = arguments
            return error
        return None

    def _apart(self) -> Heap:
        return Heap(0, self._outside, self._inside, self._classes, self._libraries, answers=True)

    def _outside(self, value: Any) -> dict[str, Any] | None:
        """What stands for an object of ours that is no value."""
        raise NotImplementedError

    def _inside(self, tag: str, content: Any) -> Any:
        """What a tag stands for that is no value."""
        raise NotImplementedError
