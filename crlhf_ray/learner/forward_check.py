"""Are log-probs from packed rows the plain model's own? Asked whenever a learner starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crlhf_ray.errors import EngineError
from crlhf_ray.learner.batching import Experience
from crlhf_ray.policy.model import ModelSettings

#: Largest difference that is accepted, in nats.
EXACT = {"float32": 1e-3, "bfloat16": 0.5}


def probe(vocabulary: int) -> list[Experience]:
    """Two equal answers to one prompt: the second must not see the first."""
    tokens = tuple(int(t) for t in np.random.default_rng(0).integers(vocabulary // 8, vocabulary, 12))
    nothing = np.zeros(8)
    return [Experience(str(i), "probe", tokens[:4], tokens[4:], nothing, nothing) for i in range(2)]


@torch.no_grad()
def plain_logprobs(policy: Any) -> torch.Tensor:
    """Log-probs [8] of the probe's answer by the model as it is, before DeepSpeed has it."""
    asked = probe(policy.config.vocab_size)[0]
    ids = torch.tensor([asked.prompt_token_ids + asked.token_ids])
    logits = policy(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(asked.prompt_token_ids)
    return logits[range(start - 1, ids.shape[1] - 1), ids[0, start:]]


def check_exact(model: ModelSettings, config: Any, expected: torch.Tensor, packed: Sequence[np.ndarray]) -> None:
    """Raise EngineError where the packed log-probs of the probe's answers are not the expected ones."""
    gap = max(float(np.abs(found - expected.numpy()).max()) for found in packed)
    if not gap <= EXACT[model.dtype]:
        raise EngineError(
            f"{model.name} ({config.model_type}): packed log-probs differ from the model's own by {gap:.3g} nats "
            f"(at most {EXACT[model.dtype]:g}); this architecture is not supported by the learner"
        )
