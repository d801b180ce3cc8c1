"""A trained policy in the form that others load: safetensors, tokenizer, generation config; LoRA merged or apart.

Nothing here knows DeepSpeed: the trained weights come by name, one at a time (`learner.trained` reads them from a
checkpoint), and go into the model that training began with. The model is held once; what is written goes shard by
shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import AutoModelForCausalLM

from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.policy.model import load_model, load_tokenizer, resolve
from crlhf_ray.policy.settings import Form, ModelSettings

Dtype = Literal["float32", "bfloat16", "float16"]

SHARD_SIZE = "5GB"
#: The ranks of adapters that vLLM makes room for.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class Lazy(Protocol):
    """A weight that is read when it is asked for; a tensor is one too."""

    def contiguous(self) -> torch.Tensor: ...


def assemble(settings: ModelSettings, trained: Mapping[str, Lazy]) -> Any:
    """The model that training began with, the trained weights in place of its own.

    trained: by parameter name as `load_model` names them, every trained one. Tied weights may come under each of their
    names. Raises EngineError where weights are missing, left over or of another shape.
    """
    model = load_model(settings)
    left = {name for name in trained if name not in {n for n, _ in model.named_parameters(remove_duplicate=False)}}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name not in trained:
            raise EngineError(f"the checkpoint holds no {name}: it belongs to another model than {settings.name}")
        weight = trained[name].contiguous()
        if weight.shape != parameter.shape:
            raise EngineError(
                f"{name} is {tuple(weight.shape)} in the checkpoint and {tuple(parameter.shape)} in {settings.name}"
            )
        parameter.data.copy_(weight)
    if left:
        raise EngineError(f"{settings.name} has no {', '.join(sorted(left)[:5])}, which the checkpoint holds")
    return model


def save(
    model: Any,
    settings: ModelSettings,
    folder: Path,
    *,
    form: Form = "merged",
    dtype: Dtype | None = None,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Write the model into ``folder``, sharded by size, with its tokenizer and generation config.

    Uses the model up: adapters are merged into it, and it is cast to ``dtype`` (its own where None).
    """
    if form == "merged" and settings.lora is not None:
        model = model.merge_and_unload()
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form for a model card
    load_tokenizer(settings.name).save_pretrained(folder)


def load_saved(folder: Path, settings: ModelSettings, form: Form, dtype: Dtype) -> Any:
    """What `save` wrote, as transformers and peft load it for anybody."""
    where = resolve(settings.name) if form == "adapter" else str(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=getattr(torch, dtype))
    if form == "adapter":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    return model.eval()


def serve_command(folder: Path, settings: ModelSettings, form: Form, dtype: Dtype, name: str) -> str:
    """The command that serves it; ``name`` is what requests call the model."""
    if form == "merged":
        return f"vllm serve {folder} --served-model-name {name} --dtype {dtype}"
    assert settings.lora is not None
    room = next((rank for rank in VLLM_RANKS if rank >= settings.lora.r), None)
    if room is None:
        return f"vLLM serves adapters up to rank {VLLM_RANKS[-1]}, this one has {settings.lora.r}: export it merged"
    return (
        f"vllm serve {resolve(settings.name)} --enable-lora --max-lora-rank {room} --lora-modules {name}={folder} "
        f"--dtype {dtype}"
    )


def push(folder: Path, repository: str, *, kind: Literal["model", "dataset"] = "model") -> str:
    """Upload the folder to the hub, making the repository (private) where there is none; returns its address.

    Raises ConfigError with the hub's reason.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    hub = HfApi()
    try:
        url = hub.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder)
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise ConfigError(
            f"{folder} is whole but was not pushed to {repository}: {str(error).strip().splitlines()[0]}. "
            f"Log in with `hf auth login`, then `hf upload {repository} {folder} --repo-type {kind}`"
        ) from error
    return str(url)


def check_size(size: str) -> None:
    """Raises ConfigError unless it is a number of bytes as `--shard-size` takes it."""
    from huggingface_hub.serialization._base import parse_size_to_int

    try:
        if parse_size_to_int(size) > 0:
            return
    except ValueError:
        pass
    raise ConfigError(f"--shard-size {size!r}: write it as 500MB or 5GB")


def check_repository(repository: str) -> None:
    """Raises ConfigError unless it is named as owner/name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository!r}: {error}") from error
    if repository.count("/") != 1:
        raise ConfigError(f"--push {repository!r}: write it as owner/name")
