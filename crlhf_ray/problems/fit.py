"""What tests cannot do, since they run beside the program and not in its process: found when a problem is loaded."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

from crlhf_ray.problems.names import SHORT_NAMES, defined_names, free_names

_FILES = "writes or reads files, and the program has a file system of its own; hand it the text or an io.StringIO"
_PATCHES = "replaces something of a module, and the program has modules of its own; hand over a function instead"
_IMPORTS = {
    "tempfile": _FILES,
    "shutil": _FILES,
    "unittest.mock": _PATCHES,
    "mock": _PATCHES,
    "pytest": "uses pytest, which runs tests in one process with the program; write asserts",
}
_CALLS = {"open": _FILES}
_STREAMS = frozenset({"stdout", "stderr"})


def not_possible(test: str) -> str | None:
    """Why this test cannot be carried out, whatever the program does; None where it can."""
    tree = ast.parse(test)
    modules = {name for node in ast.walk(tree) for name in _imported(node)} | {
        "builtins",
        "sys",
        "os",
        "time",
        "random",
    }
    for node in ast.walk(tree):
        for name in _imported(node):
            for known, reason in _IMPORTS.items():
                if name == known or name.startswith(f"{known}."):
                    return f"it {reason} (line {node.lineno})"  # type: ignore[attr-defined]
        match node:
            case ast.Call(func=function) if ast.unparse(function) in _CALLS:
                return f"it {_CALLS[ast.unparse(function)]} (line {node.lineno})"
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=module), attr=name), *_]) if (
                module in modules and name not in _STREAMS
            ):
                return f"it {_PATCHES} (line {node.lineno})"
    return None


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def subclass_with_methods(test: str, names: frozenset[str]) -> str | None:
    """A class of the test that overrides methods of one of these classes: the program would not call them."""
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id in names for base in node.bases
        ):
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            if methods:
                return f"the class {node.name} overrides {methods[0]}, which the program's own code would not call"
    return None


def nobodys_names(
    tests: str, prompt: str, entry_point: str, references: Sequence[str], packages: Sequence[str]
) -> list[str]:
    """Names in tests that Python, the prompt and the references do not define. [] where there is no reference: then
    they may be the program's."""
    if not references:
        return []
    known = frozenset({entry_point, "candidate", "__name__", "__file__"}) | defined_names(prompt)
    for reference in references:
        known |= defined_names(prompt + reference)
    short = {short for short, name in SHORT_NAMES.items() if name in packages}
    return sorted(free_names(tests, known) - sys.stdlib_module_names - set(packages) - short)
