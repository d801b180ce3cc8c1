"""Settings of the model and of its fine-tuning. Nothing heavy is imported here: a wrong setting is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from crlhf_ray.problems.settings import DataSetSettings, refuse_data_set
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


class SftSettings(Settings):
    """What one run of supervised fine-tuning does. A sample is one demonstration."""

    model: ModelSettings = ModelSettings()
    """The model to start from; with model.lora set, adapters are trained and merged into the saved model."""
    data: str = "starter"
    """Problems whose references are imitated (a source as problems.source of a run; the train split), or pairs:PATH, a
    JSONL file with the fields prompt and completion."""
    data_set: DataSetSettings = DataSetSettings()
    """How data of the kinds hub: and data: is read."""
    template: Template = "bare"
    """Prompt template for problems; use the one that the training run will use."""
    dir: Path = Path("runs/sft")
    """Folder of the run: model/ (the result), metrics.jsonl, checkpoints/. Several nodes must share it."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the demonstrations. More than a few make a small model repeat its references."""
    minibatch_samples: int = Field(16, ge=1)
    """Demonstrations an optimizer step, over all ranks."""
    micro_batch_samples: int = Field(4, ge=1)
    """Demonstrations in one forward pass of one rank; bounds its memory and changes no result."""
    max_tokens: int = Field(1024, ge=2)
    """Longest prompt plus completion, in tokens. A longer one is an error, never cut in silence."""
    lr: float = Field(1e-5, gt=0)
    """Highest learning rate; AdamW. 1e-5 suits full fine-tuning, LoRA wants about ten times as much."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it then falls to zero linearly."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this L2 norm."""
    seed: int = 0
    """Order of the demonstrations."""
    ranks: int = Field(1, ge=1)
    """Ranks. The loss curve does not depend on their number."""
    cpus_per_rank: int = Field(2, ge=1)
    """CPU cores, and compute threads, of a rank."""
    gpus_per_rank: int = Field(0, ge=0, le=1)
    """1: one GPU for each rank and NCCL. 0: CPU and gloo. Never run on a GPU by us."""
    zero_stage: int = Field(0, ge=0, le=3)
    """What DeepSpeed splits over ranks: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints, from which an interrupted run is resumed. The last one is kept."""
    start_seconds: float = Field(300.0, gt=0)
    """Longest wait for the workers to start."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        share = self.ranks * self.micro_batch_samples
        if self.minibatch_samples % share:
            raise ValueError(
                f"minibatch_samples {self.minibatch_samples} must be a multiple of ranks x micro_batch_samples = "
                f"{self.ranks} x {self.micro_batch_samples} = {share}"
            )
        return self

    @model_validator(mode="after")
    def _reads_a_data_set(self) -> Self:
        refuse_data_set(self, "data")
        return self

    def steps(self, demonstrations: int) -> int:
        """Optimiser steps in all."""
        return max(1, round(self.epochs * demonstrations / self.minibatch_samples))
