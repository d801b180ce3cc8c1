"""Which models are refused, and why, from their configurations alone."""

from __future__ import annotations

import re

import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3MoeConfig,
    T5Config,
)

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.pipeline.problems import questions
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.policy.support import check_config


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        GPT2Config(),
        GraniteConfig(logits_scaling=8.0),
        MistralConfig(sliding_window=1024),
        MistralConfig(sliding_window=None),
        Qwen2Config(sliding_window=256, use_sliding_window=False),
        Phi3Config(sliding_window=2047),
        Gemma3TextConfig(sliding_window=1024),
    ],
    ids=lambda config: config.model_type,
)
def test_dense_models_are_accepted_and_windows_that_never_bind(config):
    check_config(config, "mine", context=1024)


@pytest.mark.parametrize(
    "config, reason",
    [
        (MixtralConfig(), "mixtral) is a mixture of experts"),
        (Qwen3MoeConfig(), "qwen3_moe) is a mixture of experts"),
        (Gemma2Config(), "gemma2) caps its scores (attn_logit_softcapping)"),
        (MistralConfig(sliding_window=512), "attends to the last 512 tokens only, and rollout.context is 1024"),
        (Gemma3TextConfig(sliding_window=512), "set it to 512 or less"),
        (LlamaConfig(max_position_embeddings=512), "has 512 positions, and rollout.context is 1024: set it to 512"),
        (T5Config(), "an encoder with a decoder"),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_what_would_train_wrongly_is_refused_with_the_reason(config, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check_config(config, "mine", context=1024)


def test_shards_that_do_not_divide_the_heads_are_refused_with_those_that_do():
    sizes = {"num_attention_heads": 9, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 49152}
    with pytest.raises(ConfigError, match=r"has 9 attention heads, .*=2 does not divide; use 1 or 3$"):
        check_config(LlamaConfig(**sizes), "mine", context=1024, shards=2)
    check_config(LlamaConfig(num_attention_heads=8), "mine", context=1024, shards=4)


def test_a_run_longer_than_the_models_positions_is_refused_before_anything_starts():
    config = load_config(changes=["model.name=tiny", "rollout.max_tokens=9000", "rollout.context=9999"])
    with pytest.raises(ConfigError, match="has 2048 positions"):
        questions(config, load_tokenizer("tiny"))


def test_a_tokenizer_that_ends_its_prompts_is_refused():
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer("tiny")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    with pytest.raises(ConfigError, match=r"appends '.+' to a prompt.*add_eos_token"):
        questions(load_config(changes=["model.name=tiny"]), tokenizer)
