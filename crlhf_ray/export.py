"""``crlhf export``: a run's policy in the form that others load, checked, with a card that says what it is."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from crlhf_ray.config import Config, settings_of_run
from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.learner.forward_check import EXACT, plain_logprobs
from crlhf_ray.learner.trained import read_trained
from crlhf_ray.output import file_in_the_way
from crlhf_ray.policy.checkpoints import LATEST, named_tag
from crlhf_ray.policy.export import (
    SHARD_SIZE,
    Dtype,
    Form,
    assemble,
    check_repository,
    check_size,
    load_saved,
    push,
    save,
    serve_command,
)
from crlhf_ray.policy.model import SMOLLM2_HUB_ID
from crlhf_ray.report.card import model_card, without_place
from crlhf_ray.report.feedback_set import write_feedback
from crlhf_ray.report.run_files import read_run

#: Beside the weights: what was exported. A folder that holds it is ours, and the next export may replace it.
MADE_HERE = "export.json"
#: Left out of the settings that go with a model: where it ran is nobody else's business.
PRIVATE: Any = {
    "run": {"dir"},
    "ray": {"address"},
    "feedback": {"web": {"url": True, "token_file": True}, "annotators": True},  # whose commands and addresses are too
}


def export_model(
    run_dir: Path,
    *,
    to: Path | None = None,
    form: Form = "merged",
    dtype: Dtype | None = None,
    checkpoint: str = LATEST,
    shard_size: str = SHARD_SIZE,
    repository: str | None = None,
    console: Console,
) -> Path:
    """Write the policy of a checkpoint; returns its folder, by default ``model`` in the run's own.

    checkpoint: "latest", "best" (`run.keep_best`) or the name of a kept one. dtype: the training's where None.
    The model is not called done before it was loaded again as anybody loads it and its log-probs were the learner's.

    Raises ConfigError, DataError and EngineError, and leaves nothing behind then.
    """
    config = settings_of_run(run_dir)
    if form == "adapter" and config.model.lora is None:
        raise ConfigError(f"{run_dir} trained all weights (model.lora is not set): there is no adapter; use --merged")
    check_size(shard_size)
    if repository is not None:
        check_repository(repository)
    target = _ours(to or run_dir / "model", "model")
    tag = named_tag(run_dir / "checkpoints", checkpoint)
    written: Dtype = dtype or config.model.dtype
    with _replacing(target) as scratch:
        with _quiet():
            gap = _write(config, run_dir / "checkpoints" / tag, scratch, form, written, shard_size)
        _describe(run_dir, config, scratch, form=form, dtype=written, tag=tag, gap=gap)
    console.print(
        f"Model: [bold]{target}[/bold] ({form}, {written}, {tag}); log-probs within {gap:.1e} nats of the learner's",
        soft_wrap=True,
    )
    console.print(serve_command(target, config.model, form, written, run_dir.name), soft_wrap=True, highlight=False)
    if repository is not None:
        console.print(f"Pushed to [bold]{push(target, repository)}[/bold]")
    return target


def export_feedback(run_dir: Path, *, to: Path | None = None, repository: str | None = None, console: Console) -> Path:
    """Write what the reviewers said as a data set (`report.feedback_set`); returns its folder, by default ``feedback``
    in the run's own. Raises ConfigError where that holds something else, DataError for a run without programs."""
    if repository is not None:
        check_repository(repository)
    folder = _ours(to or run_dir / "feedback", "feedback")
    with _replacing(folder) as scratch:
        counts = write_feedback(read_run(run_dir), scratch)
        (scratch / MADE_HERE).write_text(json.dumps({"kind": "feedback", "rows": counts}, indent=2))
    rows = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    console.print(f"Feedback: [bold]{folder}[/bold] ({rows})", soft_wrap=True)
    if repository is not None:
        console.print(f"Pushed to [bold]{push(folder, repository, kind='dataset')}[/bold]")
    return folder


def _ours(folder: Path, kind: str) -> Path:
    """The folder's full path. Raises ConfigError where it holds what no export of this kind wrote."""
    folder = folder.absolute()
    if there := file_in_the_way(folder):
        raise ConfigError(f"{there} is a file: name a folder with --to")
    marker = folder / MADE_HERE
    if marker.exists():
        if json.loads(marker.read_text()).get("kind") != kind:
            raise ConfigError(f"{folder} already contains an export of another kind: name another folder with --to")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} already contains something else: name another folder with --to")
    return folder


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside the one that it takes the place of when the block ends well; else nothing is left of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        mask = os.umask(0)
        os.umask(mask)
        for path in (scratch, *scratch.rglob("*")):  # temporary folders, and safetensors' files, are for nobody else
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        _exchange(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _exchange(new: Path, folder: Path) -> None:
    """Rename; what stood there before is deleted only after that has worked."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(f"{new.name}-old")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(config: Config, checkpoint: Path, folder: Path, form: Form, dtype: Dtype, shard_size: str) -> float:
    """Write and read back; returns the largest difference to the learner's log-probs, in nats a token."""
    trained = read_trained(checkpoint)
    model = assemble(config.model, trained.weights)
    _check(model, trained.probe, EXACT[config.model.dtype], f"the weights of {checkpoint}")
    save(model, config.model, folder, form=form, dtype=dtype, shard_size=shard_size)
    del model  # the one that is read back takes its place in memory
    bound = EXACT["float32" if dtype == config.model.dtype == "float32" else "bfloat16"]
    return _check(load_saved(folder, config.model, form, dtype), trained.probe, bound, "the exported model")


def _check(model: Any, expected: np.ndarray, bound: float, what: str) -> float:
    gap = float(np.abs(plain_logprobs(model).numpy() - expected).max())
    if not gap <= bound:
        raise EngineError(
            f"{what} gives log-probs that differ from the learner's by {gap:.3g} nats a token (at most {bound:g}): "
            "has the base model changed since training?"
        )
    return gap


def public_settings(config: Config) -> dict[str, Any]:
    """The settings as they may be shown to others, as JSON can hold them: without places, addresses and commands."""
    settings: dict[str, Any] = json.loads(config.model_dump_json(exclude=PRIVATE))
    for group, name in (("model", "name"), ("problems", "source"), ("evaluation", "source")):
        settings[group][name] = without_place(settings[group][name])
    return settings


def _describe(run_dir: Path, config: Config, folder: Path, *, form: Form, dtype: Dtype, tag: str, gap: float) -> None:
    run = read_run(run_dir)
    (folder / "training_settings.json").write_text(json.dumps(public_settings(config), indent=2))
    facts = {"kind": "model", "checkpoint": tag, "form": form, "dtype": dtype, "largest_logprob_gap": gap}
    (folder / MADE_HERE).write_text(json.dumps(facts, indent=2))
    base = SMOLLM2_HUB_ID if config.model.name == "smollm2-135m" else without_place(config.model.name)
    if form == "adapter":
        adapter = folder / "adapter_config.json"
        facts_of_peft = json.loads(adapter.read_text())
        adapter.write_text(json.dumps({**facts_of_peft, "base_model_name_or_path": base}, indent=2))
    card = model_card(
        run, base=base, form=form, dtype=dtype, checkpoint=tag, round_=int(tag.removeprefix("step-")), gap=gap
    )
    (folder / "README.md").write_text(card)


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars and advice of the libraries stay out of the terminal."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # whoever imports deepspeed here is not told what it looked for
    from transformers.utils import logging as hf

    level = hf.get_verbosity()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    logging.getLogger("deepspeed").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(level)
        hf.enable_progress_bar()
