"""Models that no process holds whole (ZeRO-3): loaded part by part, and called before DeepSpeed has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


@contextmanager
def loaded_in_parts(dtype: str, *, enabled: bool = True, on_host: bool = False) -> Iterator[None]:
    """Within it `load_model` gives each rank its part of every weight. Collective; does nothing unless ``enabled``.

    transformers makes the modules under `deepspeed.zero.Init`, which divides each as soon as it is there. Then rank 0
    reads the file, which is mapped into memory, and sends the others what one module after the other needs: no more
    than one module's own weights are whole at a time. on_host: the parts stay in host memory.
    """
    if not enabled:
        yield
        return
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import DeepSpeedTensorOverride
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    zero: dict[str, Any] = {"stage": 3}
    if on_host:
        zero["offload_param"] = {"device": "cpu"}
    known = HfDeepSpeedConfig(
        {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": dtype == "bfloat16"}, "zero_optimization": zero}
    )
    init = deepspeed.zero.Init
    # By default it rounds every new tensor to the model's type: frequencies of positions too, which stay in fp32
    deepspeed.zero.Init = partial(init, tensor_overrides=[DeepSpeedTensorOverride.device])
    try:
        yield
    finally:
        deepspeed.zero.Init = init
        del known  # transformers has a weak reference to it alone
        unset_hf_deepspeed_config()


@contextmanager
def whole_as_used(model: nn.Module) -> Iterator[None]:
    """Within it a model that was loaded in parts can be called: each module's own weights are whole while it computes.

    Collective: all ranks call it alike. Does nothing for modules whose weights are whole already.
    """
    divided = [m for m in model.modules() if any(hasattr(p, "ds_id") for p in m.parameters(recurse=False))]
    if not divided:
        yield
        return
    import deepspeed

    gathered = {module: deepspeed.zero.GatheredParameters(list(module.parameters(recurse=False))) for module in divided}
    hooks: list[Any] = []
    for module, weights in gathered.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, weights=weights: weights.__enter__()))
        hooks.append(module.register_forward_hook(lambda *_, weights=weights: weights.__exit__(None, None, None)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def one_type(module: nn.Module, dtype: Any) -> None:
    """Cast what was made beside the loaded model (adapters, a value head) to the model's type, which DeepSpeed leaves
    to its caller where weights were loaded in parts. Buffers stay as they are."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
