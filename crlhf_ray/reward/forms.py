"""From lines to a program's worth. Every form is a pure function of the lines' evidence, in one table.

Evidence of a line, in nats: ``l_j = log P(marks | line correct) / P(marks | line wrong)``, without any prior. The forms
that work on posteriors, ``p_j = sigmoid(logit(prior) + l_j)``, take the prior beside it, because form and prior belong
together: at a prior of 1/2 a line, twelve lines nobody looked at make `product` 1/4096.

`right` [ours] is derived. A program is right, or else one of its m lines, each as likely, holds its fault. Then

    P(marks | wrong) / P(marks | right) = mean_j exp(-l_j)
    logit P(right) = b(m) - log mean_j exp(-l_j),   b(m) = logit(prior_right) - fault_growth * log(m / 6)

with b(m) the log-odds before any mark. A verdict of tests on the whole program adds its own log P(verdict | right) /
P(verdict | wrong) to b(m): exactly so, as it is independent of the lines' marks once it is known whether the program is
right. With growth 0 length says nothing of faults, and a wrong program gains by
padding, since more lines dilute the evidence; with growth 1 (a constant rate of faults a line) the mean becomes a sum,
and a program gains by being short. A growth between them bounds both; docs/method.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit, logsumexp, softmax

from crlhf_ray.parts import part

if TYPE_CHECKING:
    from crlhf_ray.reward.settings import RewardSettings

#: Lines of the program that `prior_right` is about.
TYPICAL_LINES = 6.0
#: A probability nearer to 0 or 1 is taken as this near: known truth is certain, and its log-odds are not finite.
CERTAIN = 1e-9
#: learnt: how many programs the round's share of right ones is worth beside a problem's own.
_SHRINK = 4.0


def evidence_of(p_correct: Sequence[float] | np.ndarray, prior: float, temperature: float = 1.0) -> np.ndarray:
    """The marks' evidence, [m] nats, in posteriors that were found with a prior, and tempered after it.

    p_correct: [m], 0 to 1. prior: P(a line is correct) that is in them, 0 to 1. temperature: what their log-odds were
    divided by; the evidence stays so divided, as the part of it that calibration believes.
    Raises ValueError for a value that is no probability.
    """
    p = np.asarray(p_correct, dtype=np.float64).reshape(-1)
    if (bad := ~((p >= 0.0) & (p <= 1.0))).any():  # written so that NaN is bad
        where = int(np.flatnonzero(bad)[0])
        raise ValueError(f"p_correct[{where}] is {p[where]}: a probability from 0 to 1 is needed")
    return logit(np.clip(p, CERTAIN, 1 - CERTAIN)) - logit(prior) / temperature


def log_likelihood_ratio(evidence: np.ndarray) -> np.ndarray:
    """``log mean_j exp(-l_j)``: how much likelier the marks are if one of the lines, each as likely, is wrong."""
    return logsumexp(-evidence, axis=-1) - np.log(evidence.shape[-1])


def log_odds_before(lines: int, prior_right: float, growth: float) -> float:
    """``b(m)``: log-odds that a program of so many lines is right, before any mark."""
    return float(logit(prior_right) - growth * np.log(lines / TYPICAL_LINES))


def right(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """[ours] P(the program is right); see the module's text. The line prior is not used."""
    if settings.prior_right == "learnt":
        raise ValueError("prior_right='learnt' is a round's: put the learnt share in its place")
    before = log_odds_before(evidence.shape[-1], settings.prior_right, settings.fault_growth)
    return expit(before - log_likelihood_ratio(evidence))


def mean(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """[paper] The correction rate (Eq. 9, soft): the mean posterior."""
    return expit(evidence + logit(prior)).mean(axis=-1)


def hard(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """[paper] The correction rate (Eq. 9, hard): the share of lines whose posterior is at least 1/2."""
    return (evidence + logit(prior) >= 0.0).mean(axis=-1)


def weakest(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """The lowest posterior: PURE's min-form (arXiv 2504.15275)."""
    return expit(evidence + logit(prior)).min(axis=-1)


def softmin(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """``sum_j w_j p_j``, ``w = softmax(-p / T)``: the min-form as PURE trains it (arXiv 2504.15275)."""
    p = expit(evidence + logit(prior))
    return (softmax(-p / settings.softmin_temperature, axis=-1) * p).sum(axis=-1)


def product(evidence: np.ndarray, prior: float, settings: RewardSettings) -> np.ndarray:
    """P(every line is correct), lines independent given the marks."""
    return np.exp(log_expit(evidence + logit(prior)).sum(axis=-1))


#: ``(evidence [..., m], P(a line is correct), settings) -> worth [...]``, 0 to 1.
Form = Callable[[np.ndarray, float, "RewardSettings"], np.ndarray]
FORMS: dict[str, Form] = {
    "right": right,
    "min": weakest,
    "softmin": softmin,
    "product": product,
    "mean": mean,
    "hard": hard,
}


def form_named(name: str) -> Form:
    """The form of that name; of somebody else's as ``package.module:function``. Raises ValueError as `part`."""
    found = part(FORMS, name)
    if not callable(found):
        raise ValueError(f"{name!r} is not a function of (evidence, prior, settings)")
    return found


def program_score(evidence: np.ndarray, prior: float, settings: RewardSettings) -> float:
    """What a program is worth by its form, 0 to 1.

    evidence: [m] nats, of the lines that carry code. A program without code scores 0: it solves nothing, and any other
    value would be a reward for saying nothing.
    """
    return float(form_named(settings.form)(evidence, prior, settings)) if len(evidence) else 0.0


def learnt_log_odds(evidence: Sequence[np.ndarray], problems: Sequence[str], growth: float) -> Mapping[str, float]:
    """For each problem the most probable log-odds that a program of six lines is right, from the marks alone.

    The marks of program i have density ``(1 - q_i) + q_i mean_j exp(-l_ij)`` up to a factor, a mixture of two known
    components, so its weight can be told without any truth, as far as the annotators' rates are right. One program each
    way is added to the round, and to a problem's own programs four of the round's, so that few programs move it little.
    evidence: one array a program, [m_i >= 1] nats. problems: whose program it is.
    """
    ratio = np.array([log_likelihood_ratio(one) for one in evidence])
    shift = growth * np.log(np.array([len(one) for one in evidence]) / TYPICAL_LINES)
    whole = _most_probable(ratio, shift, 0.5, 2.0)
    names = np.array(problems)
    return {
        name: _most_probable(ratio[names == name], shift[names == name], float(expit(whole)), _SHRINK)
        for name in dict.fromkeys(problems)
    }


def _most_probable(ratio: np.ndarray, shift: np.ndarray, share: float, weight: float) -> float:
    def loss(b: float) -> float:
        found = np.logaddexp(log_expit(b - shift), log_expit(shift - b) + ratio).sum()
        return -float(found + weight * (share * log_expit(b) + (1 - share) * log_expit(-b)))

    return float(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x)
