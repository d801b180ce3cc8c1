"""A bundled convex optimisation problem: prompt, reference, data, and wrong programs that the checker must reject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crlhf_ray.problems.optimisation import OptimisationChecker
from crlhf_ray.problems.problem import Problem

_HEAD = "import cvxpy as cp\nimport numpy as np\n\n\n"


@dataclass(frozen=True)
class Task:
    """variants: what is wrong, the text in the reference, and what the wrong program has in its place."""

    name: str
    signature: str
    text: str
    body: str
    instances: tuple[tuple[Any, ...], ...]
    variants: tuple[tuple[str, str, str], ...]

    @property
    def prompt(self) -> str:
        return f'{_HEAD}def build({self.signature}) -> cp.Problem:\n    """{self.text}"""'

    @property
    def completion(self) -> str:
        return "\n" + "".join(f"    {line}\n" for line in self.body.strip().splitlines())

    def wrong(self) -> dict[str, str]:
        programs = {}
        for what, old, new in self.variants:
            if old not in self.completion:
                raise ValueError(f"{self.name}: the reference does not hold {old!r}")
            programs[what] = self.completion.replace(old, new)
        return programs

    def problem(self) -> Problem:
        return Problem(
            problem_id=f"cvx/{self.name}",
            prompt=self.prompt,
            entry_point="build",
            checker=OptimisationChecker(self.prompt + self.completion, self.instances),
            references=(self.completion,),
            language="cvxpy",
            split="heldout",
            difficulty="hard",
            family="cvx",
            packages=("cvxpy",),
        )


def draw(seed: int, *shapes: tuple[int, ...]) -> tuple[list[Any], ...]:
    """Random matrices as nested lists with two digits."""
    generator = np.random.default_rng(seed)
    return tuple(np.round(generator.standard_normal(shape), 2).tolist() for shape in shapes)


def positive(seed: int, *shapes: tuple[int, ...]) -> tuple[list[Any], ...]:
    generator = np.random.default_rng(seed)
    return tuple(np.round(generator.uniform(0.2, 2.0, shape), 2).tolist() for shape in shapes)
