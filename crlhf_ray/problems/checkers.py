"""How a program is shown right or wrong. A new kind of check is one class with a `verify` method.

Checkers run outside the jail, on trusted ground: they hold the tests and the expected values, and see the program only
through `Channel`. What the program sends back is plain data.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from crlhf_ray.problems.cases import run_cases, snippet_code
from crlhf_ray.problems.faults import Untestable
from crlhf_ray.problems.names import (
    Given,
    borrowed_names,
    free_names,
    given_by,
    imported_modules,
    known_libraries,
    trusted_code,
    trusted_names,
    visible,
)

if TYPE_CHECKING:
    from crlhf_ray.problems.problem import Problem


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

    def sources(self) -> tuple[str, ...]:
        """The tests' own code."""
        return ()

    def prepare(self, problem: Problem) -> None:
        """What is worked out once a process, before the first program, and counts against no program's limits."""

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        """Return if the program ``source`` is right; raise anything, or call ``check.fail``, if it is not.

        Sets ``check.test`` to the index of each test before running it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Untested(Checker):
    """There are no tests: people alone say what is right. A sandbox that is asked all the same has no verdict."""

    kind: str = "review"

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        raise Untestable("there are none: people alone decide")


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
            for name in imported_modules(source):
                with contextlib.suppress(ImportError):  # said where it is needed
                    importlib.import_module(name)
        self._libraries(problem, trusted_names(problem))

    def sources(self) -> tuple[str, ...]:
        return (self.setup, *self.tests)

    def _libraries(self, problem: Problem, names: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
        """What the tests name of libraries, and what they name of the program. names: the prompt's own."""
        wanted = free_names("\n".join(self.sources()), frozenset(names) - {problem.entry_point})
        wanted -= {problem.entry_point}
        libraries = borrowed_names(wanted, tuple(map(problem.program, problem.references)), problem.packages)
        libraries |= known_libraries(wanted - libraries.keys(), problem.packages)
        return libraries, wanted - libraries.keys()

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        if not self.tests:
            raise Untestable("there are none")
        namespace = trusted_names(problem)
        libraries, wanted = self._libraries(problem, namespace)
        namespace.update(libraries)
        given = given_by(problem, namespace, "\n".join(self.sources()))
        _, bound = check.load(visible(problem, source), (problem.entry_point, *sorted(wanted)), given)
        require(problem, bound, check)
        namespace.update(bound)
        exec(trusted_code(self.setup, "<setup>"), namespace)
        done: set[type] = set()
        for check.test, test in enumerate(self.tests):
            exec(snippet_code(test, f"<test {check.test}>"), namespace)
            run_cases(namespace, done)


@dataclass(frozen=True)
class InsertChecker(AssertChecker):
    """For completions that are a piece of a given program, which takes `test_input` and leaves `result`.

    The entry point is the function ``test_input -> result`` that the whole program is made.

    context: the program; the completion stands for its ``[insert]``.
    reads_text: setup defines ``test_string(completion)``, which looks at the text and runs nothing of it.
    """

    context: str = ""
    reads_text: bool = False
    kind: str = "insert"

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        piece = source.removeprefix(problem.prompt)
        if self.reads_text:
            namespace: dict[str, Any] = {}
            exec(trusted_code(self.setup, "<setup>"), namespace)
            namespace["test_string"](piece)
        whole = self.context.replace("[insert]", piece)
        program = (
            f"def {problem.entry_point}(test_input):\n"
            "    scope = {'__name__': 'solution', 'test_input': test_input}\n"
            f"    exec({whole!r}, scope)\n"
            "    return scope['result']\n"
        )
        super().verify(problem, f"{problem.prompt}\n{program}", check)


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

    def sources(self) -> tuple[str, ...]:
        return (*self.base.sources(), self.reference, self.oracle)

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

    def sources(self) -> tuple[str, ...]:
        return (self.accepts,)

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


__all__: Sequence[str] = ["AssertChecker", "CallChecker", "Case", "Checker", "ReferenceChecker", "ScriptChecker"]
