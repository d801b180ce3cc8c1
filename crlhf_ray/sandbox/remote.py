"""What stands for a program's objects and classes among the tests.

A test may use an object of the program as it likes, but a program may not be asked whether it is right. An object that
answers every question with yes would pass `answer == 3` and `abs(answer - 3) < 1e-6`. So:

- A function's answer of a class of the program's own has attributes, methods, length, items and truth; it equals
  nothing but itself, and there is no arithmetic with it.
- Objects of a class that the problem asks for are compared and combined with each other by that class's own rules.
- With anything else they are compared and combined only where the test itself has just made the object
  (`Money(5) == 5`), since then it is these very rules that are tested. Where a method answered it, or an operator, it
  equals nothing else; a sum with something else has to be an object again, of which no number is asked any more.
"""

from __future__ import annotations

import dis
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crlhf_ray.sandbox.guest import wire

if TYPE_CHECKING:
    from crlhf_ray.sandbox.program import Program

MADE, ANSWER, MIXED = 2, 1, 0
_MAX_ITEMS = 1_000_000
_READABLE = frozenset(
    {"__name__", "__qualname__", "__doc__", "__annotations__", "__defaults__", "__kwdefaults__", "__wrapped__"}
)
_OF_THE_PROGRAM = "_of_the_program"


def mark(error: Exception) -> Exception:
    """Remember that it was not the tests that raised this."""
    error.__dict__[_OF_THE_PROGRAM] = True
    return error


def is_of_the_program(error: BaseException) -> bool:
    return _OF_THE_PROGRAM in error.__dict__


def remote_of(value: Any) -> tuple[Program, int]:
    """The program that an object or class belongs to, and its number there."""
    found: tuple[Program, int] = type.__getattribute__(value, "_remote") if isinstance(value, type) else value._remote
    return found


class RemoteClass(type):
    # A class of the program: calling it makes an object there.
    home: str
    _remote: tuple[Program, int]

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        program, _ = cls._remote
        if "_remote" in cls.__dict__:
            return program.construct(cls, arguments, named)
        return super().__call__(*arguments, **named)  # a test's own subclass

    __doc__ = property(lambda cls: cls.__getattr__("__doc__"))

    def known(cls, number: int) -> Any:
        """What stands for the object of this number."""
        found = cls.__new__(cls)  # type: ignore[call-overload]
        object.__setattr__(found, "_remote", (cls._remote[0], number))
        return found

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        program, number = cls._remote
        return program.ask("get", program._numbers[number], name)

    def __setattr__(cls, name: str, value: Any) -> None:
        program, number = cls._remote
        program.ask("set", program._numbers[number], name, value)


class RemoteObject:
    """An object of the program."""

    _remote: tuple[Program, int]
    _level = ANSWER

    def __init__(self, *arguments: Any, **named: Any):
        """Of a test's own subclass of a class of the program."""
        base: Any = next(kind for kind in type(self).__mro__ if "_remote" in kind.__dict__)
        made = base._remote[0].construct(base, arguments, named)
        object.__setattr__(self, "_remote", made._remote)
        object.__setattr__(self, "_level", made._level)
        object.__setattr__(made, "_remote", (None, -1))
        self._remote[0].adopt(self, self._remote[1])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_remote") or (name.startswith("__") and name not in _READABLE):
            raise AttributeError(name)
        return self._remote[0].ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(self, BaseException) and name in (
            "args",
            "__traceback__",
            "__cause__",
            "__context__",
            "__notes__",
        ):
            object.__setattr__(self, name, value)
        else:
            self._remote[0].ask("set", self, name, value)

    def __str__(self) -> str:
        return str(self._remote[0].ask("operate", "str", (self,)))[:100_000]

    def __repr__(self) -> str:
        return str(self._remote[0].ask("operate", "repr", (self,)))[:100_000]

    def __bool__(self) -> bool:
        if self._level == MIXED:
            raise TypeError("what the program made of its own object and another is not true or false")
        return bool(self._remote[0].ask("operate", "bool", (self,)))

    def __copy__(self) -> Any:
        return _derived(self, self._remote[0].ask("operate", "copy", (self,)))

    def __deepcopy__(self, memo: Any) -> Any:
        return _derived(self, self._remote[0].ask("operate", "deepcopy", (self,)))

    def __del__(self) -> None:
        program, number = self.__dict__.get("_remote", (None, -1))
        if program is not None:
            program.release(number)


def _derived(source: RemoteObject, result: Any) -> Any:
    """A copy of what a test made is as good as made by the test."""
    if isinstance(result, RemoteObject) and type(result) is type(source):
        object.__setattr__(result, "_level", source._level)
    return result


class _Iterator:
    """Methods of an iterator of the program, read item by item, and later some at a time."""

    def __iter__(self) -> Any:
        return self

    def __next__(self: Any) -> Any:
        state = self.__dict__
        ahead = state.setdefault("_ahead", deque())
        if not ahead and "_end" not in state:
            items, end = self._remote[0].items(self)
            ahead.extend(items)
            state["_taken"] = state.get("_taken", 0) + len(items)
            if state["_taken"] > _MAX_ITEMS:
                self._remote[0].stop("error", f"an iterator of more than {_MAX_ITEMS} items")
            if end is not None:
                state["_end"] = end
        if ahead:
            return ahead.popleft()
        end = state["_end"]
        state["_end"] = ()
        if isinstance(end, Exception):
            raise (
                mark(end) if not isinstance(end, StopIteration | StopAsyncIteration) else RuntimeError("StopIteration")
            )
        raise StopIteration(*end)


class _Generator(_Iterator):
    def send(self: Any, value: Any) -> Any:
        return self._remote[0].send(self, value)


class _Awaitable:
    """Methods of something that a test awaits: it is run to its end in the program's own event loop."""

    def __await__(self: Any) -> Iterator[Any]:
        return self._remote[0].run("await", self)
        yield

    def send(self: Any, value: Any) -> Any:
        raise StopIteration(self._remote[0].run("await", self))

    def throw(self: Any, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        pass


def _awaited(name: str) -> Callable[..., Any]:
    async def method(self: Any, *arguments: Any) -> Any:
        return self._remote[0].run(name, self, *arguments)

    return method


def _look(name: str) -> Callable[..., Any]:
    def method(self: Any, *operands: Any) -> Any:
        return self._remote[0].ask("operate", name, (self, *operands))

    return method


def _call(self: Any, *arguments: Any, **named: Any) -> Any:
    return self._remote[0].call(self, arguments, named)


def _enter(self: Any) -> Any:
    level = self._level
    entered = self._remote[0].ask("enter", self)
    object.__setattr__(self, "_level", level)
    return entered


def _exit(self: Any, kind: Any, error: Any, traceback: TracebackType | None) -> bool:
    program = self._remote[0]
    sent = error if error is None or type(error) in wire.ERRORS.values() else Exception(str(error))
    swallowed = program.ask("exit", self, sent)
    return bool(swallowed) and error is not None and program.suppresses and _raised_on_purpose(error, traceback)


def _raised_on_purpose(error: BaseException, traceback: TracebackType | None) -> bool:
    """Whether a test itself raised it: what a wrong answer brings about is not the program's to end."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or not isinstance(error, Exception) or isinstance(error, AssertionError):
        return False
    if is_of_the_program(error) or not traceback.tb_frame.f_code.co_filename.startswith("<test "):
        return False
    opcode = dis.opname[traceback.tb_frame.f_code.co_code[traceback.tb_lasti]]
    return opcode == "RAISE_VARARGS" or isinstance(error, ZeroDivisionError)


def _comparison(name: str) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        program = self._remote[0]
        if self is not other and not program.is_asked(other) and self._level < MADE:
            return NotImplemented
        return program.ask("operate", name, (self, other))

    return method


def _arithmetic(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        program, level, in_place = self._remote[0], self._level, name.startswith("i") and name != "invert"
        result = program.ask("operate", name, (other, self) if swapped else (self, other))
        if in_place and result is self:
            object.__setattr__(self, "_level", level)
        mixed = not program.is_asked(other) and level < MADE
        if mixed or MIXED in (level, getattr(other, "_level", ANSWER)):
            if not program.is_asked(result):
                raise TypeError(f"only the program could say what this is: {name} of its own object and another")
            object.__setattr__(result, "_level", MIXED)
        return result

    return method


def _unary(name: str) -> Callable[..., Any]:
    def method(self: Any, *operands: Any) -> Any:
        if self._level == MIXED:
            raise TypeError("what the program made of its own object and another has no number")
        return self._remote[0].ask("operate", name, (self, *operands))

    return method


def _hash(self: Any) -> int:
    found = self._remote[0].ask("operate", "hash", (self,))
    if type(found) is not int:
        raise TypeError("__hash__ method should return an integer")
    return hash(found)


_METHODS: dict[str, Callable[..., Any]] = {
    **{name: _look(name) for name in ("len", "getitem", "setitem", "delitem", "iter", "reversed", "bytes")},
    "call": _call,
    "enter": _enter,
    "exit": _exit,
    "aiter": lambda self: self._remote[0].ask("get", self, "__aiter__")(),
    **{name: _awaited(name) for name in ("anext", "aenter", "aexit")},
}
#: Only of objects of a class that the problem asks for.
_ASKED_METHODS: dict[str, Callable[..., Any]] = {
    "contains": _look("contains"),
    "hash": _hash,
    "format": _look("format"),
    **{name: _comparison(name) for name in wire.COMPARISONS},
    **{name: _arithmetic(name) for name in wire.ARITHMETIC},
    **{f"r{name}": _arithmetic(name, swapped=True) for name in wire.ARITHMETIC},
    **{f"i{name}": _arithmetic(f"i{name}") for name in wire.ARITHMETIC},
    **{name: _unary(name) for name in wire.UNARY},
}


def _read(name: str) -> property:
    return property(lambda self: self.__getattr__(name))


def remote_class(
    program: Program, number: int, name: str, home: str, specials: frozenset[str], above: list[Any]
) -> RemoteClass:
    """What stands for a class of the program, with those of its special methods that tests may use."""
    bases = tuple(base for base in above if isinstance(base, RemoteClass))
    errors = tuple(base for base in above if not isinstance(base, RemoteClass) and issubclass(base, Exception))
    mixins: list[type] = [_Generator if "send" in specials else _Iterator] if "next" in specials else []
    mixins += [_Awaitable] if "await" in specials else []
    asked = name in program.asked or any(base in program.asked_classes for base in bases)
    table = {**_METHODS, **(_ASKED_METHODS if asked else {})}
    body: dict[str, Any] = {f"__{special}__": table[special] for special in specials if special in table}
    if "next" in specials:
        body.pop("__iter__", None)
    if "__eq__" in body and "__hash__" not in body:
        body["__hash__"] = None
    body |= {"_remote": (program, number), "home": home, "__module__": "solution", "__doc__": _read("__doc__")}
    body["__annotations__"] = _read("__annotations__")
    ordered = (*mixins, *(bases[:1] or (RemoteObject,)), *(errors[:1] if not bases else ()))
    made = type.__new__(RemoteClass, name[:100], ordered, body)
    type.__init__(made, name, ordered, body)
    return made
