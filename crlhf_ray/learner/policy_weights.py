"""The policy's weights as the rollout engine takes them: under their Hugging Face names, LoRA merged in, whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from crlhf_ray.learner.forward import ActorCritic
from crlhf_ray.rollout.weights import WeightMeta


class PolicyWeights:
    """gathered: what makes sharded parameters whole within a block (ZeRO-3); None where they are whole already."""

    def __init__(
        self, module: ActorCritic, gathered: Callable[[Sequence[Any]], AbstractContextManager[Any]] | None = None
    ):
        self.module, self._gathered = module, gathered

    def meta(self) -> WeightMeta:
        """(name, dtype, shape) of each weight, in the order of `whole`, without computing any."""
        return [
            (name, str(weight.dtype).removeprefix("torch."), tuple(getattr(weight, "ds_shape", weight.shape)))
            for name, weight, _ in self._named()
        ]

    @torch.no_grad()
    def whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        """One weight at a time; each is valid until the next one is asked for.

        Collective under ZeRO-3: all ranks iterate together. Tied weights come once, under the embedding's name.
        """
        for name, weight, layer in self._named():
            parameters = {id(p): p for p in [weight, *(layer.parameters() if layer is not None else [])]}
            with nullcontext() if self._gathered is None else self._gathered(list(parameters.values())):
                found = weight.detach()
                if layer is not None:
                    for adapter in layer.active_adapters:
                        found = found + layer.get_delta_weight(adapter)
                yield name, found

    def _named(self) -> Iterator[tuple[str, torch.Tensor, Any]]:
        """(Hugging Face name, base weight, peft layer around it or None)."""
        policy: Any = self.module.policy
        base = policy.get_base_model() if self.module.adapted else policy
        layers = {name: module for name, module in base.named_modules() if hasattr(module, "base_layer")}
        for name, parameter in base.named_parameters():
            owner, _, rest = name.partition(".base_layer.")
            if rest:
                yield f"{owner}.{rest}", parameter, layers[owner] if rest == "weight" else None
            elif not any(name.startswith(f"{adapted}.") for adapted in layers):
                yield name, parameter, None
