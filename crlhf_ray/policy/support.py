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
    check_decoder(config, kind)
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
    if not divides(text, shards):
        heads = text.num_attention_heads
        fitting = [str(count) for count in range(1, heads + 1) if divides(text, count)]
        raise ConfigError(
            f"{kind} has {heads} attention heads, {_key_heads(text)} of keys and values, inner layers of "
            f"{getattr(text, 'intermediate_size', None)} and {text.vocab_size} tokens, which "
            f"rollout.tensor_parallel={shards} does not divide; use {' or '.join(fitting)}"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and context > positions:
        raise ConfigError(f"{kind} has {positions} positions, and rollout.context is {context}: set it to {positions}")


def check_decoder(config: Any, kind: str) -> None:
    """Raises ConfigError for an encoder with a decoder. kind: what the error calls the model."""
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{kind} is an encoder with a decoder; a causal language model is needed")


def divides(text: Any, parts: int) -> bool:
    """Whether so many processes can hold a part of every layer each, by vLLM's rules: whole attention heads, whole
    heads of keys or whole copies of them, equal parts of the inner layer, and of a vocabulary that is filled up to a
    multiple of 64."""
    heads = getattr(text, "num_attention_heads", None)
    if parts == 1 or heads is None:
        return True
    keys = _key_heads(text)
    vocabulary = -(-text.vocab_size // 64) * 64
    inner = getattr(text, "intermediate_size", None) or 0
    return not (heads % parts or max(keys, parts) % min(keys, parts) or inner % parts or vocabulary % parts)


def _key_heads(text: Any) -> int:
    return getattr(text, "num_key_value_heads", None) or text.num_attention_heads


def _window(text: Any) -> int | None:
    """The sliding window of any of its layers."""
    window = getattr(text, "sliding_window", None)
    if not window or not getattr(text, "use_sliding_window", True):
        return None
    kinds = getattr(text, "layer_types", None)
    return window if kinds is None or "sliding_attention" in kinds else None
