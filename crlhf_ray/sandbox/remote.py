"""What stands for a program's objects and classes among the tests.

A test may use an object of the program as it likes, but a program may not be asked whether it is right. An object that
answers every question with yes would pass `answer == 3` and `abs(answer - 3) < 1e-6`. So:

- A function's answer of a class of the program's own has attributes, methods, length, items and truth; it equals
  nothing but itself, and there is no arithmetic with it. One whose class is made from a plain type is compared and
  combined as what it holds of that type.
- Objects of a class that the problem asks for are compared and combined with each other by that class's own rules.
- With anything else they are compared and combined only where the test itself has just made the object
  (`Money(5) == 5`), since then it is these very rules that are tested. Where a method answered it, or an operator, it
  equals nothing else; a sum with something else has to be an object again, of which no number is asked any more.
"""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from crlhf_ray.sandbox.guest import wire

if TYPE_CHECKING:
    from crlhf_ray.sandbox.program import Program

MADE, ANSWER, MIXED = 2, 1, 0
_MAX_ITEMS = 1_000_000
_READABLE = frozenset(
    {"__name__", "__qualname__", "__doc__", "__annotations__", "__defaults__", "__kwdefaults__", "__wrapped__"}
    | {"__code__", "__func__", "__self__", "__dict__", "__members__"}
)


def mark(error: Exception) -> Exception:
    """Remember that it was not the tests that raised this."""
    object.__setattr__(error, wire.MARK, True)
    return error


def is_of_the_program(error: BaseException) -> bool:
    try:
        return object.__getattribute__(error, wire.MARK) is True
    except AttributeError:
        return False


def remote_of(value: Any) -> tuple[Program, int]:
    """The program that an object or class belongs to, and its number there."""
    found: tuple[Program, int] = (
        type.__getattribute__(value, "__remote__") if isinstance(value, type) else value.__remote__
    )
    return found


class RemoteClass(type):
    # A class of the program: calling it makes an object there. What is ours is named as no program names its own.
    __home__: str
    __remote__: tuple[Program, int]

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        program, _ = cls.__remote__
        if "__remote__" in cls.__dict__:
            return program.construct(cls, arguments, named)
        return super().__call__(*arguments, **named)  # a test's own subclass

    __doc__ = property(lambda cls: cls.__getattr__("__doc__"))

    def __getattr__(cls, name: str) -> Any:
        program, number = cls.__remote__
        if name == "__dataclass_fields__":
            return program.fields(program._numbers[number])
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        return program.ask("get", program._numbers[number], name)

    def __ask(cls, name: str, *operands: Any) -> Any:
        program, number = cls.__remote__
        return program.ask("operate", name, (program._numbers[number], *operands))

    # Of enums, and of classes that take parameters.
    def __iter__(cls) -> Any:
        return cls.__ask("iter")

    def __reversed__(cls) -> Any:
        return cls.__ask("reversed")

    def __len__(cls) -> int:
        return int(cls.__ask("len"))

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, item: Any) -> Any:
        return cls.__ask("getitem", item)

    def __contains__(cls, item: Any) -> bool:
        return isinstance(item, cls) and bool(cls.__ask("contains", item))

    @property
    def __signature__(cls) -> inspect.Signature:
        program, number = cls.__remote__
        begin = program.ask("get", program._numbers[number], "__init__")
        if not isinstance(begin, types.FunctionType):
            raise AttributeError("__signature__")
        found = inspect.signature(begin)
        return found.replace(parameters=[*found.parameters.values()][1:])

    def __setattr__(cls, name: str, value: Any) -> None:
        program, number = cls.__remote__
        program.ask("set", program._numbers[number], name, value)


def stand_in(kind: Any, number: int) -> Any:
    """What stands for the object of this number and class."""
    found = kind.__new__(kind)
    object.__setattr__(found, "__remote__", (kind.__remote__[0], number))
    return found


class RemoteObject:
    """An object of the program."""

    __remote__: tuple[Program, int]
    __level__ = ANSWER

    def __init__(self, *arguments: Any, **named: Any):
        """Of a test's own subclass of a class of the program."""
        base: Any = next(kind for kind in type(self).__mro__ if "__remote__" in kind.__dict__)
        made = base.__remote__[0].construct(base, arguments, named)
        object.__setattr__(self, "__remote__", made.__remote__)
        object.__setattr__(self, "__level__", made.__level__)
        object.__setattr__(made, "__remote__", (None, -1))
        self.__remote__[0].adopt(self, self.__remote__[1])

    def __getattr__(self, name: str) -> Any:
        if name == "__dataclass_fields__":
            return getattr(type(self), name)
        if name.startswith("__remote__") or (name.startswith("__") and name not in _READABLE):
            raise AttributeError(name)
        return self.__remote__[0].ask("get", self, name)

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
            self.__remote__[0].ask("set", self, name, value)

    __dict__ = property(lambda self: self.__getattr__("__dict__"))

    def __str__(self) -> str:
        return str(self.__remote__[0].ask("operate", "str", (self,)))[:100_000]

    def __repr__(self) -> str:
        return str(self.__remote__[0].ask("operate", "repr", (self,)))[:100_000]

    def __bool__(self) -> bool:
        if self.__level__ == MIXED:
            raise TypeError("what the program made of its own object and another is not true or false")
        return bool(self.__remote__[0].ask("operate", "bool", (self,)))

    def __copy__(self) -> Any:
        return _derived(self, self.__remote__[0].ask("operate", "copy", (self,)))

    def __deepcopy__(self, memo: Any) -> Any:
        return _derived(self, self.__remote__[0].ask("operate", "deepcopy", (self,)))

    def __del__(self) -> None:
        try:
            program, number = object.__getattribute__(self, "__remote__")
        except AttributeError:  # it was never made
            return
        if program is not None:
            program.release(number)


def _derived(source: RemoteObject, result: Any) -> Any:
    """A copy of what a test made is as good as made by the test."""
    if isinstance(result, RemoteObject) and type(result) is type(source):
        object.__setattr__(result, "__level__", source.__level__)
    return result


class RemoteIterator:
    """Methods of an iterator of the program, read item by item, and later some at a time."""

    __remote__: tuple[Program, int]
    __ahead__: deque[Any] | None = None
    __end__: Any = None
    __taken__ = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        program = self.__remote__[0]
        if not self.__ahead__ and self.__end__ is None:
            items, end = program.items(self)
            object.__setattr__(self, "__ahead__", deque(items))
            object.__setattr__(self, "__taken__", self.__taken__ + len(items))
            if self.__taken__ > _MAX_ITEMS:
                program.stop("error", f"an iterator of more than {_MAX_ITEMS} items")
            object.__setattr__(self, "__end__", end)
        if self.__ahead__:
            return self.__ahead__.popleft()
        end = self.__end__
        object.__setattr__(self, "__end__", ())
        if isinstance(end, Exception):
            raise (
                mark(end) if not isinstance(end, StopIteration | StopAsyncIteration) else RuntimeError("StopIteration")
            )
        raise StopIteration(*end)


class Beginning(RemoteIterator):
    """An iterator whose `__iter__` does something: it may be back at its first item."""

    def __iter__(self) -> Any:
        found = self.__remote__[0].ask("operate", "iter", (self,))
        if found is self:
            object.__setattr__(self, "__end__", None)
        return found


class _Generator(RemoteIterator):
    __class__ = property(lambda self: types.GeneratorType)

    def send(self, value: Any) -> Any:
        return self.__remote__[0].resume("send", self, value)

    def throw(self, *error: Any) -> Any:
        raised = error[0](*error[1:2]) if isinstance(error[0], type) else error[0]
        return self.__remote__[0].resume("throw", self, raised)

    def close(self) -> None:
        self.__remote__[0].ask("get", self, "close")()
        object.__setattr__(self, "__ahead__", deque())
        object.__setattr__(self, "__end__", ())


class Awaitable:
    """Methods of something that a test awaits: it is run to its end in the program's own event loop."""

    def __await__(self: Any) -> Iterator[Any]:
        return self.__remote__[0].run("await", self)
        yield


class _Coroutine(Awaitable):
    __class__ = property(lambda self: types.CoroutineType)

    def send(self: Any, value: Any) -> Any:
        raise StopIteration(self.__remote__[0].run("await", self))

    def throw(self: Any, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        pass


class _Function:
    __class__ = property(lambda self: types.FunctionType)


class _Method:
    __class__ = property(lambda self: types.MethodType)


class _AsyncGenerator:
    __class__ = property(lambda self: types.AsyncGeneratorType)


#: What Python's own kinds are to `isinstance` and `inspect`.
PYTHONS: dict[str, type] = {
    "generator": _Generator,
    "coroutine": _Coroutine,
    "function": _Function,
    "method": _Method,
    "async_generator": _AsyncGenerator,
}
