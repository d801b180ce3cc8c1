"""Supervised fine-tuning, the method's first step: Ray Train's TorchTrainer with a DeepSpeed engine in each worker.

`run_sft` is the driver; `train_worker` runs on every rank. The saved model is a plain Hugging Face directory (LoRA is
merged into it), so its path serves as ``model.name`` everywhere else.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crlhf_ray.cluster import connect
from crlhf_ray.errors import ConfigError, EngineError, ResourceError
from crlhf_ray.policy.checkpoints import LATEST, latest_tag, prune, publish, recover, temporary_tag
from crlhf_ray.policy.demonstrations import (
    Batch,
    Demonstration,
    batch_indices,
    collate,
    completion_loss,
    read_demonstrations,
)
from crlhf_ray.policy.export import assemble, save
from crlhf_ray.policy.model import leave_out_frozen, load_model, load_tokenizer, resolve
from crlhf_ray.policy.settings import SftSettings
from crlhf_ray.policy.sharded import loaded_in_parts, one_type
from crlhf_ray.process_group import join_group

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

POLL_SECONDS = 0.5
#: Names the driver that came last: workers that outlive theirs would delete the checkpoint that the next one reads.
OWNER = "owner"
#: Longest wait of a rank for the others, at the start and in any collective.
GROUP_SECONDS = 1800.0


def run_sft(settings: SftSettings, *, resume: bool = False, console: Console | None = None) -> Path:
    """Fine-tune and save; returns the directory of the saved model (``settings.dir / "model"``).

    Starts a local Ray and ends it, unless one is initialised or named by RAY_ADDRESS. With ``resume`` it goes on from
    the last checkpoint in ``settings.dir``; the final weights equal those of an uninterrupted run.

    Raises:
        ConfigError: the folder already contains a run and ``resume`` is not set, or it was made with other settings.
        DataError: the data cannot be used; names file, row and field.
        ResourceError: the cluster cannot hold the workers.
        EngineError: a worker failed; carries its message.
    """
    console = console or Console()
    root = settings.dir.absolute()
    settings = settings.model_copy(update={"dir": root})  # workers have folders of their own
    finished = _claim(root, settings, resume)
    if finished:
        console.print(f"SFT was finished already: [bold]{finished}[/bold]")
        return finished
    resolve(settings.model.name)  # unpacked once here, not by every worker
    tokenizer = load_tokenizer(settings.model.name)
    demonstrations = read_demonstrations(
        settings.data, settings.template, tokenizer, settings.max_tokens, settings.data_set, console.print
    )
    steps = settings.steps(len(demonstrations))
    console.print(
        f"SFT of [bold]{settings.model.name}[/bold] on {len(demonstrations)} demonstrations: {steps} steps of "
        f"{settings.minibatch_samples}, {settings.ranks} rank(s), ZeRO {settings.zero_stage}"
    )
    owner = uuid.uuid4().hex
    (root / OWNER).write_text(owner)
    if (complaint := recover(root / "checkpoints")) is not None:
        console.print(f"[yellow]{complaint}[/yellow]")
    with connect():
        _check_resources(settings)
        config = {
            "settings": settings.model_dump_json(),
            "owner": owner,
            "demonstrations": ray.put(demonstrations),
            "pad_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        }
        _fit_with_progress(settings, root, config, steps, console)
    rows = read_metrics(root)
    console.print(
        f"Loss a token: {rows[0]['loss']:.3f} at the first step, {rows[-1]['loss']:.3f} at the last. "
        f"Model: [bold]{root / 'model'}[/bold]",
        soft_wrap=True,
    )
    return root / "model"


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The rows of a run so far: step (1-based), loss (nats a completion token), lr, tokens, seconds."""
    file = directory / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def _claim(root: Path, settings: SftSettings, resume: bool) -> Path | None:
    """Make the folder ours; returns the model where a resumed run is finished."""
    file = root / "settings.json"
    if file.exists():
        if not resume:
            raise ConfigError(f"{root} already contains an SFT run; continue it with --resume, or name another dir")
        before, now = json.loads(file.read_text()), json.loads(settings.model_dump_json())
        for key in now:
            if key != "dir" and before.get(key) != now[key]:
                raise ConfigError(
                    f"{root} was begun with {key}={before.get(key)!r}, not {now[key]!r}; resume it as it was"
                )
    if (root / "checkpoints" / "checkpoint_manager_snapshot.json").exists():
        raise ConfigError(f"{root} was made by an earlier version, whose checkpoints are not read; name another dir")
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(settings.model_dump_json(indent=2))
    return root / "model" if (root / "model").is_dir() else None


def _check_resources(settings: SftSettings) -> None:
    wanted = {
        "CPU": float(settings.ranks * settings.cpus_per_rank),
        "GPU": float(settings.ranks * settings.gpus_per_rank),
    }
    there = ray.cluster_resources()
    for kind, amount in wanted.items():
        if there.get(kind, 0.0) < amount:
            raise ResourceError(
                f"SFT wants {amount:g} {kind} for {settings.ranks} rank(s), the cluster has "
                f"{there.get(kind, 0.0):g}; lower ranks or cpus_per_rank, or add nodes"
            )


def _trainer(settings: SftSettings, root: Path, config: dict[str, Any]) -> TorchTrainer:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    environment = {"OMP_NUM_THREADS": str(settings.cpus_per_rank)}
    if not settings.gpus_per_rank:
        environment["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it when it is first imported
    return TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=settings.ranks,
            use_gpu=settings.gpus_per_rank > 0,
            resources_per_worker={"CPU": settings.cpus_per_rank, "GPU": settings.gpus_per_rank},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name="ray_train",
            storage_path=str(root),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _fit_with_progress(settings: SftSettings, root: Path, config: dict[str, Any], steps: int, console: Console) -> None:
    """Run the trainer beside the display.

    The trainer has a thread of its own, because in the main thread it would take over Ctrl-C; its progress arrives
    through metrics.jsonl.
    """
    from ray.train import TrainingFailedError

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(settings.start_seconds)
    trainer = _trainer(settings, root, config)
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="sft-trainer", daemon=True)
    thread.start()
    columns = (
        TextColumn("[bold]SFT[/bold]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("sft", total=steps, note="starting workers")
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            rows = read_metrics(root)
            if rows:
                progress.update(task, completed=rows[-1]["step"], note=f"loss {rows[-1]['loss']:.3f}")
    if failures:
        error = failures[0]
        if not isinstance(error, TrainingFailedError):
            raise error
        raise EngineError(f"SFT failed: {error}") from error
    if not (root / "model").is_dir():
        raise EngineError(f"SFT ended without a model in {root}; Ray Train was stopped from outside")


def train_worker(config: dict[str, Any]) -> None:
    """One rank: builds the engine, learns from its share of every batch, saves. Rank 0 writes metrics and model."""
    import deepspeed
    import ray.train

    settings = SftSettings.model_validate_json(config["settings"])
    demonstrations: list[Demonstration] = ray.get(config["demonstrations"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    root, steps = settings.dir, settings.steps(len(demonstrations))

    engine = _engine(settings, steps)
    first = 0
    if tag := _tag(root / "checkpoints"):
        _, state = engine.load_checkpoint(
            str(root / "checkpoints"), tag=tag, load_module_strict=settings.model.lora is None
        )
        first = state["step"]
    if rank == 0:
        _check_owner(root, config["owner"])
        kept = [row for row in read_metrics(root) if row["step"] <= first]
        (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))

    for step in range(first, steps):
        begun = time.monotonic()
        indices = batch_indices(step, settings.minibatch_samples, len(demonstrations), settings.seed)
        tokens = sum(len(demonstrations[index].completion) for index in indices)
        mine = [demonstrations[index] for index in indices[rank::world]]
        total = torch.zeros((), device=engine.device)
        for begin in range(0, len(mine), settings.micro_batch_samples):
            batch = collate(mine[begin : begin + settings.micro_batch_samples], config["pad_id"])
            loss = completion_loss(engine, Batch(*(t.to(engine.device) for t in vars(batch).values())))
            # DeepSpeed averages over micro-batches and ranks; this scale makes that the mean over the batch's tokens.
            engine.backward(loss * (engine.gradient_accumulation_steps() * world / tokens))
            engine.step()
            total += loss.detach()
        deepspeed.comm.all_reduce(total)
        row = {
            "step": step + 1,
            "loss": float(total) / tokens,
            "lr": engine.get_lr()[0],
            "tokens": tokens,
            "seconds": round(time.monotonic() - begun, 3),
        }
        if rank == 0:
            _check_owner(root, config["owner"])
            with (root / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < steps:
            _save_checkpoint(engine, settings, step + 1, config["owner"], write=rank == 0)
    weights = _gathered_weights(engine, keep=rank == 0)
    if rank == 0:
        _check_owner(root, config["owner"])
        _save(weights, settings)
    deepspeed.comm.barrier()


def _tag(checkpoints: Path) -> str | None:
    """The checkpoint to begin from, as rank 0 sees it now: Ray Train may start the ranks again. Collective."""
    tag = [latest_tag(checkpoints) if torch.distributed.get_rank() == 0 and (checkpoints / LATEST).exists() else None]
    torch.distributed.broadcast_object_list(tag)
    return tag[0]


def _check_owner(root: Path, owner: str) -> None:
    """Rank 0 looks before it writes; the others end with it."""
    if (root / OWNER).read_text() != owner:
        raise EngineError(f"{root} was taken over by a later run")


def _save_checkpoint(engine: Any, settings: SftSettings, step: int, owner: str, *, write: bool) -> None:
    """Collective. Ray Train's own list of checkpoints is rewritten in place, so that a kill can leave none to read."""
    import deepspeed

    checkpoints = settings.dir / "checkpoints"
    engine.save_checkpoint(
        str(checkpoints),
        tag=temporary_tag(step),
        client_state={"step": step},
        save_latest=False,
        exclude_frozen_parameters=bool(settings.model.lora),
    )
    deepspeed.comm.barrier()
    if write:
        _check_owner(settings.dir, owner)
        publish(checkpoints, step, {"ranks": settings.ranks, "zero_stage": settings.zero_stage})
        prune(checkpoints, kept=1)
    deepspeed.comm.barrier()


def _engine(settings: SftSettings, steps: int) -> Any:
    deepspeed = join_group(cuda=settings.gpus_per_rank > 0, timeout_seconds=GROUP_SECONDS)
    with loaded_in_parts(settings.model.dtype, enabled=settings.zero_stage == 3):
        model = load_model(settings.model)
    if settings.zero_stage == 3:
        one_type(model, getattr(torch, settings.model.dtype))
    leave_out_frozen(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    warmup = settings.warmup * steps

    def factor(step: int) -> float:
        return min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup), 1.0)

    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        config={
            "train_batch_size": settings.minibatch_samples,
            "train_micro_batch_size_per_gpu": settings.micro_batch_samples,
            "gradient_clipping": settings.max_grad_norm,
            "zero_optimization": {"stage": settings.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "bf16": {"enabled": settings.model.dtype == "bfloat16"},
        },
    )
    engine.train()
    return engine


def _gathered_weights(engine: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """The trained parameters by name. Collective: under ZeRO 3 all ranks gather each of them, in the same order."""
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                if keep:
                    weights[name] = parameter.detach().cpu().clone()
    return weights


def _save(weights: dict[str, torch.Tensor], settings: SftSettings) -> None:
    """Write ``model/``: the start model with the trained weights in it, adapters merged. Atomic."""
    target = settings.dir / "model"
    scratch = target.with_name("model.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    save(assemble(settings.model, weights), settings.model, scratch)
    scratch.rename(target)
