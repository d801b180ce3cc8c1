"""Random batches to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crlhf_ray.learner.batching import Experience


def problem(
    name: str, prompt: int, answers: Sequence[int], *, vocabulary: int = 250, seed: int = 0
) -> list[Experience]:
    """Samples of one problem: a prompt of so many tokens, answers of so many tokens, reward on the last token."""
    rng = np.random.default_rng([seed, *name.encode()])
    shared = tuple(rng.integers(3, vocabulary, prompt).tolist())
    return [
        Experience(
            sample_id=f"{name}/{number}",
            group=name,
            prompt_token_ids=shared,
            token_ids=tuple(rng.integers(3, vocabulary, length).tolist()),
            logprobs=np.full(length, -5.5),
            token_rewards=np.append(np.zeros(length - 1), rng.random()),
        )
        for number, length in enumerate(answers)
    ]


def batch(vocabulary: int = 250) -> list[Experience]:
    """Nine samples of three problems, among them the awkward lengths 1."""
    return [
        *problem("a", 12, [10, 1, 7], vocabulary=vocabulary),
        *problem("b", 5, [3, 9, 4], vocabulary=vocabulary),
        *problem("c", 1, [6, 6, 2], vocabulary=vocabulary),
    ]


def sampled_by(logprobs: Sequence[np.ndarray], samples: Sequence[Experience]) -> list[Experience]:
    """The batch as if the policy with these log-probs had sampled it."""
    return [replace(sample, logprobs=own) for sample, own in zip(samples, logprobs, strict=True)]
