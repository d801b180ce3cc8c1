"""What tests can do with objects of a program's classes: see `remote`."""

from __future__ import annotations

import dis
import operator
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crlhf_ray.sandbox.guest import values, wire
from crlhf_ray.sandbox.remote import (
    ANSWER,
    MADE,
    MIXED,
    PYTHONS,
    Awaitable,
    Beginning,
    RemoteClass,
    RemoteIterator,
    RemoteObject,
    is_of_the_program,
)

if TYPE_CHECKING:
    from crlhf_ray.sandbox.program import Program


def _awaited(name: str) -> Callable[..., Any]:
    async def method(self: Any, *arguments: Any) -> Any:
        return self.__remote__[0].run(name, self, *arguments)

    return method


def _look(name: str) -> Callable[..., Any]:
    def method(self: Any, *operands: Any) -> Any:
        return self.__remote__[0].ask("operate", name, (self, *operands))

    return method


def _call(self: Any, *arguments: Any, **named: Any) -> Any:
    return self.__remote__[0].call(self, arguments, named)


def _enter(self: Any) -> Any:
    level = self.__level__
    entered = self.__remote__[0].ask("enter", self)
    object.__setattr__(self, "__level__", level)
    return entered


def _exit(self: Any, kind: Any, error: Any, traceback: TracebackType | None) -> bool:
    program = self.__remote__[0]
    sent = error if error is None or type(error) in values.ERRORS.values() else Exception(str(error))
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
        program = self.__remote__[0]
        if self is not other and not program.is_asked(other) and self.__level__ < MADE:
            if self.__level__ == MIXED or not hasattr(self, "__plain__"):
                return NotImplemented
            return getattr(operator, name)(program.plain(self), other)
        return program.ask("operate", name, (self, other))

    return method


def _arithmetic(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        program, level, in_place = self.__remote__[0], self.__level__, name.startswith("i") and name != "invert"
        if level == ANSWER and hasattr(self, "__plain__") and not program.is_asked(other):
            return _of_plain(name, *((other, program.plain(self)) if swapped else (program.plain(self), other)))
        result = program.ask("operate", name, (other, self) if swapped else (self, other))
        if in_place and result is self:
            object.__setattr__(self, "__level__", level)
        mixed = not program.is_asked(other) and level < MADE
        if mixed or MIXED in (level, getattr(other, "__level__", ANSWER)):
            if not program.is_asked(result):
                raise TypeError(f"only the program could say what this is: {name} of its own object and another")
            object.__setattr__(result, "__level__", MIXED)
        return result

    return method


def _of_plain(name: str, left: Any, right: Any) -> Any:
    return getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))(left, right)


def _contains(self: Any, item: Any) -> Any:
    program = self.__remote__[0]
    if self.__level__ == MIXED:
        raise TypeError("what the program made of its own object and another contains nothing")
    if self.__level__ == ANSWER and hasattr(self, "__plain__") and not program.is_asked(item):
        return item in program.plain(self)
    return program.ask("operate", "contains", (self, item))


def _unary(name: str) -> Callable[..., Any]:
    def method(self: Any, *operands: Any) -> Any:
        if self.__level__ == MIXED:
            raise TypeError("what the program made of its own object and another has no number")
        return self.__remote__[0].ask("operate", name, (self, *operands))

    return method


def _hash(self: Any) -> int:
    program = self.__remote__[0]
    if self.__level__ == MIXED:
        raise TypeError("what the program made of its own object and another has no hash")
    if hasattr(self, "__plain__"):  # texts have another hash in each process
        return hash(program.plain(self))
    found = program.ask("operate", "hash", (self,))
    if type(found) is not int:
        raise TypeError("__hash__ method should return an integer")
    return hash(found)


_METHODS: dict[str, Callable[..., Any]] = {
    **{name: _look(name) for name in ("len", "getitem", "setitem", "delitem", "iter", "reversed", "bytes")},
    "call": _call,
    "enter": _enter,
    "exit": _exit,
    "aiter": lambda self: self.__remote__[0].ask("get", self, "__aiter__")(),
    **{name: _awaited(name) for name in ("anext", "aenter", "aexit")},
}
#: Only of objects of a class that the problem asks for.
_ASKED_METHODS: dict[str, Callable[..., Any]] = {
    "contains": _contains,
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
    mixins: list[type] = [PYTHONS[name]] if home == "builtins" and name in PYTHONS else []
    if "next" in specials and not mixins:
        mixins.append(Beginning if "begins" in specials else RemoteIterator)
    if "await" in specials and not mixins:
        mixins.append(Awaitable)
    body: dict[str, Any] = {f"__{special}__": _METHODS[special] for special in specials if special in _METHODS}
    if "next" in specials:
        body.pop("__iter__", None)
    if "plain" in specials:
        body["__plain__"] = True
    body |= {
        "__remote__": (program, number),
        "__home__": home,
        "__specials__": specials,
        "__module__": "solution",
        "__doc__": _read("__doc__"),
    }
    body["__annotations__"] = _read("__annotations__")
    ordered = (*mixins, *(bases[:1] or (RemoteObject,)), *(errors[:1] if not bases else ()))
    made = type.__new__(RemoteClass, name[:100], ordered, body)
    type.__init__(made, name, ordered, body)
    return made


def add_operators(kind: RemoteClass) -> None:
    """What objects of a class that the problem asks for can do beyond those of other classes."""
    specials = type.__getattribute__(kind, "__specials__")
    for name in specials & _ASKED_METHODS.keys():
        type.__setattr__(kind, f"__{name}__", _ASKED_METHODS[name])
    if "eq" in specials and "hash" not in specials:
        type.__setattr__(kind, "__hash__", None)
