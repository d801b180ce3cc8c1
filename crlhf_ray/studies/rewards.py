"""Studies of what programs are worth, by calculation: no model is trained."""

from __future__ import annotations

import numpy as np

from crlhf_ray.aggregation import quality
from crlhf_ray.reward.forms import FORMS
from crlhf_ray.reward.settings import RewardSettings
from crlhf_ray.studies.study import Measured, Study

_DRAWS = 4000
_PEOPLE = 5
_SENSITIVITY, _SPECIFICITY = 0.9, 0.7
_LINES = 6


def evidence(rng: np.random.Generator, lines: int, fault: bool, people: int) -> np.ndarray:
    """What this many annotators of known skill say of programs, [draws, lines] nats; the first line may be at fault."""
    correct = np.ones(lines, dtype=bool)
    correct[0] = not fault
    says_correct = rng.random((_DRAWS, people, lines)) < np.where(correct, _SENSITIVITY, 1 - _SPECIFICITY)
    yes, no = np.log(_SENSITIVITY / (1 - _SPECIFICITY)), np.log((1 - _SENSITIVITY) / _SPECIFICITY)
    return np.where(says_correct, yes, no).sum(axis=1)


def auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """P(a right program's score is above a wrong one's), ties counted half."""
    return quality.auc(np.arange(len(right) + len(wrong)) < len(right), np.concatenate([right, wrong]))


def padding(arm: str, place: float, seed: int) -> Measured:
    rng = np.random.default_rng((seed, int(place)))
    settings = RewardSettings()
    lines = _LINES + int(place)
    wrong = FORMS[arm](evidence(rng, lines, True, _PEOPLE), 0.5, settings)
    plain = FORMS[arm](evidence(rng, _LINES, False, _PEOPLE), 0.5, settings)
    return {"wrong": float(wrong.mean()), "right": float(plain.mean()), "auc": auc(plain, wrong)}


def granularity(arm: str, place: float, seed: int) -> Measured:
    """The share of credit that falls on the faulty line, and how often another line is charged more than it."""
    rng = np.random.default_rng((seed, int(place)))
    lines = int(place)
    if arm == "one score a program":
        return {"charged": 1 / lines, "missed": 1 - 1 / lines}
    p_wrong = 1 / (1 + np.exp(evidence(rng, lines, True, 1 if arm == "one reviewer" else _PEOPLE)))
    top = p_wrong.max(axis=1)
    ties = (p_wrong == top[:, None]).sum(axis=1)
    hit = (p_wrong[:, 0] == top) / ties
    return {"charged": float((p_wrong[:, 0] / p_wrong.sum(axis=1)).mean()), "missed": float(1 - hit.mean())}


def file_level(arm: str, place: float, seed: int) -> Measured:
    """place: marks a program. One on the whole program has the same two rates as one on a line."""
    rng = np.random.default_rng((seed, int(place)))
    settings = RewardSettings()
    if arm == "one mark a program":
        right, wrong = (evidence(rng, 1, fault, int(place))[:, 0] for fault in (False, True))
        return {"auc": auc(right, wrong)}
    people = int(place) // _LINES
    right, wrong = (FORMS["right"](evidence(rng, _LINES, fault, people), 0.5, settings) for fault in (False, True))
    return {"auc": auc(right, wrong)}


_SKILL = (
    f"Annotators have known rates, {_SENSITIVITY} and {_SPECIFICITY}, and err independently; a program has one fault."
)
REWARDS = (
    Study(
        "padding",
        "What does a wrong program of six lines gain by idle lines, under each form of reward?",
        "idle lines added",
        {
            "wrong": "expected score of the wrong program",
            "right": "expected score of a right program of six lines",
            "auc": "AUC, right program against padded wrong one",
        },
        tuple(FORMS),
        (0, 3, 6, 12, 18),
        padding,
        (_SKILL, "Nothing is trained: whether a policy finds the gain is for training to say."),
    ),
    Study(
        "granularity",
        "How much of a wrong program's blame falls on its faulty line, by lines and by one score?",
        "lines of the program",
        {"charged": "share of blame on the faulty line", "missed": "P(another line is charged most)"},
        ("five reviewers", "one reviewer", "one score a program"),
        (2, 4, 6, 12, 24),
        granularity,
        (_SKILL, "Nothing is trained: what a policy learns from credit by line is for training to say."),
    ),
    Study(
        "file_level",
        "Is a mark better spent on a line or on a whole program of six lines?",
        "marks a program",
        {"auc": "AUC of right against wrong programs"},
        ("one mark a line", "one mark a program"),
        (6, 12, 18, 30, 60),
        file_level,
        (
            _SKILL,
            "A mark on a whole program is as reliable here as one on a line, and as dear. It takes longer to read a "
            "program than a line, and people miss more in it: measure both before you decide.",
        ),
    ),
)
