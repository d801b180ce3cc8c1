"""What a person decides by a consensus: whom to trust, whom to drop, and which tasks to ask somebody about again."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import xlogy

#: Fewer labels of their own say of a worker what the crowd is like.
FEWEST_LABELS = 10
#: Where guessing has skill 0 and never to err 1: who surely has less is hardly worth asking, who surely has more is.
USEFUL = 0.2


def rate_columns(reliability: pd.DataFrame) -> list[str]:
    """The rates that have an interval, the negative class's first of two: the order of the classes."""
    names = [name for name in reliability.columns if f"{name}_low" in reliability.columns and name != "skill"]
    return sorted(names, reverse=True) if set(names) == {"sensitivity", "specificity"} else names[::-1]


def with_advice(reliability: pd.DataFrame) -> pd.DataFrame:
    """The table with ``skill``, ``skill_low``, ``skill_high`` and ``advice`` (trust, unsure, drop) of each worker.

    skill: the mean rate of right answers over the classes, on a scale from 0, guessing, to 1; below 0, against the
    truth. Its interval takes the rates as independent. trust: all of it is above `USEFUL`; drop: all of it is below;
    unsure: neither, or fewer than `FEWEST_LABELS` labels.
    """
    names = rate_columns(reliability)
    chance = 1 / len(names)
    if len(names) == 2 and np.array_equal(reliability[names[0]], reliability[names[1]]):
        names = names[:1]  # one rate, written twice
    rates = reliability[names].to_numpy()
    sides = [np.sqrt(((reliability[[f"{n}_{end}" for n in names]].to_numpy() - rates) ** 2).sum(axis=1)) / len(names)
             for end in ("low", "high")]  # fmt: skip
    mean = rates.mean(axis=1)
    skill, low, high = ((p - chance) / (1 - chance) for p in (mean, mean - sides[0], mean + sides[1]))
    known = (reliability["labels"] >= FEWEST_LABELS).to_numpy()
    advice = np.where(known & (low >= USEFUL), "trust", np.where(known & (high < USEFUL), "drop", "unsure"))
    return reliability.assign(skill=skill, skill_low=low, skill_high=high, advice=advice)


def usual_rates(reliability: pd.DataFrame) -> np.ndarray:
    """P(right | class) [K] of the person behind a vote chosen at random."""
    rates, labels = reliability[rate_columns(reliability)].to_numpy(), reliability["labels"].to_numpy(float)
    return np.average(rates, axis=0, weights=labels) if labels.sum() else rates.mean(axis=0)


def expected_bits(probas: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Bits that one more vote of somebody with these rates [K] is expected to tell about each task, [n].

    The mutual information of vote and truth, given P(class) [n, K]; wrong answers are spread evenly.
    """
    k = len(rates)
    errors = np.tile((1 - rates) / (k - 1), (k, 1))  # vote, truth
    np.fill_diagonal(errors, rates)
    told = _entropy(probas @ errors.T) - probas @ _entropy(errors.T)
    return np.maximum(told, 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Bits of each row."""
    return -xlogy(p, p).sum(axis=1) / np.log(2)
