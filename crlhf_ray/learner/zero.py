"""What DeepSpeed is told: how weights, gradients and the optimizer's state are held, and what is computed twice."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from crlhf_ray.errors import EngineError
from crlhf_ray.learner.forward import ActorCritic
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.policy.settings import ModelSettings


def deepspeed_config(
    settings: LearnerSettings, model: ModelSettings, module: ActorCritic, *, clips: bool = True
) -> dict[str, Any]:
    """DeepSpeed's settings. clips: whether DeepSpeed bounds the gradients' norm."""
    trained = sum(getattr(weight, "ds_numel", weight.numel()) for weight in module.parameters() if weight.requires_grad)
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "overlap_comm": False,
        "reduce_bucket_size": reduce_bucket(trained),
    }
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # minibatches have as many rows as they need; step() ends one
        "gradient_clipping": settings.max_grad_norm if clips else 0.0,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own Adam would have to be compiled at the first start
        "zero_optimization": zero,
        "steps_per_print": 10**9,
    }


def optimizer_of(module: ActorCritic, settings: LearnerSettings) -> torch.optim.AdamW:
    """AdamW with one step size for the policy and one for the value head; a group without parameters is left out."""
    heads = {id(parameter) for parameter in module.value_head.parameters()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in heads], "lr": settings.lr},
        {"params": [p for p in trained if id(p) in heads], "lr": settings.value_lr},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=settings.weight_decay)


def reduce_bucket(trained: int) -> int:
    """Elements in the buffer of gradients on their way to other ranks: DeepSpeed would always take 500 million."""
    return min(500_000_000, trained)


def checkpoint_layers(module: ActorCritic) -> None:
    """Have the policy's layers keep their inputs alone, and compute the rest again in the backward pass.

    Only the layers are put into training mode, in which transformers checkpoints: what is in them stays as it is, so
    dropout stays off. Raises EngineError for an architecture whose layers cannot.
    """
    policy: Any = module.policy
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = [layer for layer in policy.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise EngineError(
            f"learner.checkpoint_activations: {policy.config.model_type} has no layers that can be computed again; "
            "set it to false, and lower learner.micro_batch_tokens"
        )
    for layer in layers:
        layer.training = True
