"""PPO's losses over generated tokens. Sums, not means: the caller divides by the minibatch's tokens over all ranks."""

from __future__ import annotations

import torch


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip: float,
    weights: torch.Tensor | float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, equation 7), negated and summed over tokens [M].

    weights: [M], of each token's term; see `crlhf_ray.learner.staleness`.

    Returns (loss, number of clipped tokens, sum of the estimates ``ratio - 1 - log ratio`` of KL(old, new), which are
    unbiased and never negative).
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip) * advantages
    with torch.no_grad():
        beyond = (clipped < unclipped).sum()
        divergence = (ratio - 1.0 - log_ratio).sum()
    return -(weights * torch.minimum(unclipped, clipped)).sum(), beyond, divergence


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error, the worse of the value and the value clipped to within ``clip`` of the old one; summed.

    As in OpenAI's PPO code (Engstrom et al. 2020, arXiv 2005.12729, section 3, item 1).
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).sum()
