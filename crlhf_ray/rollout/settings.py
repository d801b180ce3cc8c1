"""Settings of the rollout fleet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from crlhf_ray.settings import Settings, refuse_unused

#: What becomes of completions that are being drawn when new weights come.
OnUpdate = Literal["finish", "keep", "restart"]


class AutoscaleSettings(Settings):
    """A pool that grows and shrinks with what there is to draw (`scaling.py`). Times are in seconds."""

    least: int = Field(1, ge=0)
    """Replicas kept while nothing is to be drawn. 0: none, so that their nodes can leave."""
    most: int = Field(ge=1)
    """Never more are wanted: the limit of what an hour can cost. One that is let go finishes what it draws beside
    them."""
    grow_seconds: float = Field(10.0, ge=0)
    """More are asked for when more were needed for so long; at once where there is none."""
    shrink_seconds: float = Field(300.0, ge=0)
    """Some are let go when fewer were needed for so long; longer than a replica takes to start, or they come and go."""

    @model_validator(mode="after")
    def _fits(self) -> AutoscaleSettings:
        if self.least > self.most:
            raise ValueError(f"least={self.least} is above most={self.most}; lower the first or raise the second")
        if self.least == self.most:
            raise ValueError(
                f"least={self.least} and most={self.most} leave nothing to scale: leave autoscale out, and set "
                f"rollout.replicas={self.most}"
            )
        return self


class RolloutSettings(Settings):
    """How programs are sampled, by how many vLLM replicas, and with how much of the machine."""

    on_update: OnUpdate = "finish"
    """What becomes of programs that are being drawn when the learner has new weights. finish: the update waits for
    them. keep: they continue with the new weights from the tokens that they have. restart: they start over."""
    replicas: int = Field(1, ge=1)
    """vLLM engines, each a Ray actor. One saturates the memory bandwidth of a small machine."""
    autoscale: AutoscaleSettings | None = None
    """Between which numbers the pool of replicas grows and shrinks, in place of `replicas`. None: it does neither."""
    temperature: float = Field(1.0, ge=0)
    """Of rollouts. The learner takes its log-probs at the same temperature, so it trains the policy that is sampled.
    A run refuses 0, greedy: evaluations have `evaluation.temperature`."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of sampling. Below 1 behaviour log-probs are those of the cut distribution, which PPO does not know."""
    max_tokens: int = Field(96, ge=1)
    """Tokens a completion at most; a function body of the starter set needs fewer."""
    context: int = Field(1024, ge=16)
    """Tokens of prompt and completion together at most; longer requests are refused before anything runs."""
    max_num_seqs: int = Field(128, ge=1)
    """Sequences that decode together in one replica. On CPU each step reads all weights once, however many they are."""
    kv_cache_gib: float = Field(1.5, gt=0)
    """GiB of KV cache a replica. SmolLM2-135M in fp32 takes 45 KiB a token, so 1.5 hold 35,000 tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The engine's type. On CPU its log-probs equal the learner's within 1e-4 in fp32; in bf16 they differ by 0.2."""
    backend: Literal["gloo", "nccl"] = "gloo"
    """Weight transfer: gloo for CPU replicas, nccl for GPU replicas (not tested)."""
    cpus_per_replica: float = Field(0.5, ge=0)
    """Ray CPUs reserved a replica. Rollouts and learning take turns, so on one machine both may count on all cores."""
    tensor_parallel: int = Field(1, ge=1)
    """Processes of one node that hold a part of every layer each, for a model that one device cannot hold. Must divide
    the model's attention heads. On GPUs each takes one."""
    gpus_per_replica: float = Field(0.0, ge=0)
    """Ray GPUs reserved a replica: at most 1, or `tensor_parallel` of them."""
    resources: dict[str, float] = Field({})
    """Custom Ray resources reserved a replica, to keep replicas on an elastic worker group of their own."""
    threads: int | None = Field(None, ge=1)
    """OpenMP threads of each process. None: the cores of the machine that starts the run, over `tensor_parallel`."""
    start_seconds: float = Field(600.0, gt=0)
    """Longest wait for a replica to load; a first start on a slow machine unpacks the model as well."""
    resources_seconds: float = Field(0.0, ge=0)
    """How long an autoscaler may take to bring nodes for the replicas. Then the run starts with those that have room,
    and the others join later; with none it ends. 0: there is no autoscaler, so what does not fit is refused at once."""
    stall_seconds: float = Field(300.0, gt=0)
    """A replica that finishes no sample for so long is taken for hung, and replaced."""
    transfer_seconds: float = Field(120.0, gt=0)
    """Longest wait for the other side of a weight transfer, at the rendezvous and for each single weight."""
    recoveries: int = Field(2, ge=0)
    """How often one call may replace dead replicas before it ends with an error."""

    @property
    def most_replicas(self) -> int:
        """Replicas that there can be at a time."""
        return self.replicas if self.autoscale is None else self.autoscale.most

    @model_validator(mode="after")
    def _fits(self) -> RolloutSettings:
        if self.autoscale is not None:
            refuse_unused(self, ("replicas",), "rollout.autoscale, whose least and most say how many there are")
        if self.gpus_per_replica > 1 and self.gpus_per_replica != self.tensor_parallel:
            raise ValueError(
                f"gpus_per_replica={self.gpus_per_replica:g} with tensor_parallel={self.tensor_parallel}: a replica "
                "uses one GPU for each of its processes"
            )
        if 0 < self.gpus_per_replica < self.tensor_parallel > 1:
            raise ValueError(
                f"tensor_parallel={self.tensor_parallel} needs gpus_per_replica={self.tensor_parallel}, not "
                f"{self.gpus_per_replica:g}"
            )
        return self
