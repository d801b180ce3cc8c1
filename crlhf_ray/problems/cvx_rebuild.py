"""Rebuilds an optimisation problem that a program described, from plain data and known classes only.

The program's cvxpy objects never leave the jail, since a program can change what they say of themselves. What comes out
is a table of nodes; here it becomes a new problem of this process's own cvxpy, which then tells whether it is convex,
and solves it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.atom import Atom

MAX_NODES, MAX_SCALARS = 5000, 20_000
MAX_ENTRIES = 1_000_000  # of a solver's matrices that are not zero
MAX_DENSE = 4_000_000  # numbers in the dense blocks that cones of semidefinite matrices make: sides up to 62
TRAITS = frozenset({"nonneg", "nonpos", "pos", "neg", "symmetric", "diag", "PSD", "NSD"})
_SUM = f"{AddExpression.__module__}:{AddExpression.__name__}"  # takes its arguments as a list
CONSTRAINTS: dict[str, Any] = {"Equality": cp.constraints.Equality, "Inequality": cp.constraints.Inequality}
CONSTRAINTS |= {"PSD": cp.constraints.PSD, "SOC": cp.SOC, "Zero": cp.constraints.Zero, "NonNeg": cp.constraints.NonNeg}
CONSTRAINTS |= {"ExpCone": cp.constraints.ExpCone}
SENSES: dict[str, Any] = {"Minimize": cp.Minimize, "Maximize": cp.Maximize}
BOX = 1e3  # keeps a random direction's problem bounded
SOLVER = cp.CLARABEL


class NotAProblem(Exception):
    """The data describe no problem of the classes known here."""


@cache
def known_atoms() -> dict[str, type[Atom]]:
    """All of cvxpy's own expression classes by ``module:name``."""
    found: dict[str, type[Atom]] = {}
    todo: list[Any] = [Atom]
    while todo:
        for kind in todo.pop().__subclasses__():
            todo.append(kind)
            if kind.__module__.startswith("cvxpy."):
                found[f"{kind.__module__}:{kind.__name__}"] = kind
    return found


def rebuild(data: Any) -> tuple[cp.Problem, dict[str, cp.Variable]]:
    """The problem and its variables by name. Raises NotAProblem for anything malformed, unknown or too large."""
    try:
        return _rebuild(data)
    except NotAProblem:
        raise
    except Exception as error:  # whatever cvxpy says to arguments that no cvxpy expression has
        raise NotAProblem(f"{type(error).__name__}: {error}"[:200]) from None


def _rebuild(data: Any) -> tuple[cp.Problem, dict[str, cp.Variable]]:
    if len(data["nodes"]) > MAX_NODES:
        raise NotAProblem(f"more than {MAX_NODES} expressions")
    nodes: list[Any] = []
    built: Any
    variables: dict[str, cp.Variable] = {}
    for node in data["nodes"]:
        match node:
            case ["variable", str(name), list(shape), dict(traits)]:
                if not set(traits) <= TRAITS:
                    raise NotAProblem(f"variable {name!r} is not continuous: {', '.join(sorted(set(traits) - TRAITS))}")
                if name in variables:
                    raise NotAProblem(f"two variables are called {name!r}")
                built = variables[name] = cp.Variable(tuple(shape), name=name, **dict.fromkeys(traits, True))
            case ["constant", np.ndarray() | float() as value]:
                built = cp.Constant(value)
            case ["atom", str(kind), list(arguments), details] if kind in known_atoms():
                inner = [nodes[i] for i in arguments]
                built = (
                    AddExpression(inner) if kind == _SUM else known_atoms()[kind](*inner, *(_details(details) or ()))
                )
            case _:
                raise NotAProblem(f"unknown expression {str(node)[:80]}")
        if built.size > MAX_SCALARS:
            raise NotAProblem(f"an expression of {built.size} numbers")
        nodes.append(built)
    if sum(variable.size for variable in variables.values()) > MAX_SCALARS:
        raise NotAProblem(f"more than {MAX_SCALARS} scalar variables")
    constraints = [
        CONSTRAINTS[kind](*[nodes[i] for i in arguments], **({"axis": int(axis)} if kind == "SOC" else {}))
        for kind, arguments, axis in data["constraints"]
    ]
    return cp.Problem(SENSES[data["sense"]](nodes[data["objective"]]), constraints), variables


def _details(data: Any) -> Any:
    if isinstance(data, dict):
        return slice(*map(_details, data["slice"]))
    if isinstance(data, list | tuple):
        return type(data)(_details(item) for item in data)
    return data


def require_small(problem: cp.Problem) -> None:
    """Raises NotAProblem for one whose cones need so much memory that the solver would end the process, as it does."""
    try:
        data, _, _ = problem.get_problem_data(SOLVER)
    except cp.error.SolverError as error:
        raise NotAProblem(f"the solver takes no such problem: {error}"[:200]) from None
    entries = sum(data[name].nnz for name in ("A", "P") if hasattr(data.get(name), "nnz"))
    dense = sum((side * (side + 1) // 2) ** 2 for side in getattr(data.get("dims"), "psd", []))
    if entries > MAX_ENTRIES or dense > MAX_DENSE:
        raise NotAProblem(f"a problem too large to be checked: {entries} entries, {dense} in dense cones")


def by_name(problem: cp.Problem) -> dict[str, cp.Variable]:
    return {variable.name(): variable for variable in problem.variables()}


def optimum(problem: cp.Problem) -> float | None:
    """The optimal value, or None where there is none or the solver finds none."""
    try:
        problem.solve(solver=SOLVER)
    except cp.error.SolverError:
        return None
    return float(problem.value) if problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE) else None


def value_at(problem: cp.Problem, variables: dict[str, cp.Variable], point: dict[str, np.ndarray]) -> float | None:
    """The objective where the named variables are held at a point and all others are free; None where that is none."""
    held = [variables[name] == value for name, value in point.items()]
    return optimum(cp.Problem(problem.objective, [*problem.constraints, *held]))


def support(problem: cp.Problem, variables: dict[str, cp.Variable], directions: dict[str, np.ndarray]) -> float | None:
    """Least value of a linear function of the named variables over the feasible set, within a large box.

    Two convex sets are equal exactly if this is equal for every direction (Rockafellar 1970, section 13).
    """
    line = sum(cp.sum(cp.multiply(direction, variables[name])) for name, direction in directions.items())
    box = [constraint for name in directions for constraint in (variables[name] <= BOX, variables[name] >= -BOX)]
    return optimum(cp.Problem(cp.Minimize(line), [*problem.constraints, *box]))
