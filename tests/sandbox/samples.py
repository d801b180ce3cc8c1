"""Small problems of every kind of check, with a right and a wrong program each."""

from crlhf_ray.problems.checkers import AssertChecker, CallChecker, Case, ScriptChecker
from crlhf_ray.problems.problem import Problem

DOUBLE = Problem(
    problem_id="double",
    prompt='def double(x):\n    """Twice x."""',
    entry_point="double",
    checker=AssertChecker(tests=("assert double(2) == 4", "assert double('a') == 'aa'", "assert double(-1) == -2")),
    references=("\n    return 2 * x\n",),
)
RIGHT, WRONG = "\n    return 2 * x\n", "\n    return 0\n"


def asserted(*tests: str, setup: str = "", prompt: str = '"""A module."""', entry: str = "f", **fields) -> Problem:
    return Problem("asserted", prompt, entry, AssertChecker(tests, setup), (), **fields)


def called(*cases: Case, tolerance: float | None = None) -> Problem:
    return Problem("called", '"""A module."""', "f", CallChecker(cases, tolerance), ())


def script(*tests: tuple[str, str], tolerance: float | None = None, **fields) -> Problem:
    return Problem("script", '"""A script."""', "main", ScriptChecker(tests, tolerance, **fields), ())
