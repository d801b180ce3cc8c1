"""Settings of the model. Nothing heavy is imported here, so that a wrong setting is refused at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crlhf_ray.settings import Settings

#: bare: the problem's prompt and nothing else; chat: in the model's own chat format. See `prompts.render`.
Template = Literal["bare", "chat"]
#: How a policy is exported: a whole model, or the LoRA adapter alone.
Form = Literal["merged", "adapter"]


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): ``W + (alpha / r) B A``."""

    r: int = Field(8, ge=1)
    """Rank of the adapters. 8 is what the paper's libraries used."""
    alpha: int = Field(16, ge=1)
    """Scale; the adapter is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability. 0, because dropout makes the learner's log-probs differ from those of the rollouts."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the adapted modules; "all-linear" is every linear layer except the output head."""


class ModelSettings(Settings):
    """Which causal language model, in which precision, trained in full or by LoRA."""

    name: str = "smollm2-135m"
    """Preset ("smollm2-135m", "tiny"), local directory, or hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights' type. On CPU fp32 is faster than bf16, and rollout and learner log-probs then agree within 1e-4."""
    lora: LoraSettings | None = None
    """Adapters to train instead of all weights; none means full fine-tuning."""
