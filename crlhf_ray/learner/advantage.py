"""From rewards to advantages. Arrays in, arrays out; one array a sample, one entry a generated token.

Every estimate works on a token's *return to go*, the rewards from it to the end, so that a reward by line counts in
each of them. With the whole reward on the last token they are the textbook forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crlhf_ray.parts import part

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Rewarded:
    """A batch as the estimates see it.

    rewards: [T] a sample, KL penalty taken off. values: [T] a sample; zeros where there is no value function.
    groups: samples with the same one answer the same problem.
    """

    rewards: Sequence[np.ndarray]
    values: Sequence[np.ndarray]
    groups: Sequence[str]
    gamma: float = 1.0
    lambda_: float = 0.95
    floor: float = 0.0


@dataclass(frozen=True)
class Algorithm:
    """estimate: the advantages, [T] a sample. needs_values: trains a value function. needs_groups: compares the samples
    of one problem, so that they are centred already, and one sample of a problem teaches nothing."""

    estimate: Callable[[Rewarded], Arrays]
    needs_values: bool = False
    needs_groups: bool = False


def penalised(
    token_rewards: Sequence[np.ndarray], logprobs: Sequence[np.ndarray], reference: Sequence[np.ndarray], coef: float
) -> Arrays:
    """``r_t - coef (log pi_old - log pi_ref)_t``: the KL penalty as a reward (Ziegler et al. 2019, equation 2)."""
    return [reward - coef * (old - ref) for reward, old, ref in zip(token_rewards, logprobs, reference, strict=True)]


def to_go(rewards: np.ndarray) -> np.ndarray:
    """``G_t = sum_{s >= t} r_s``, [T]."""
    return rewards[::-1].cumsum()[::-1]


def gae(batch: Rewarded) -> Arrays:
    """[paper] Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    ``A_t = sum_k (gamma lambda)^k delta_(t+k)``, ``delta_t = r_t + gamma V_(t+1) - V_t``; the state after the last
    token is worth 0. The value function's targets are ``A + V``.
    """
    found = []
    for rewards, values in zip(batch.rewards, batch.values, strict=True):
        deltas = rewards + batch.gamma * np.append(values[1:], 0.0) - values
        advantages = np.empty_like(deltas)
        running = 0.0
        for t in range(len(deltas) - 1, -1, -1):
            running = deltas[t] + batch.gamma * batch.lambda_ * running
            advantages[t] = running
        found.append(advantages)
    return found


def rloo(batch: Rewarded) -> Arrays:
    """Return to go minus the mean return of the *others* in its group (leave-one-out).

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740). A sample's return, as a baseline for others, is the mean
    of its returns to go, which is its score where the whole reward is on the last token.
    A sample alone in its group teaches nothing: 0.
    """
    returns, advantages = _returns(batch), _nothing(batch)
    for members in _groups(batch.groups):
        total = returns[members].sum()
        for i in members if len(members) > 1 else []:
            advantages[i] = to_go(batch.rewards[i]) - (total - returns[i]) / (len(members) - 1)
    return advantages


def grpo(batch: Rewarded) -> Arrays:
    """Return to go minus its group's mean return, over the group's standard deviation (Shao et al. 2024, arXiv
    2402.03300, section 4.1). The deviation counts as at least ``floor``: a group without signal is not blown up.
    A sample alone in its group teaches nothing: 0.
    """
    returns, advantages = _returns(batch), _nothing(batch)
    for members in _groups(batch.groups):
        scale = max(float(returns[members].std()), batch.floor, 1e-8)
        for i in members if len(members) > 1 else []:
            advantages[i] = (to_go(batch.rewards[i]) - returns[members].mean()) / scale
    return advantages


def reinforce_pp(batch: Rewarded) -> Arrays:
    """Return to go; whitening takes its only baseline, the batch's mean (REINFORCE++, Hu 2025, arXiv 2501.03262)."""
    return [to_go(rewards) for rewards in batch.rewards]


def _returns(batch: Rewarded) -> np.ndarray:
    return np.array([to_go(rewards).mean() for rewards in batch.rewards])


def _nothing(batch: Rewarded) -> Arrays:
    return [np.zeros(len(rewards)) for rewards in batch.rewards]


def _groups(groups: Sequence[str]) -> list[np.ndarray]:
    """The indices of each group's samples."""
    names = np.array(groups)
    return [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]


ALGORITHMS: dict[str, Algorithm] = {
    "gae": Algorithm(gae, needs_values=True),
    "rloo": Algorithm(rloo, needs_groups=True),
    "grpo": Algorithm(grpo, needs_groups=True),
    "reinforce_pp": Algorithm(reinforce_pp),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name; of somebody else's as ``package.module:Name``, an `Algorithm` or a function of
    `Rewarded`, which then needs neither values nor groups. Raises ValueError as `part`."""
    found = part(ALGORITHMS, name)
    if isinstance(found, Algorithm):
        return found
    if not callable(found):
        raise ValueError(f"{name!r} is neither an Algorithm nor a function of Rewarded")
    return Algorithm(found)


def signal(scores: Sequence[float], groups: Sequence[str] | None) -> float:
    """How far the scores differ, in units of reward: their standard deviation, within groups where these are given.

    Below the learner's floor there is nothing to learn from: what differs is the annotators' noise.
    """
    worth = np.array(scores, dtype=np.float64)
    if groups is not None:
        for members in _groups(groups):
            worth[members] -= worth[members].mean()
    return float(worth.std())


def normalised(advantages: Sequence[np.ndarray], *, centre: bool, floor: float) -> Arrays:
    """Standard deviation 1 over all tokens of the batch, and mean 0 where they are to be centred.

    The deviation counts as at least ``floor``, in units of reward, so that differences below it stay small.
    """
    flat = np.concatenate(list(advantages))
    middle = flat.mean() if centre else 0.0
    scale = max(float(flat.std()), floor, 1e-8)
    return [(advantage - middle) / scale for advantage in advantages]


def credited(advantages: Sequence[np.ndarray], praise: Sequence[np.ndarray], blame: Sequence[np.ndarray]) -> Arrays:
    """Each token's advantage times its praise where it is above zero, and its blame where it is below; all [T]."""
    return [
        np.where(advantage >= 0, advantage * up, advantage * down)
        for advantage, up, down in zip(advantages, praise, blame, strict=True)
    ]


def explained_variance(values: Sequence[np.ndarray], returns: Sequence[np.ndarray]) -> float:
    """``1 - Var(returns - values) / Var(returns)``: 1 is a perfect value function, 0 a constant; NaN if all equal."""
    predicted, actual = np.concatenate(list(values)), np.concatenate(list(returns))
    variance = actual.var()
    return float(1.0 - (actual - predicted).var() / variance) if variance > 0 else float("nan")
