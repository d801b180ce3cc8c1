"""Whose mistake an error is that ends a check: the tests', or the program's."""

from __future__ import annotations

import ast
import dis
import types
from typing import TYPE_CHECKING

from crlhf_ray.problems.names import defined_names, free_names

if TYPE_CHECKING:
    from crlhf_ray.problems.problem import Problem

_TRUSTED = ("<test ", "<setup>", "<prompt>", "<reference>", "<oracle>")


class Untestable(Exception):
    """The tests cannot be run, whatever the program does: says nothing about it."""


def fault(problem: Problem, error: BaseException) -> str | None:
    """Where in the tests the mistake is that this error comes from; None where the program's answers explain it.

    Answers can leave a name of a test unset, and be what it looks up, imports or raises. So what a test says must be
    wrong as it stands there: a name that it never sets, an import statement, an attribute that its text names.
    """
    last, innermost, step = None, False, error.__traceback__
    while step is not None:
        innermost = step.tb_frame.f_code.co_filename.startswith(_TRUSTED)
        last = step if innermost else last
        step = step.tb_next
    place = f"{last.tb_frame.f_code.co_filename[1:-1]}, line {last.tb_lineno}" if last else problem.problem_id
    if isinstance(error, Untestable) or not isinstance(error, Exception):
        return place
    if isinstance(error, ImportError):
        return place if last is None or _doing(last).startswith("IMPORT_") else None
    if isinstance(error, NameError) and innermost and not isinstance(error, UnboundLocalError):
        programs = [problem.program(reference) for reference in problem.references]
        unset = error.name in free_names(_text(problem), frozenset())
        return place if unset and not any(error.name in defined_names(program) for program in programs) else None
    if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType) and innermost:
        read = {node.attr for node in ast.walk(ast.parse(_text(problem))) if isinstance(node, ast.Attribute)}
        return place if error.name in read else None
    return None


def _doing(step: types.TracebackType) -> str:
    return dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]]


def _text(problem: Problem) -> str:
    return "\n".join(problem.checker.sources())
