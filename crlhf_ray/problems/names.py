"""Whose the names in a test are: the prompt's, a library's, the program's."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic

if TYPE_CHECKING:
    from crlhf_ray.problems.problem import Problem


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


@lru_cache(maxsize=4096)
def trusted_code(source: str, name: str, mode: str = "exec") -> CodeType:
    return compile(source, name, mode, dont_inherit=True)


@lru_cache(maxsize=1024)
def parsed(source: str) -> ast.Module | None:
    """None for what is no whole Python, such as a prompt that only a completion ends."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def trusted_names(problem: Problem) -> dict[str, Any]:
    """A fresh namespace with what the prompt itself defines: helpers in it must be the prompt's, not the program's."""
    module = types.ModuleType("solution")
    tree = parsed(problem.prompt)
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
    tree = parsed(source)
    return frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef)) if tree else frozenset()


@lru_cache(maxsize=4096)
def defined_names(source: str) -> frozenset[str]:
    """Names that a program has at its top, or anywhere within."""
    tree = parsed(source)
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
    tree = parsed(problem.prompt)
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
def imported_modules(source: str) -> tuple[str, ...]:
    """Modules that a source imports, anywhere within."""
    tree = parsed(source) if "import" in source else None
    found: list[str] = []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return tuple(found)


def borrowed_names(names: frozenset[str], programs: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """Names that right programs import and never define: a test's ``isclose`` must not be the program's."""
    found: dict[str, Any] = {}
    for program in programs:
        tree = parsed(program)
        for node in tree.body if tree else ():
            for name, module, attribute in _aliases(node):
                root = module.split(".")[0]
                if name in names and name not in found and (root in sys.stdlib_module_names or root in packages):
                    with contextlib.suppress(ImportError, AttributeError):
                        value = importlib.import_module(module)
                        found[name] = getattr(value, attribute) if attribute else value
    return {name: value for name, value in found.items() if not any(name in _made(program) for program in programs)}


def _aliases(node: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Name, module and attribute, empty for the module itself, of each thing that is imported."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0], alias.name if alias.asname else alias.name.split(".")[0], ""
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, node.module, alias.name


@lru_cache(maxsize=4096)
def _made(source: str) -> frozenset[str]:
    """Names that a program defines at its top, other than by importing them."""
    found: set[str] = set()
    for node in tree.body if (tree := parsed(source)) else ():
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and _is_stored(part)}
    return frozenset(found)


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


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


def first_called(tests: Iterable[str], code: str) -> str | None:
    """The first function or class that the tests call and the code defines."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(parsed(code) or ast.Module([], [])) if isinstance(node, definitions)}
    for test in tests:
        for node in ast.walk(parsed(test) or ast.Module([], [])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    return None
