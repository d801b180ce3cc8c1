"""The steps that composed problems are made of."""

from __future__ import annotations

from crlhf_ray.problems.number_steps import NUMBER_STEPS
from crlhf_ray.problems.step import TYPES, Step
from crlhf_ray.problems.text_steps import TEXT_STEPS

STEPS = (*NUMBER_STEPS, *TEXT_STEPS)

__all__ = ["STEPS", "TYPES", "Step"]
