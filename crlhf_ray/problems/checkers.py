"""How a program is shown right or wrong. A new kind of check is one class with a `verify` method.

Checkers run outside the jail, on trusted ground: they hold the tests and the expected values, and see the program only
through `Channel`. What the program sends back is plain data.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import copy
import importlib
import math
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol

if TYPE_CHECKING:
    from crlhf_ray.problems.problem import Problem


class Untestable(Exception):
    """The tests cannot be run, whatever the program does: says nothing about it."""


@dataclass(frozen=True)
class Given:
    """What a problem gives its program and asks of it.

    classes: of the prompt, by name: program and tests both have them, and their objects travel by what they hold.
    asked: names of the classes that a right program defines; tests may use their operators.
    suppresses: whether a right program has context managers that end exceptions.
    seeded: whether the tests seed random numbers.
    """

    classes: Mapping[str, type] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    suppresses: bool = False
    seeded: bool = False


class Channel(Protocol):
    """The way to one running program that a checker is given; the sandbox makes one for each check.

    test: index of the test that runs now; a checker sets it before each.
    """

    test: int | None

    def load(self, source: str, names: tuple[str, ...] = (), given: Given | None = None) -> tuple[Any, dict[str, Any]]:
        """Run the source in a fresh process; answers the program and what it bound to the names."""

    def script(self, source: str, stdin: str) -> Any:
        """Run the source as a whole program on this input, to its end: its ``stdout`` and ``code``."""

    def fail(self, detail: str) -> NoReturn:
        """The program gave a wrong answer to the current test."""


class Checker:
    """Base of all kinds. kind: its name in files and reports."""

    kind: str

    def prepare(self, problem: Problem) -> None:
        """What is worked out once a process, before the first program, and counts against no program's limits."""

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        """Return if the program ``source`` is right; raise anything, or call ``check.fail``, if it is not.

        Sets ``check.test`` to the index of each test before running it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AssertChecker(Checker):
    """Test snippets that run in the program's namespace, each by itself.

    The snippets run outside the jail; names of theirs that only the program defines stand for its objects inside.

    setup: code that runs once before the first test (helpers, imports).
    tests: Python snippets; a test passes when it raises nothing.
    """

    tests: tuple[str, ...]
    setup: str = ""
    kind: str = "asserts"

    def prepare(self, problem: Problem) -> None:
        # What they import: among a program's answers there may be no memory left for it.
        for source in (problem.prompt, self.setup, *self.tests):
            tree = _tree(source) if "import" in source else None
            for node in ast.walk(tree) if tree else ():
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for name in names:
                    with contextlib.suppress(ImportError):  # said where it is needed
                        importlib.import_module(name)

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        if not self.tests:
            raise Untestable("there are none")
        namespace = trusted_names(problem)
        wanted = free_names("\n".join((self.setup, *self.tests)), frozenset(namespace) - {problem.entry_point})
        libraries = known_libraries(wanted - {problem.entry_point}, problem.packages)
        namespace.update(libraries)
        wanted -= libraries.keys()
        given = given_by(problem, namespace, "\n".join((self.setup, *self.tests)))
        _, bound = check.load(visible(problem, source), (problem.entry_point, *sorted(wanted)), given)
        require(problem, bound, check)
        namespace.update(bound)
        exec(trusted_code(self.setup, "<setup>"), namespace)
        for check.test, test in enumerate(self.tests):
            exec(trusted_code(test, f"<test {check.test}>"), namespace)


@dataclass(frozen=True)
class Case:
    """One call with what must come of it.

    arguments, expected: Python values of plain types.
    arguments_after: what the arguments must be after the call, for functions that change them; None leaves it open.
    tolerance: of this call alone; None takes the checker's.
    """

    arguments: tuple[Any, ...]
    expected: Any
    arguments_after: tuple[Any, ...] | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class CallChecker(Checker):
    """Lists of inputs and expected outputs, compared exactly or within a tolerance.

    method: what is called, of a new object of the entry point, which then is a class; empty for a function.
    tolerance: absolute tolerance for numbers, anywhere inside the answer; together with 1e-7 relative. It is this
        checker's own and not carried from one test to the next. None compares exactly, but numbers in an answer whose
        expected value is a float or a list of floats within 1e-6, as EvalPlus does.
    """

    cases: tuple[Case, ...]
    tolerance: float | None = None
    method: str = ""
    kind: str = "calls"

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        if not self.cases:
            raise Untestable("there are none")
        given = given_by(problem, trusted_names(problem))
        program, bound = check.load(visible(problem, source), (problem.entry_point,), given)
        require(problem, bound, check)
        after = any(case.arguments_after is not None for case in self.cases)
        function = bound[problem.entry_point]
        if self.method:
            function = getattr(function(), self.method)
        answers = program.calls(function, [case.arguments for case in self.cases], after=after)
        for check.test, case in enumerate(self.cases):
            answer, after = next(answers)
            tolerance = self.tolerance if case.tolerance is None else case.tolerance
            if not same(answer, case.expected, tolerance):
                check.fail(f"{shorten(case.arguments)}: {shorten(answer)} instead of {shorten(case.expected)}")
            if case.arguments_after is not None and not same(after, list(case.arguments_after), tolerance):
                check.fail(f"{shorten(case.arguments)} became {shorten(after)}")


@dataclass(frozen=True)
class ReferenceChecker(Checker):
    """HumanEval+ style: the original tests first, then many inputs on which a trusted program gives the answers.

    reference: source of that program; it runs on our side, once a process.
    inputs: one list of arguments a call.
    oracle: where many answers are right, an expression over ``arguments``, ``answer``, ``expected`` and the prompt's
        names that is true for a right one.
    """

    base: AssertChecker
    reference: str
    inputs: tuple[tuple[Any, ...], ...]
    tolerance: float | None = None
    oracle: str = ""
    kind: str = "reference"

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        self.base.verify(problem, source, check)
        given = given_by(problem, trusted_names(problem))
        program, bound = check.load(visible(problem, source), (problem.entry_point,), given)
        require(problem, bound, check)
        answers = program.calls(bound[problem.entry_point], self.inputs)
        first = len(self.base.tests)
        for number, (arguments, expected) in enumerate(zip(self.inputs, self.__dict__["_answers"], strict=True)):
            check.test = first + number
            answer, _ = next(answers)
            if self.oracle:
                scope = {**trusted_names(problem), "arguments": arguments, "answer": answer, "expected": expected}
                right = bool(eval(trusted_code(self.oracle, "<oracle>", "eval"), scope))
            else:
                right = same(answer, expected, self.tolerance)
            if not right:
                check.fail(f"{shorten(arguments)}: {shorten(answer)} instead of {shorten(expected)}")

    def prepare(self, problem: Problem) -> None:
        self.base.prepare(problem)
        namespace: dict[str, Any] = {"__name__": "reference"}
        exec(trusted_code(self.reference, "<reference>"), namespace)
        solve = namespace[problem.entry_point]
        answers = [solve(*copy.deepcopy(arguments)) for arguments in self.inputs]
        object.__setattr__(self, "_answers", answers)


@dataclass(frozen=True)
class ScriptChecker(Checker):
    """Whole programs that read standard input and write standard output, a fresh process for each test.

    tests: pairs of input and expected output.
    compare: "lines" compares line by line, but for white space at the ends of lines and text; "words" each word,
        whatever stands between; "exact" every character.
    tolerance: words that are numbers may differ by this much, absolutely or relatively; None compares text.
    accepts: where many outputs are right, trusted Python that defines ``accepts(stdin, output, expected) -> bool``.
    """

    tests: tuple[tuple[str, str], ...]
    tolerance: float | None = None
    compare: Literal["lines", "words", "exact"] = "lines"
    accepts: str = ""
    kind: str = "script"

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        if not self.tests:
            raise Untestable("there are none")
        namespace: dict[str, Any] = {"__name__": "tests"}
        if self.accepts:
            exec(trusted_code(self.accepts, "<setup>"), namespace)
        for check.test, (stdin, expected) in enumerate(self.tests):
            run = check.script(visible(problem, source), stdin)
            if run.code != 0:
                check.fail(f"the program ended with status {run.code}")
            right = (
                namespace["accepts"](stdin, run.stdout, expected) if self.accepts else self.same(run.stdout, expected)
            )
            if right is not True:
                check.fail(f"{shorten(run.stdout)} instead of {shorten(expected)}")

    def same(self, found: str, wanted: str) -> bool:
        """Whether an output is the expected one."""
        if self.compare == "exact":
            return found == wanted
        if self.compare == "words":
            return self._same_words(found.split(), wanted.split())
        lines, expected = found.rstrip().splitlines(), wanted.rstrip().splitlines()
        return len(lines) == len(expected) and all(map(self._same_line, lines, expected))

    def _same_line(self, found: str, wanted: str) -> bool:
        if found.rstrip() == wanted.rstrip():
            return True
        return self.tolerance is not None and self._same_words(found.split(), wanted.split())

    def _same_words(self, found: list[str], wanted: list[str]) -> bool:
        return len(found) == len(wanted) and all(map(self._same_word, found, wanted))

    def _same_word(self, found: str, wanted: str) -> bool:
        if found == wanted or self.tolerance is None:
            return found == wanted
        try:
            return math.isclose(float(found), float(wanted), rel_tol=self.tolerance, abs_tol=self.tolerance)
        except ValueError:
            return False


def require(problem: Problem, bound: dict[str, Any], check: Channel) -> None:
    if problem.entry_point not in bound:
        check.fail(f"the program does not define {problem.entry_point}")


def same(answer: Any, expected: Any, tolerance: float | None) -> bool:
    """Equality of plain values, with the lengths of sequences and the keys of mappings, and a tolerance on numbers.

    Arrays are compared by shape and as Python's own numbers. They may stand for lists, and lists not for arrays.
    """
    # Where there may be arrays, `==` must not see them: numpy would repeat and round what it compares.
    if "numpy" not in sys.modules and answer == expected:
        return True
    if tolerance is None:
        numbers = expected.ravel().tolist() if _is_array(expected) else expected
        items = numbers if isinstance(numbers, list | tuple) else [numbers]
        if items and all(type(item) is float for item in items):
            tolerance = 1e-6
    return _close(answer, expected, tolerance)


def _is_array(value: Any) -> bool:
    return "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].ndarray)


def _close(answer: Any, expected: Any, tolerance: float | None) -> bool:
    if _is_array(expected):
        if not _is_array(answer) or answer.shape != expected.shape:
            return False
        expected = expected.tolist()
    if _is_array(answer):
        answer = answer.tolist()
    if isinstance(expected, list | tuple):
        if type(answer) is not type(expected) or len(answer) != len(expected):
            return False
        return all(_close(a, e, tolerance) for a, e in zip(answer, expected, strict=True))
    if isinstance(expected, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == expected.keys()
            and all(_close(answer[key], value, tolerance) for key, value in expected.items())
        )
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(answer, float) and math.isnan(answer)
    if answer == expected:
        return True
    if tolerance is None or not isinstance(expected, int | float) or not isinstance(answer, int | float):
        return False
    try:
        return math.isclose(answer, expected, rel_tol=1e-7, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats is near to no other number
        return False


def shorten(value: Any, limit: int = 60) -> str:
    try:
        text = repr(value)
    except Exception:  # an integer of more digits than Python writes, or an object whose own text raises
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else text[:limit] + "…"


@lru_cache(maxsize=4096)
def trusted_code(source: str, name: str, mode: str = "exec") -> CodeType:
    return compile(source, name, mode, dont_inherit=True)


@lru_cache(maxsize=1024)
def _tree(source: str) -> ast.Module | None:
    """None for what is no whole Python, such as a prompt that only a completion ends."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def trusted_names(problem: Problem) -> dict[str, Any]:
    """A fresh namespace with what the prompt itself defines: helpers in it must be the prompt's, not the program's."""
    module = types.ModuleType("solution")
    tree = _tree(problem.prompt)
    if tree is not None:
        sys.modules["solution"] = module  # where a dataclass looks for what its annotations mean
        exec(trusted_code(problem.prompt, "<prompt>"), module.__dict__)
        module.__dict__.pop(problem.entry_point, None)
        if tree.body and isinstance(tree.body[-1], ast.ClassDef):  # the completion goes on with it
            module.__dict__.pop(tree.body[-1].name, None)
    return module.__dict__


def given_by(problem: Problem, names: Mapping[str, Any], tests: str = "") -> Given:
    """names: of the prompt, as `trusted_names` has them. tests: their text."""
    classes = {
        name: value
        for name, value in names.items()
        if isinstance(value, type) and value.__module__ == "solution" and value.__qualname__ == name and travels(value)
    }
    programs = tuple(problem.program(reference) for reference in problem.references)
    asked = frozenset[str]().union(*(class_names(program) for program in (problem.prompt, *programs))) - classes.keys()
    return Given(
        classes,
        asked,
        suppresses=any("__exit__" in program or "contextmanager" in program for program in programs),
        seeded="seed(" in tests,
    )


def travels(kind: type) -> bool:
    """Whether objects of a class that program and tests both have can be sent by what they hold."""
    named = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named or issubclass(kind, Enum | BaseException) or kind.__new__ in (object.__new__, Generic.__new__)


@lru_cache(maxsize=4096)
def class_names(source: str) -> frozenset[str]:
    """Names of the classes at the top of a program."""
    tree = _tree(source)
    return frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef)) if tree else frozenset()


def fault(problem: Problem, error: BaseException) -> str | None:
    """Where in the tests the mistake is that this error comes from; None where the program's answers explain it."""
    place, trusted = problem.problem_id, False
    for frame, line in traceback.walk_tb(error.__traceback__):
        trusted = frame.f_code.co_filename.startswith(("<test ", "<setup>", "<prompt>", "<reference>", "<oracle>"))
        if trusted:
            place = f"{frame.f_code.co_filename[1:-1]}, line {line}"
    if isinstance(error, ImportError | Untestable) or not isinstance(error, Exception):
        return place
    if isinstance(error, UnboundLocalError):
        return place if trusted else None
    if isinstance(error, NameError) and trusted:
        programs = [problem.program(reference) for reference in problem.references]
        return None if any(error.name in defined_names(program) for program in programs) else place
    if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType) and trusted:
        return place
    return None


@lru_cache(maxsize=4096)
def defined_names(source: str) -> frozenset[str]:
    """Names that a program has at its top, or anywhere within."""
    tree = _tree(source)
    found: set[str] = set()
    for node in ast.walk(tree) if tree else ():
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.alias(name=name, asname=short):
                found.add(short or name.split(".")[0])
    return frozenset(found)


def visible(problem: Problem, source: str) -> str:
    """What of the program the jail may see: not a prompt that is only a docstring, since that may tell the tests."""
    tree = _tree(problem.prompt)
    if tree is None or len(tree.body) != 1 or not source.startswith(problem.prompt):
        return source
    only = tree.body[0]
    if not (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)):
        return source
    return "\n" * problem.prompt.count("\n") + source[len(problem.prompt) :]


def known_libraries(names: frozenset[str], packages: Sequence[str]) -> dict[str, Any]:
    """Those of the names that mean a library: a test's ``sys.getsizeof`` must be Python's, not the program's."""
    found = {name: name for name in names if name in sys.stdlib_module_names or name in packages}
    found |= {short: name for short, name in SHORT_NAMES.items() if short in names and name in packages}
    return {name: importlib.import_module(module) for name, module in found.items()}


SHORT_NAMES = {"np": "numpy", "pd": "pandas", "cp": "cvxpy"}


@lru_cache(maxsize=4096)
def free_names(source: str, known: frozenset[str]) -> frozenset[str]:
    """Names that the source reads and neither it nor ``known`` nor Python defines."""
    read: set[str] = set()
    stored: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name):
                stored.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                stored.add(name)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                stored.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                stored.update((alias.asname or alias.name).split(".")[0] for alias in aliases)
    return frozenset(read - stored - known - set(dir(builtins)))


__all__: Sequence[str] = ["AssertChecker", "CallChecker", "Case", "Checker", "ReferenceChecker", "ScriptChecker"]
