"""Credit: a program's score, and which of its tokens get it.

The learner gets rewards by token, which sum to the score, and two weights a token, for an advantage above zero and for
one below it. `sequence` and `to_go` differ in the rewards, `blame` and `first_fault` in the weights, so that each has
its effect with a value function and with group baselines alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, softmax

from crlhf_ray.errors import DataError
from crlhf_ray.reward.forms import evidence_of, learnt_log_odds, program_score
from crlhf_ray.reward.settings import RewardSettings
from crlhf_ray.rollout.sample import Sample

#: Posterior below which a line counts as wrong (first_fault).
_WRONG = 0.5


@dataclass(frozen=True)
class Score:
    """What a program is worth, and to which tokens it goes.

    value: 0 to 1. rewards: [T], which sum to it. praise, blame: [T], 0 to 1; factors of a token's advantage where that
    is above and where it is below zero. masked: the program is to be left out of the update.
    """

    value: float
    rewards: np.ndarray
    praise: np.ndarray
    blame: np.ndarray
    masked: bool = False


def score_round(
    samples: Sequence[Sample],
    p_by_line: Sequence[Mapping[int, float]],
    settings: RewardSettings,
    *,
    prior: float,
    passed: Sequence[bool | None],
    seed: int,
    tests: Callable[[bool], float] | None = None,
) -> list[Score]:
    """Scores of a round's programs.

    p_by_line: for each sample P(line is correct) by line number, for exactly its lines that carry code, and, where it
    was asked, under the number after the last line's P(nothing is missing at the end). prior: the P(line is correct)
    that these were found with. passed: what the tests say; None where there are none. seed: chooses
    which programs are verified. tests: what a verdict says of the whole program, ``log P(verdict | right) / P(verdict |
    wrong)`` in nats, for the form `right`: given whether the program is right it is independent of the lines' marks, so
    it adds to the log-odds before them. None: nothing.
    Raises DataError where lines and posteriors do not match, or a posterior is no probability.
    """
    if settings.source == "tests":
        return [
            _scored(sample, settings, float(bool(ok)), np.zeros(0), prior)
            for sample, ok in zip(samples, passed, strict=True)
        ]
    evidence = [_evidence(sample, lines, prior) for sample, lines in zip(samples, p_by_line, strict=True)]
    told = [0.0 if tests is None or ok is None else tests(ok) for ok in passed]
    known = [i for i, one in enumerate(evidence) if len(one)]
    learnt: Mapping[str, float] = {}
    if settings.form == "right" and settings.prior_right == "learnt" and known:
        learnt = learnt_log_odds(  # what is added to every line is added to the program's log-odds
            [evidence[i] + told[i] for i in known], [samples[i].problem_id for i in known], settings.fault_growth
        )
    scores = []
    for sample, one, ok, whole in zip(samples, evidence, passed, told, strict=True):
        own = settings
        if sample.problem_id in learnt:
            own = settings.model_copy(update={"prior_right": float(expit(learnt[sample.problem_id]))})
        if whole and len(one) and own.prior_right != "learnt":
            own = own.model_copy(update={"prior_right": float(expit(logit(own.prior_right) + whole))})
        verified = ok if ok is not None and _drawn(seed, sample.sample_id) < settings.verified else None
        scores.append(score_program(sample, one, own, prior=prior, verified=verified))
    return scores


def score_program(
    sample: Sample, evidence: np.ndarray, settings: RewardSettings, *, prior: float, verified: bool | None = None
) -> Score:
    """The score of one program from the evidence, [m] nats, of its lines that carry code, and last of its end if asked.

    prior: P(a line is correct), for the forms that work on posteriors. verified: what the tests say, where that is to
    be the score; lines then get the blame by the crowd, and `to_go` counts the program as a whole.
    """
    if verified is not None:
        return _scored(sample, settings, float(verified), evidence, prior)
    if not len(evidence):
        return _scored(sample, settings, 0.0, evidence, prior)
    rewards = None
    value = program_score(evidence, prior, settings)
    if settings.credit == "to_go":
        to_go = [program_score(evidence[j:], prior, settings) for j in range(len(evidence))]
        rewards = np.zeros(len(sample.token_ids))
        # what follows the last line of code, such as the token that ends the program, earns as that line does
        at = [*(end - 1 for _, end in _spans(sample, len(evidence))[:-1]), len(rewards) - 1]
        np.add.at(rewards, np.maximum(at, 0), -np.diff(to_go, append=0.0))
    return _scored(sample, settings, value, evidence, prior, rewards)


def _scored(
    sample: Sample,
    settings: RewardSettings,
    value: float,
    evidence: np.ndarray,
    prior: float,
    rewards: np.ndarray | None = None,
) -> Score:
    tokens = len(sample.token_ids)
    overlong = sample.finish_reason == "length" and settings.overlong != "score"
    if overlong:
        value, rewards = 0.0, None
    if rewards is None:
        rewards = np.zeros(tokens)
        rewards[-1:] = value
    praise, blame = np.ones(tokens), np.ones(tokens)
    if len(evidence) and settings.credit == "blame":
        fault = softmax(-evidence)  # P(the fault is on this line), given that there is one
        blame = _by_token(sample, fault / fault.max())
    elif len(evidence) and settings.credit == "first_fault":
        praise, blame = _first_fault(sample, expit(evidence + np.log(prior / (1 - prior))))
    return Score(value, rewards, praise, blame, overlong and settings.overlong == "mask")


def _first_fault(sample: Sample, p_correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Praise ends where the first wrong line begins. Where none is below one half, the least sure one is charged."""
    wrong = np.flatnonzero(p_correct < _WRONG)
    first = int(wrong[0]) if len(wrong) else int(p_correct.argmin())
    praise = np.ones(len(sample.token_ids))
    if len(wrong):
        praise[_spans(sample, len(p_correct))[first][0] :] = 0.0
    return praise, _by_token(sample, np.arange(len(p_correct)) == first)


def _spans(sample: Sample, places: int) -> list[tuple[int, int]]:
    """Tokens ``[start, end)`` of each line that carries code, and of the end where that is one of the places: the last
    token, which stopped there. A line that owns none (the token before it spans the newline) has that token."""
    found = []
    for line in sample.lines:
        if line.carries_code:
            end = max(line.token_end, 1)
            found.append((min(line.token_start, end - 1), end))
    tokens = len(sample.token_ids)
    return found + [(max(tokens - 1, 0), tokens)] * (places - len(found))


def _by_token(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """The weights of the lines that carry code on their tokens; the greater one where a token has two, 0 elsewhere."""
    out = np.zeros(len(sample.token_ids))
    for (start, end), weight in zip(_spans(sample, len(weights)), weights, strict=True):
        out[start:end] = np.maximum(out[start:end], weight)
    return out


def _evidence(sample: Sample, p_by_line: Mapping[int, float], prior: float) -> np.ndarray:
    code = [line.number for line in sample.lines if line.carries_code]
    given, end = set(p_by_line), len(sample.lines)
    if code and end in given:
        code.append(end)
    missing, extra = sorted(set(code) - given), sorted(given - set(code))
    parts = []
    if missing:
        parts.append(f"no posterior for lines {missing}, which carry code")
    if extra:
        parts.append(f"posteriors for lines {extra}, which do not exist or carry no code")
    if parts:
        raise DataError(f"sample {sample.sample_id}: {' and '.join(parts)}", field="line")
    try:
        return evidence_of([p_by_line[number] for number in code], prior)
    except ValueError as error:
        raise DataError(f"sample {sample.sample_id}: {error}", field="p_correct") from error


def _drawn(seed: int, sample_id: str) -> float:
    """Uniform on [0, 1), a function of seed and sample alone."""
    digest = hashlib.blake2b(f"{seed}\0verified\0{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
