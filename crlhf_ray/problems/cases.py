"""Tests that are written as `unittest` cases: what a snippet defines is run, whether or not it says so."""

from __future__ import annotations

import ast
import unittest
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn

from crlhf_ray.problems.faults import Untestable

_LOADER = unittest.defaultTestLoader


class _Raising(unittest.TestResult):
    """Lets the first failure through, as an assert does."""

    def addError(self, test: Any, err: Any) -> NoReturn:
        raise err[1]

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            raise err[1]

    def addUnexpectedSuccess(self, test: Any) -> NoReturn:
        raise AssertionError(f"{test} passes, and is expected to fail")


def run_cases(namespace: Mapping[str, Any], done: set[type]) -> None:
    """Run all cases that the namespace has and that are not done.

    Raises what the first failing one raises, and Untestable where there are cases, and none has a test.
    """
    kinds = [kind for kind in namespace.values() if isinstance(kind, type) and issubclass(kind, unittest.TestCase)]
    ours = {kind: _LOADER.loadTestsFromTestCase(kind) for kind in kinds if kind.__module__ == "solution"}
    if ours and not any(suite.countTestCases() for suite in ours.values()):
        raise Untestable(f"{next(iter(ours)).__name__} has no method whose name begins with test")
    for kind, suite in ours.items():
        if kind not in done:
            done.add(kind)
            suite.run(_Raising())


@lru_cache(maxsize=4096)
def snippet_code(source: str, name: str) -> CodeType:
    """A test without its calls of `unittest.main`, which would look for the cases elsewhere and end the process."""
    if "unittest" not in source:
        return compile(source, name, "exec", dont_inherit=True)
    tree = ast.parse(source)
    mains = {"unittest.main"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "unittest":
            mains |= {alias.asname or alias.name for alias in node.names if alias.name == "main"}
            mains |= {"main" for alias in node.names if alias.name == "*"}
        elif isinstance(node, ast.Import):
            mains |= {f"{alias.asname}.main" for alias in node.names if alias.name == "unittest" and alias.asname}
    return compile(_WithoutMain(mains).visit(tree), name, "exec", dont_inherit=True)


class _WithoutMain(ast.NodeTransformer):
    def __init__(self, mains: set[str]):
        self.mains = mains

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) in self.mains:
            return ast.copy_location(ast.Constant(None), node)
        return self.generic_visit(node)
