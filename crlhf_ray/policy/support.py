"""Which models can be trained here, told from their configuration alone: before any engine starts."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.model import ModelSettings, resolve

#: What configurations of mixture-of-experts models call the number of their experts.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
#: Functions of scores or logits that packed rows do not compute.
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def check_supported(settings: ModelSettings, *, context: int, shards: int = 1) -> None:
    """Raises ConfigError, with the reason, for a model that would train wrongly or not at all.

    context: tokens of prompt and completion together at most. A sliding window that wide or wider never binds. shards:
    processes of a replica (tensor parallelism).
    """
    check_config(AutoConfig.from_pretrained(resolve(settings.name)), settings.name, context=context, shards=shards)


def check_config(config: Any, name: str, *, context: int, shards: int = 1) -> None:
    """`check_supported` of a transformers configuration."""
    text = config.get_text_config()
    kind = f"model {name} ({config.model_type})"
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{kind} is an encoder with a decoder; a causal language model is needed")
    if any((getattr(text, field, None) or 0) > 1 for field in EXPERTS):
        raise ConfigError(
            f"{kind} is a mixture of experts: transformers keeps its experts in one tensor and vLLM keeps them apart, "
            "so its weights cannot be transferred. Use a dense model"
        )
    for field in CAPS:
        if getattr(text, field, None):
            raise ConfigError(
                f"{kind} caps its scores ({field}), which the learner does not compute; use another model"
            )
    window = _window(text)
    if window is not None and window < context:
        raise ConfigError(
            f"{kind} attends to the last {window} tokens only, and rollout.context is {context}: set it to {window} or "
            "less, where the window never binds"
        )
    heads = getattr(text, "num_attention_heads", None)
    if shards > 1 and heads is not None and heads % shards:
        fitting = [str(count) for count in range(2, heads + 1) if heads % count == 0]
        raise ConfigError(
            f"{kind} has {heads} attention heads, which rollout.tensor_parallel={shards} does not divide; use 1 or "
            + ", ".join(fitting)
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and context > positions:
        raise ConfigError(f"{kind} has {positions} positions, and rollout.context is {context}: set it to {positions}")


def _window(text: Any) -> int | None:
    """The sliding window of any of its layers."""
    window = getattr(text, "sliding_window", None)
    if not window or not getattr(text, "use_sliding_window", True):
        return None
    kinds = getattr(text, "layer_types", None)
    return window if kinds is None or "sliding_attention" in kinds else None
