"""`Sample` and `Line`: one generated program and its lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """One line of a completion. Tokens ``[token_start, token_end)`` belong to this line and to no other.

    number: 0-based, counted in the completion (the prompt is not numbered).
    text: without its newline; ``"\\n".join(line.text)`` over all lines is the completion.
    carries_code: False for blank and comment-only lines; those are neither reviewed nor scored.
    """

    number: int
    text: str
    token_start: int
    token_end: int
    carries_code: bool


@dataclass(frozen=True)
class Sample:
    """One completion as the behaviour policy produced it.

    token_ids, logprobs: int and float arrays of equal length T; log-probs are of the distribution that was sampled
        from (after temperature), one per token. An end-of-sequence token, if drawn, is the last one.
    weight_version: the learner's version whose weights drew its first token, the oldest that it is of.
    newer: those that came while it was drawn (rollout.on_update=keep), as (version, their first token), in order.
    """

    sample_id: str
    problem_id: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: np.ndarray
    text: str
    lines: tuple[Line, ...]
    weight_version: int
    finish_reason: str
    replica_id: str
    newer: tuple[tuple[int, int], ...] = ()
