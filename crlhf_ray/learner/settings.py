"""Settings of the learner. "[paper]" marks what the authors' pinned PPO library used by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from crlhf_ray.learner.advantage import algorithm_named
from crlhf_ray.learner.schedule import Schedule
from crlhf_ray.learner.staleness import CorrectionSettings
from crlhf_ray.settings import Settings, refuse_unused

#: What only a value function, and only an adaptive KL coefficient, reads.
_OF_VALUES = ("gamma", "gae_lambda", "value_clip", "value_coef", "value_trunk", "value_lr")
_OF_ADAPTIVE = ("target", "horizon")
#: The ZeRO stage that `learner.offload` needs at least.
OFFLOADS_FROM = {"none": 0, "optimizer": 2, "all": 3}


class KLSettings(Settings):
    """Penalty against the SFT model: ``r_t = token_reward_t - coef (log pi_old - log pi_ref)_t``."""

    controller: Literal["fixed", "adaptive"] = "adaptive"
    """adaptive: proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2) [paper]."""
    coef: float = Field(default=0.2, ge=0)
    """Reward per nat: the coefficient, or the one that an adaptive controller starts from. 0.2 [paper]."""
    target: float = Field(default=6.0, gt=0)
    """Nats a sample that the adaptive controller steers to. 6 [paper]."""
    horizon: float = Field(default=10_000.0, gt=0)
    """Samples over which the adaptive controller corrects its error; smaller is faster. 10000 [paper]."""

    @model_validator(mode="after")
    def _fits(self) -> KLSettings:
        if self.controller == "fixed":
            refuse_unused(self, _OF_ADAPTIVE, "controller=fixed")
        return self


class LearnerSettings(Settings):
    """PPO (Schulman et al. 2017, arXiv 1707.06347) and the DeepSpeed ranks that run it."""

    algorithm: str = "gae"
    """Advantages. gae: a value function and GAE [paper]. The others have none [extensions]. rloo: return minus the mean
    return of the other samples of the same problem (arXiv 2402.14740). grpo: minus the group's mean, over its standard
    deviation (arXiv 2402.03300). reinforce_pp: minus the batch's mean (arXiv 2501.03262). Your own is
    `package.module:Name`, an `Algorithm` or a function of `Rewarded`."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token. 1 [paper]: a program's last line counts as much as its first."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's trade of bias (0) for variance (1). 0.95 [paper]."""
    whiten: bool = True
    """Scale a batch's advantages to standard deviation 1, and shift them to mean 0 where their baseline is not a
    group's mean already (Ziegler et al. 2019) [paper]."""
    signal_floor: float = Field(default=0.02, ge=0)
    """In units of reward. An update whose scores differ by less (standard deviation; within problems for rloo and grpo)
    is skipped, and whitening divides by no less: noise is not blown up to a full step. 0.02: two points of
    probability that a program is right."""
    clip: float = Field(default=0.2, gt=0)
    """PPO's bound on the probability ratio: [1 - clip, 1 + clip]. 0.2 [paper]."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far one update may move a value prediction before its loss is clipped, in rewards. 0.2 [paper]."""
    value_coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss. 0.1 [paper]."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus. 0 [paper]; the KL penalty already keeps the policy from collapsing."""
    value_trunk: Literal["separate", "shared"] = "separate"
    """What the value head reads. separate: hidden states of the frozen reference, which are computed anyway, so that
    values cost nothing more. shared: the policy's own trunk [paper], which costs one more forward pass a batch."""
    kl: KLSettings = KLSettings()
    """Penalty against the reference model."""
    correction: CorrectionSettings = CorrectionSettings()
    """Of samples that older weights drew."""

    epochs: int = Field(default=4, ge=1)
    """Passes over a batch. 4 [paper]; time is proportional to it."""
    minibatch_samples: int = Field(default=16, ge=1)
    """Samples an optimizer step, over all ranks. Samples of one problem stay together as far as they fit."""
    stop_kl: float | None = Field(default=0.05, gt=0)
    """Nats a token between the policy and the one that sampled; once a step started beyond it, the update ends."""
    max_logprob_gap: float | None = Field(default=None, gt=0)
    """Nats a token, mean over a batch, between learner and rollout before the first step; a run beyond it stops, since
    they are then two policies. None: 0.01 where both compute in float32 and rollout.top_p is 1, else 0.3."""
    lr: float = Field(default=1e-4, gt=0, le=1)
    """AdamW step size, for LoRA. [paper]'s library default is 1.41e-5, for batches of 256; full fine-tuning: 1e-5."""
    value_lr: float = Field(default=1e-3, gt=0, le=1)
    """AdamW step size of the value head, which starts from nothing."""
    lr_warmup: int = Field(default=0, ge=0)
    """Updates over which the step sizes rise to their full height. 0: full from the first."""
    lr_schedule: Schedule = "constant"
    """What comes after: constant, or falling to 0 in a line or a half cosine at update `lr_updates`."""
    lr_updates: int | None = Field(default=None, ge=1)
    """linear, cosine: the update at which the step sizes are 0; usually run.rounds."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's. 0: the KL penalty is the regulariser."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients of a larger global norm are scaled down to it."""

    ranks: int = Field(default=1, ge=1)
    """DeepSpeed processes, each a Ray actor in one placement group."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 replicates, 1 shards optimizer state, 2 gradients as well, 3 weights as well. With one rank
    there is nothing to shard, and 0 is fastest."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in host memory instead of the device's, for time. optimizer: the optimizer's state, fp32 weights and
    gradients (zero_stage 2 or 3), and AdamW's step is computed on the host. all: the weights as well (zero_stage 3)."""
    cpus_per_rank: float = Field(default=0.5, ge=0)
    """Ray CPUs reserved a rank. Rollouts and learning take turns, so on one machine both may count on all cores."""
    gpus_per_rank: float = Field(default=0.0, ge=0)
    """Ray GPUs reserved a rank; above 0 means NCCL and the GPU, which has not been tested."""
    resources: dict[str, float] = Field(default={})
    """Custom Ray resources reserved a rank, to keep the learner on nodes of its own."""
    threads_per_rank: int | None = Field(default=None, ge=1)
    """Compute threads a rank. None: the machine's cores divided by the ranks."""
    micro_batch_tokens: int = Field(default=1024, ge=16)
    """Tokens a forward pass, prompts counted once: bounds the memory. A single sample may exceed it."""
    checkpoint_activations: bool = False
    """Keep only each layer's input of a forward pass, and compute the layer again in the backward pass: less memory
    for one more forward pass."""
    seed: int = 0
    """Order of minibatches, the only random choice here: derived from seed and step, so a resumed run repeats it."""
    start_seconds: float = Field(default=300.0, gt=0)
    """Longest wait for the ranks to be placed on nodes that are there, and then to load the model."""
    resources_seconds: float = Field(default=0.0, ge=0)
    """How long an autoscaler may take to bring nodes for the ranks. 0: there is no autoscaler, and what does not fit
    is refused at once."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """Longest wait for one update, load or save before an error names the rank that did not answer."""

    @field_validator("algorithm")
    @classmethod
    def _found(cls, name: str) -> str:
        algorithm_named(name)
        return name

    @model_validator(mode="after")
    def _fits(self) -> LearnerSettings:
        if not algorithm_named(self.algorithm).needs_values:
            refuse_unused(self, _OF_VALUES, f"algorithm={self.algorithm}, which has no value function")
        if self.offload != "none" and self.zero_stage < (least := OFFLOADS_FROM[self.offload]):
            raise ValueError(
                f"offload={self.offload} moves what DeepSpeed divides over the ranks, and zero_stage={self.zero_stage} "
                f"leaves it whole: set zero_stage to {'2 or 3' if least == 2 else '3'}"
            )
        if self.algorithm == "reinforce_pp" and not self.whiten:
            raise ValueError("algorithm=reinforce_pp has no baseline but the batch's mean: leave whiten on")
        if self.lr_schedule == "constant":
            refuse_unused(self, ("lr_updates",), "lr_schedule=constant")
        elif self.lr_updates is None or self.lr_updates <= self.lr_warmup:
            raise ValueError(
                f"lr_schedule={self.lr_schedule} needs lr_updates above lr_warmup={self.lr_warmup}, such as run.rounds"
            )
        return self
