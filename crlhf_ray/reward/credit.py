"""Credit: the correction rate of a program, placed on its tokens.

What the correction rate invites, because it is a mean over the lines that are there:

- *stopping early*: the first lines of a right solution, without the rest, are all right;
- *padding*: right but idle lines (``pass``, ``x = x``) lift the mean of a wrong program;
- *one line*: a program of one line wins or loses everything, so its reward has the largest variance.

Comments and blank lines earn nothing, a program without code earns 0, and the sum of the credit is a mean, so length
by itself pays nothing. Against padding, `RewardSettings.weakest` mixes in the program's weakest line, which padding
cannot lift; it is ours, not the paper's, and off by default. Against stopping early it helps where annotators mark the
line after which something is missing, as the simulated ones do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from crlhf_ray.errors import DataError
from crlhf_ray.reward.correction import Form, line_scores
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.settings import Settings

Credit = Literal["sequence", "line"]


class RewardSettings(Settings):
    """What a judged program is worth, and which tokens get it."""

    source: Literal["crowd", "tests"] = "crowd"
    """`crowd`: the consensus of the annotators (the method). `tests`: 1 for each line of a program that passes its
    tests and else 0, to compare with; the crowd is still asked, and its reliabilities still learnt."""
    form: Form = "soft"
    """Eq. 9: `soft` averages the lines' posteriors, `hard` their rounded ones. Soft has fewer ties, so groups of
    programs whose rewards are all equal, from which nothing can be learnt, are rarer."""
    credit: Credit = "line"
    """`sequence`: the whole score on the last token (the paper). `line`: each line's share on that line's last token,
    so that the learner need not find out which line was wrong. Both sum to the same score."""
    weakest: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share, 0 to 1, of the score that is the lowest line score instead of the mean one [ours]. 0 is the paper's
    Eq. 9. Raise it if programs grow idle lines: a program is only as right as its weakest line."""


def token_rewards(
    sample: Sample,
    p_by_line: Mapping[int, float],
    form: Form = "soft",
    credit: Credit = "line",
    weakest: float = 0.0,
) -> np.ndarray:
    """Rewards for the tokens of one sample.

    p_by_line: posterior P(line is correct) by line number, for exactly the lines of the sample that carry code.
    weakest: see `RewardSettings.weakest`; that part of the score goes to the weakest line (the first of equals) under
        `line` credit.
    Returns float32, shape (T,). It sums to ``(1 - weakest) * correction_rate + weakest * lowest line score``, so to the
    correction rate where `weakest` is 0. A line that owns no token (a token that spans the newline ended it) hands its
    share to the token just before it. A sample without code gets zeros.
    Raises DataError where lines and posteriors do not match, or a posterior is no probability.
    """
    code = [line for line in sample.lines if line.carries_code]
    rewards = np.zeros(len(sample.token_ids), dtype=np.float64)
    _check_lines(sample, {line.number for line in code}, p_by_line)
    if not code:
        return rewards.astype(np.float32)
    try:
        scores = line_scores([p_by_line[line.number] for line in code], form)
    except ValueError as error:
        raise DataError(f"sample {sample.sample_id}: {error}", field="p_correct") from error
    shares = (1.0 - weakest) * scores / len(code)
    shares[int(scores.argmin())] += weakest * scores.min()
    if credit == "sequence":
        rewards[-1] = shares.sum()
    elif credit == "line":
        ends = np.array([line.token_end for line in code])
        np.add.at(rewards, np.maximum(ends - 1, 0), shares)
    else:
        raise ValueError(f"credit {credit!r} is unknown: use 'sequence' or 'line'")
    return rewards.astype(np.float32)


def _check_lines(sample: Sample, code: set[int], p_by_line: Mapping[int, float]) -> None:
    given = set(p_by_line)
    if given == code:
        return
    missing, extra = sorted(code - given), sorted(given - code)
    parts = []
    if missing:
        parts.append(f"no posterior for lines {missing}, which carry code")
    if extra:
        parts.append(f"posteriors for lines {extra}, which do not exist or carry no code")
    raise DataError(f"sample {sample.sample_id}: {' and '.join(parts)}", field="line")
