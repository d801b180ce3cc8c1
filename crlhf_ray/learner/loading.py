"""What a rank begins with: policy, reference and value head, and what the plain model says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from crlhf_ray.learner.forward import ActorCritic
from crlhf_ray.learner.forward_check import plain_logprobs
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.zero import checkpoint_layers
from crlhf_ray.policy.model import leave_out_frozen, load_model
from crlhf_ray.policy.settings import ModelSettings
from crlhf_ray.policy.sharded import loaded_in_parts, one_type, whole_as_used


def load_actor(model: ModelSettings, settings: LearnerSettings, *, needs_values: bool) -> tuple[ActorCritic, Any]:
    """The module to train, and the plain model's log-probs of the probe.

    Collective at stage 3, where each rank holds its parts alone from the first moment on.
    """
    divided = settings.zero_stage == 3
    with loaded_in_parts(model.dtype, enabled=divided, on_host=settings.offload == "all"):
        policy: Any = load_model(model)
        reference: Any = None
        if model.lora is None:
            reference = load_model(model) if divided else deepcopy(policy)  # parts cannot be copied
            reference.requires_grad_(False)
    with whole_as_used(policy):
        expected = plain_logprobs(policy)
    module = ActorCritic(policy, reference, settings.value_trunk)
    leave_out_frozen(module)
    if settings.checkpoint_activations:
        checkpoint_layers(module)
    if not needs_values:
        module.value_head.requires_grad_(False)
    if divided:
        one_type(module, getattr(torch, model.dtype))
    return module, expected
