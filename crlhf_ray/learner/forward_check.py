"""Are log-probs from packed rows the plain model's own? Asked whenever a learner starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from crlhf_ray.errors import EngineError
from crlhf_ray.learner.batching import Experience
from crlhf_ray.policy.model import ModelSettings
from crlhf_ray.rollout.weights import WeightMeta

#: Largest difference that is accepted, in nats.
EXACT = {"float32": 1e-3, "bfloat16": 0.5}
#: Mean difference of learner and rollout that is accepted, in nats a token: where both are exact (float32, the whole
#: distribution sampled), and where one of them rounds or cuts.
EXACT_GAP, ROUGH_GAP = 0.01, 0.3


def check_gap(gap: float, bound: float | None, *, exact: bool) -> None:
    """Raise EngineError where learner and rollout are two policies.

    gap: mean |learner - rollout| log-prob in nats a token, of the same weights. bound: None for EXACT_GAP or ROUGH_GAP.
    """
    limit = bound if bound is not None else EXACT_GAP if exact else ROUGH_GAP
    if not gap <= limit:
        raise EngineError(
            f"the log-probs of rollouts and learner differ by {gap:.3g} nats a token on average (at most {limit:g}): "
            "vLLM does not compute what the learner trains, because the weights arrive wrong or the architecture is "
            "not supported. Try model.lora: null, or another model; learner.max_logprob_gap sets the bound"
        )


def check_names(config: Any, sent: WeightMeta) -> None:
    """Raise EngineError where the weights that are sent are not those of the plain model, by name and shape."""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    expected = {(name, tuple(weight.shape)) for name, weight in plain.named_parameters()}
    wrong = sorted(expected ^ {(name, shape) for name, _, shape in sent})
    if wrong:
        name, shape = wrong[0]
        raise EngineError(
            f"{config.model_type}: the weight {name} {shape} is only on one side of the transfer ({len(wrong)} such); "
            "adapters of this architecture cannot be merged. Try model.lora: null, or another model"
        )


def probe(vocabulary: int) -> list[Experience]:
    """Two equal answers to one prompt: the second must not see the first."""
    tokens = tuple(int(t) for t in np.random.default_rng(0).integers(vocabulary // 8, vocabulary, 12))
    nothing = np.zeros(8)
    return [Experience(str(i), "probe", tokens[:4], tokens[4:], nothing, nothing) for i in range(2)]


@torch.no_grad()
def plain_logprobs(policy: Any) -> torch.Tensor:
    """Log-probs [8] of the probe's answer by the model as it is, before DeepSpeed has it."""
    asked = probe(policy.config.vocab_size)[0]
    ids = torch.tensor([asked.prompt_token_ids + asked.token_ids], device=policy.device)
    logits = policy(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1).cpu()
    ids = ids.cpu()
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
