"""From rewards to advantages. Arrays in, arrays out; one array a sample, one entry a generated token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def penalised(
    token_rewards: Sequence[np.ndarray], logprobs: Sequence[np.ndarray], reference: Sequence[np.ndarray], coef: float
) -> list[np.ndarray]:
    """``r_t - coef (log pi_old - log pi_ref)_t``: the KL penalty as a reward (Ziegler et al. 2019, equation 2)."""
    return [reward - coef * (old - ref) for reward, old, ref in zip(token_rewards, logprobs, reference, strict=True)]


def gae(rewards: np.ndarray, values: np.ndarray, *, gamma: float, lambda_: float) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16) of one sample.

    rewards, values: [T]; values[t] is of the state before token t. The state after the last token is worth 0.
    Returns (advantages [T], returns [T] = advantages + values, the value function's targets).
    """
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    advantages = np.empty_like(deltas)
    running = 0.0
    for t in range(len(deltas) - 1, -1, -1):
        running = deltas[t] + gamma * lambda_ * running
        advantages[t] = running
    return advantages, advantages + values


def leave_one_out(rewards: Sequence[np.ndarray], groups: Sequence[str]) -> list[np.ndarray]:
    """A sample's return minus the mean return of the others in its group, on each of its tokens (RLOO).

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740). A sample alone in its group teaches nothing: 0.
    """
    returns = np.array([reward.sum() for reward in rewards])
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    advantages: list[np.ndarray] = [np.zeros(0)] * len(rewards)
    for indices in members.values():
        total = returns[indices].sum()
        for i in indices:
            baseline = (total - returns[i]) / (len(indices) - 1) if len(indices) > 1 else returns[i]
            advantages[i] = np.full(len(rewards[i]), returns[i] - baseline)
    return advantages


def whiten(advantages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mean 0 and standard deviation 1 over all tokens of the batch; equal advantages become 0."""
    flat = np.concatenate(list(advantages))
    scale = flat.std()
    return [(advantage - flat.mean()) / (scale + 1e-8) for advantage in advantages]


def explained_variance(values: Sequence[np.ndarray], returns: Sequence[np.ndarray]) -> float:
    """``1 - Var(returns - values) / Var(returns)``: 1 is a perfect value function, 0 a constant; NaN if all equal."""
    predicted, actual = np.concatenate(list(values)), np.concatenate(list(returns))
    variance = actual.var()
    return float(1.0 - (actual - predicted).var() / variance) if variance > 0 else float("nan")
