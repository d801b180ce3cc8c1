"""Writes a cvxpy problem down as plain data: a table of nodes, each referring to earlier ones."""

from __future__ import annotations

from typing import Any

import cvxpy
import numpy


def export(problem: Any) -> dict[str, Any]:
    """Raises TypeError for what is no cvxpy problem, or holds something that cannot be written down."""
    if not isinstance(problem, cvxpy.Problem):
        raise TypeError(f"a cvxpy Problem belongs here, not a {type(problem).__name__}")
    nodes: list[list[Any]] = []
    numbers: dict[int, int] = {}

    def add(expression: Any) -> int:
        if id(expression) in numbers:
            return numbers[id(expression)]
        if isinstance(expression, cvxpy.Variable):
            traits = {name: True for name, value in expression.attributes.items() if value is True}
            node = ["variable", expression.name(), list(expression.shape), traits]
        elif isinstance(expression, cvxpy.Constant | cvxpy.Parameter):
            value: Any = expression.value
            dense = value.toarray() if hasattr(value, "toarray") else value
            node = ["constant", numpy.asarray(dense, dtype=float)]
        else:
            arguments = [add(argument) for argument in expression.args]
            kind = type(expression)
            node = ["atom", f"{kind.__module__}:{kind.__name__}", arguments, plain(expression.get_data())]
        nodes.append(node)
        numbers[id(expression)] = len(nodes) - 1
        return len(nodes) - 1

    sense = type(problem.objective).__name__
    objective = add(problem.objective.args[0])
    constraints = [
        [type(constraint).__name__, [add(argument) for argument in constraint.args], getattr(constraint, "axis", 0)]
        for constraint in [*problem.constraints, *bounds(problem)]
    ]
    return {"nodes": nodes, "sense": sense, "objective": objective, "constraints": constraints}


def bounds(problem: Any) -> list[Any]:
    """The bounds that variables were made with, as constraints."""
    found = []
    for variable in problem.variables():
        low, high = variable.attributes.get("bounds") or (None, None)
        found += [variable >= low] if low is not None and numpy.all(numpy.isfinite(low)) else []
        found += [variable <= high] if high is not None and numpy.all(numpy.isfinite(high)) else []
    return found


def plain(data: Any) -> Any:
    """Constructor data without slices and constant expressions, which do not travel."""
    if isinstance(data, cvxpy.Expression):
        return numpy.asarray(data.value, dtype=float).item()
    if isinstance(data, slice):
        return {"slice": [plain(data.start), plain(data.stop), plain(data.step)]}
    if isinstance(data, list | tuple):
        return type(data)(plain(item) for item in data)
    return data
