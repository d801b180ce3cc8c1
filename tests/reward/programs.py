"""Samples made of lines."""

from __future__ import annotations

import numpy as np

from crlhf_ray.rollout.lines import carries_code
from crlhf_ray.rollout.sample import Line, Sample


def sample_of(*spans: tuple[str, int], finish: str = "stop", name: str = "s0", problem: str = "p0") -> Sample:
    """A sample from (line text, number of its tokens)."""
    lines, start = [], 0
    for number, (text, tokens) in enumerate(spans):
        lines.append(Line(number, text, start, start + tokens, carries_code(text)))
        start += tokens
    text = "\n".join(line.text for line in lines)
    return Sample(name, problem, (1,), tuple(range(start)), np.zeros(start), text, tuple(lines), 0, finish, "r0")
