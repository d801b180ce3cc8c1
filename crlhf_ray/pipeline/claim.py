"""A run's folder belongs to one process at a time, and a run that goes on finds the inputs that it was begun with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.output import write_whole
from crlhf_ray.policy.model import PRESETS, folder_digest, resolve
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.samples import data_set_id

INPUTS = "inputs.json"
READ = "data_sets.json"


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this process alone.

    Raises ConfigError where it cannot be written to, or another process, which is named, has it.
    """
    owner = directory / "run.pid"
    lock = FileLock(directory / "run.lock", timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        owner.write_text(str(os.getpid()))
    except Timeout:
        raise ConfigError(
            f"{directory} is in use by process {owner.read_text() if owner.exists() else 'unknown'}: wait for it, "
            "end it, or name another run.dir"
        ) from None
    except OSError as error:
        raise ConfigError(f"run.dir={directory} cannot be written to: {error.strerror}; name another folder") from error
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def inputs(config: Config, train: Sequence[Problem]) -> dict[str, str]:
    """Hashes of what a run learns from, by the setting that names it: the training problems, and a local model."""
    found = {"problems.source": data_set_id(config.problems.source, train)["sha256"]}
    model = Path(resolve(config.model.name))
    if config.model.name not in PRESETS and model.is_dir():
        found["model.name"] = folder_digest(model)
    return found


def check_inputs(directory: Path, now: Mapping[str, str], named: Mapping[str, str]) -> None:
    """Write the hashes down, or compare them with those of the run that goes on.

    named: what each setting names, for the message. Raises ConfigError where the content has changed.
    """
    file = directory / INPUTS
    before = json.loads(file.read_text()) if file.exists() else {}
    for key, digest in now.items():
        if before.get(key, digest) != digest:
            raise ConfigError(
                f"{key}={named[key]} holds something else than when {directory} was begun (sha256 {digest[:12]}, then "
                f"{before[key][:12]}): put the old content back, or start a new run in another run.dir"
                f"{_pinned(directory, key)}"
            )
    write_whole(file, json.dumps(dict(now), indent=2))


def write_data_sets(directory: Path, config: Config, train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    """Write down what is trained on and what is measured on, as it was read: name, version, hash and number."""
    read = {
        "problems.source": (config.problems.source, train),
        "evaluation.source": (config.evaluation.source, heldout),
    }
    known = {key: data_set_id(source, used) | {"problems": len(used)} for key, (source, used) in read.items()}
    write_whole(directory / READ, json.dumps(known, indent=2))


def data_sets_read(directory: Path) -> dict[str, dict[str, Any]]:
    """By setting, what `write_data_sets` wrote when the run was last started; {} where it did not."""
    file = directory / READ
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _pinned(directory: Path, key: str) -> str:
    known = data_sets_read(directory).get(key, {})
    name, commit = known.get("name", ""), known.get("version", "").removeprefix("revision ")
    return f"; the earlier problems are {key}={name.partition('@')[0]}@{commit}" if "hub:" in name else ""
