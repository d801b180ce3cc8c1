"""How wrong the best consensus of a committee must be: exactly, by bounds, and how many honeypots get near it.

``reliability``: p_i = P(vote = truth), each in (0, 1), shape [n]; ``prior`` = P(truth = +1). Votes are independent
given the truth, and the consensus is Eq. 7, which no other rule beats (Nitzan and Paroush 1982).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from crlhf_ray.errors import ConfigError

#: Enumeration takes 2^n terms: 2^20 doubles are 8 MB.
LARGEST_COMMITTEE = 20


def exact_error(reliability: np.ndarray, prior: float = 0.5, weights: np.ndarray | None = None) -> float:
    """P(the consensus is wrong), by enumeration of all vote patterns; ties are broken by a fair coin.

    weights: the log-odds actually used, [n]; those of Eq. 7 where None. Raises `ConfigError` for more than 20
    annotators or a reliability outside (0, 1).
    """
    p = _checked(reliability)
    if len(p) > LARGEST_COMMITTEE:
        raise ConfigError(
            f"{len(p)} annotators have 2^{len(p)} vote patterns; use the bounds above {LARGEST_COMMITTEE}"
        )
    used = logit(p) if weights is None else np.asarray(weights, float)
    score, if_positive, if_negative = np.array([logit(prior)]), np.array([prior]), np.array([1 - prior])
    for p_i, w_i in zip(p, used, strict=True):
        score = np.concatenate([score + w_i, score - w_i])
        if_positive = np.concatenate([if_positive * p_i, if_positive * (1 - p_i)])
        if_negative = np.concatenate([if_negative * (1 - p_i), if_negative * p_i])
    tie = np.abs(score) < 1e-12
    wrong = np.where(score > 0, if_negative, if_positive)
    return float(np.where(tie, (if_positive + if_negative) / 2, wrong).sum())


def bhattacharyya(reliability: np.ndarray, prior: float = 0.5) -> tuple[float, float]:
    """``(lower, upper)`` bound of the error: with ``BC = prod 2 sqrt(p (1-p))``,
    ``(1 - sqrt(1 - 4 pi (1-pi) BC^2)) / 2 <= error <= sqrt(pi (1-pi)) BC``."""
    p = _checked(reliability)
    coefficient = float(np.exp((np.log(2) + 0.5 * (np.log(p) + np.log1p(-p))).sum()))
    spread = prior * (1 - prior)
    inside = 4 * spread * coefficient**2
    # (1 - sqrt(1 - x)) / 2, written so that it keeps its digits where x is tiny.
    return float(inside / (2 * (1 + np.sqrt(max(1 - inside, 0.0))))), float(np.sqrt(spread) * coefficient)


def berend_kontorovich(reliability: np.ndarray) -> tuple[float, float]:
    """``(lower, upper)`` bound of the error at prior 1/2 (Berend and Kontorovich, JMLR 16, 2015): with
    ``Phi = sum (p - 1/2) logit(p)``, ``3 / (4 (1 + exp(2 Phi + 4 sqrt(Phi)))) <= error <= exp(-Phi / 2)``."""
    p = _checked(reliability)
    phi = float(((p - 0.5) * logit(p)).sum())
    return float(0.75 * expit(-(2 * phi + 4 * np.sqrt(phi)))), float(np.exp(-phi / 2))


def error_with_honeypots(
    reliability: np.ndarray, honeypots: int, *, prior: float = 0.5, draws: int = 200, seed: int = 0
) -> float:
    """Expected error when each weight is learnt from this many honeypots, ``p = (1 + right) / (2 + honeypots)``."""
    p = _checked(reliability)
    rng = np.random.default_rng(seed)
    right = rng.binomial(honeypots, p, size=(draws, len(p)))
    learnt = logit((1 + right) / (2 + honeypots))
    return float(np.mean([exact_error(p, prior, weights) for weights in learnt]))


def honeypots_needed(
    reliability: np.ndarray,
    wanted_error: float,
    *,
    prior: float = 0.5,
    most: int = 1024,
    draws: int = 200,
    seed: int = 0,
) -> int:
    """The fewest honeypots an annotator (to within the simulation's noise) that bring the error to ``wanted_error``.

    Raises `ConfigError` where even known reliabilities leave more error (more annotators are needed, not more
    honeypots), or where more than ``most`` would be needed.
    """
    best = exact_error(reliability, prior)
    if best > wanted_error:
        raise ConfigError(
            f"these {len(reliability)} annotators err in {best:.4f} of cases even with known reliabilities, "
            f"and {wanted_error} is wanted: have more or better annotators review each line"
        )

    def enough(k: int) -> bool:
        return error_with_honeypots(reliability, k, prior=prior, draws=draws, seed=seed) <= wanted_error

    low, high = 0, 1
    if enough(0):
        return 0
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            raise ConfigError(
                f"more than {most} honeypots an annotator would be needed for an error of {wanted_error}; the least "
                f"possible is {best:.4f}: allow more, or have more annotators"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _checked(reliability: np.ndarray) -> np.ndarray:
    p = np.asarray(reliability, float)
    if not ((p > 0) & (p < 1)).all():
        raise ConfigError(f"reliabilities must lie strictly between 0 and 1, and these are {p.tolist()}")
    return p
