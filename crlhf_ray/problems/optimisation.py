"""The check for programs that set up convex optimisation problems, and its bundled problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crlhf_ray.problems.checkers import Channel, Checker, require
from crlhf_ray.problems.names import trusted_code, visible

if TYPE_CHECKING:
    from crlhf_ray.problems.problem import Problem


@dataclass(frozen=True)
class _Wanted:
    """What the reference says of one instance."""

    problem: Any
    value: float
    directions: tuple[dict[str, np.ndarray], ...]
    supports: tuple[float, ...]
    inside: dict[str, np.ndarray]  # a feasible point that is not optimal
    value_inside: float


@dataclass(frozen=True)
class OptimisationChecker(Checker):
    """The function must return a cvxpy Problem that is the reference's problem, for every instance of the data.

    It is so if it is DCP, has the reference's variables by name and shape, has the reference's optimal value, its
    optimal point satisfies the reference's constraints and is optimal there, its objective is the reference's at
    another feasible point too, and its feasible set reaches as far as the reference's in random directions (which finds
    constraints that are missing or too many, active or not). Other variables and other formulations of the same problem
    are welcome.

    reference: trusted source that defines the same function. instances: arguments, one tuple an instance.
    tolerance: relative, on values and on constraint violations.
    """

    reference: str
    instances: tuple[tuple[Any, ...], ...]
    tolerance: float = 1e-4
    probes: int = 3
    kind: str = "optimisation"

    def prepare(self, problem: Problem) -> None:
        from crlhf_ray.problems import cvx_rebuild as cvx

        namespace: dict[str, Any] = {"__name__": "reference"}
        exec(trusted_code(self.reference, "<reference>"), namespace)
        generator = np.random.default_rng(len(problem.problem_id))
        wanted = []
        for number, arguments in enumerate(self.instances):
            built = namespace[problem.entry_point](*arguments)
            value = cvx.optimum(built)
            variables = cvx.by_name(built)
            # Each direction and its opposite: a missing bound is found from its own side.
            drawn = [
                {name: generator.standard_normal(v.shape) for name, v in variables.items()} for _ in range(self.probes)
            ]
            directions = (*drawn, *({name: -d for name, d in each.items()} for each in drawn))
            inside = {name: 0.8 * np.asarray(variable.value) for name, variable in variables.items()}
            supports = []
            for each in directions:
                supports.append(cvx.support(built, variables, each))
                for name, variable in variables.items():
                    inside[name] = inside[name] + 0.2 / len(directions) * np.asarray(variable.value)
            value_inside = cvx.value_at(built, variables, inside)
            if value is None or value_inside is None or None in supports:
                raise ValueError(f"the reference of {problem.problem_id} has no optimum on instance {number}")
            built.solve(solver=cvx.SOLVER)
            wanted.append(_Wanted(built, value, directions, tuple(supports), inside, value_inside))  # type: ignore[arg-type]
        object.__setattr__(self, "_wanted", wanted)

    def verify(self, problem: Problem, source: str, check: Channel) -> None:
        from crlhf_ray.problems import cvx_rebuild as cvx

        program, bound = check.load(visible(problem, source), (problem.entry_point,))
        require(problem, bound, check)
        for check.test, (arguments, wanted) in enumerate(zip(self.instances, self.__dict__["_wanted"], strict=True)):
            data = program.optimisation(bound[problem.entry_point], arguments)
            try:
                found, variables = cvx.rebuild(data)
            except cvx.NotAProblem as error:
                check.fail(str(error))
            if not found.is_dcp():
                check.fail("the problem is not DCP")
            theirs = cvx.by_name(wanted.problem)
            for name, variable in theirs.items():
                if name not in variables or variables[name].shape != variable.shape:
                    check.fail(f"no variable {name!r} of shape {variable.shape}")
            try:
                cvx.require_small(found)
            except cvx.NotAProblem as error:
                check.fail(str(error))
            value = cvx.optimum(found)
            if value is None or not self._near(value, wanted.value):
                check.fail(f"optimal value {value} instead of {wanted.value:.6g}")
            for name, variable in theirs.items():
                variable.save_value(np.asarray(variables[name].value))
            slack = max((float(np.max(c.violation())) for c in wanted.problem.constraints), default=0.0)
            if slack > 10 * self.tolerance * (1 + abs(wanted.value)):
                check.fail(f"its optimal point violates a constraint by {slack:.2g}")
            if not self._near(float(wanted.problem.objective.value), wanted.value, 10):
                check.fail("its optimal point is not optimal")
            value = cvx.value_at(found, variables, wanted.inside)
            if value is None or not self._near(value, wanted.value_inside, 10):
                check.fail(f"another objective: {value} at a point where {wanted.value_inside:.6g} is right")
            for directions, support in zip(wanted.directions, wanted.supports, strict=True):
                reached = cvx.support(found, variables, directions)
                if reached is None or not self._near(reached, support, 10):
                    check.fail(f"another feasible set: it reaches {reached} where {support:.6g} is right")

    def _near(self, found: float, wanted: float, slack: float = 1.0) -> bool:
        return abs(found - wanted) <= slack * self.tolerance * (1 + abs(wanted))
