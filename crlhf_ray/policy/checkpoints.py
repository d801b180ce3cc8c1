"""Which checkpoint is the last whole one. A save that dies half-way leaves ``latest`` on the one before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from crlhf_ray.errors import DataError, EngineError

LATEST = "latest"
BEST = "best"
SHAPE = "shape.json"
#: The other files of a checkpoint and their sizes in bytes, written last.
FILES = "files.json"


def temporary_tag(step: int) -> str:
    return f"unfinished-{step:08d}"


def publish(directory: Path, step: int, shape: dict[str, int]) -> Path:
    """Give the whole checkpoint its final name, then flip ``latest`` to it, both atomically. Returns its folder.

    shape: the settings that a run must share to read it, see `check_shape`.
    """
    final = directory / f"step-{step:08d}"
    unfinished = directory / temporary_tag(step)
    (unfinished / SHAPE).write_text(json.dumps(shape))
    sizes = {path.name: path.stat().st_size for path in unfinished.iterdir()}
    (unfinished / FILES).write_text(json.dumps(sizes))
    if final.exists():
        shutil.rmtree(final)
    os.replace(directory / temporary_tag(step), final)
    point(directory, LATEST, final.name)
    return final


def point(directory: Path, name: str, tag: str) -> None:
    """Let ``name`` (LATEST or BEST) name the checkpoint ``tag``, atomically."""
    pointer = directory / f"{name}.new"
    with pointer.open("w") as file:
        file.write(tag)
        file.flush()
        os.fsync(file.fileno())
    os.replace(pointer, directory / name)


def damage(checkpoint: Path) -> str | None:
    """What is missing of a checkpoint, by its files' sizes; None where it is whole."""
    try:
        sizes = json.loads((checkpoint / FILES).read_text())
    except (OSError, ValueError):
        return f"it has no readable {FILES}"
    for name, size in sizes.items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            return f"{name} has {found:,} of {size:,} bytes"
    return None


def recover(directory: Path) -> str | None:
    """Let ``latest`` name the newest whole checkpoint; returns what was wrong where it did not, else None.

    Raises DataError where there are checkpoints and none is whole.
    """
    if not (directory / LATEST).exists():
        return None
    try:
        tag = latest_tag(directory)
        wrong = damage(directory / tag)
        if wrong is None:
            return None
        wrong = f"checkpoint {directory / tag} is damaged: {wrong}"
    except DataError as error:
        wrong = str(error)
    whole = [path.name for path in sorted(directory.glob("step-*")) if damage(path) is None]
    if not whole:
        raise DataError(f"{wrong}, and no other checkpoint is whole; start a new run", file=str(directory))
    point(directory, LATEST, whole[-1])
    return f"{wrong}. Going on from {whole[-1]}, the newest one that is whole"


def latest_tag(directory: Path) -> str:
    """The tag that ``latest`` names. Raises DataError when there is no whole checkpoint."""
    return named_tag(directory, LATEST)


def named_tag(directory: Path, name: str) -> str:
    """The tag of a checkpoint that is called LATEST, BEST or by its own tag. Raises DataError where it is not there."""
    kept = ", ".join(sorted(path.name for path in directory.glob("step-*"))) or "none"
    pointer = directory / name
    if pointer.is_dir() and name.startswith("step-"):
        return name
    if not pointer.is_file():
        raise DataError(f"no finished checkpoint here is called {name!r}; kept are: {kept}", file=str(directory))
    tag = pointer.read_text().strip()
    if not tag.startswith("step-") or not (directory / tag).is_dir():
        raise DataError(f"it names {tag!r}, which is not there; kept are: {kept}", file=str(pointer))
    return tag


def check_shape(checkpoint: Path, shape: dict[str, int]) -> None:
    """Raises EngineError when the checkpoint was written by another number of ranks or ZeRO stage: DeepSpeed's files
    are cut by both, and it would fail with no more than the name of a file."""
    for name, written in json.loads((checkpoint / SHAPE).read_text()).items():
        if written != shape[name]:
            raise EngineError(
                f"checkpoint {checkpoint} was written with learner.{name}={written}, this run has {shape[name]}: "
                "set it back, or convert with DeepSpeed's universal checkpoint"
            )


def prune(directory: Path, kept: int) -> None:
    """Delete all but the last ``kept`` checkpoints, and unfinished ones. The latest and the best always stay."""
    latest = latest_tag(directory)
    best = named_tag(directory, BEST) if (directory / BEST).exists() else latest
    finished = sorted(path for path in directory.glob("step-*") if path.name not in (latest, best))
    for path in [*finished[: max(len(finished) - kept + 1, 0)], *directory.glob("unfinished-*")]:
        shutil.rmtree(path)
