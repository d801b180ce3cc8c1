"""Control groups for a slot where the machine lets us make them: a bound on memory and processes of a whole slot."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


PREFIX = "crlhf-"


def sweep() -> None:
    """Remove empty groups of sandboxes that are no more: one that was killed could not."""
    for folder in (ROOT, ROOT / "memory", ROOT / "pids"):
        for path in folder.glob(f"{PREFIX}*-*"):
            pid = path.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    path.rmdir()


def create(name: str, memory_bytes: int, processes: int) -> tuple[Path, ...]:
    """Groups for the slot called ``name``, in version 1 or 2, or none where that is not allowed."""
    if (ROOT / "cgroup.controllers").exists():
        layout = [(ROOT / name, {"memory.max": memory_bytes, "memory.swap.max": 0, "pids.max": processes})]
    else:
        layout = [
            (ROOT / "memory" / name, {"memory.limit_in_bytes": memory_bytes}),
            (ROOT / "pids" / name, {"pids.max": processes}),
        ]
    made: list[Path] = []
    for path, limits in layout:
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            for file, value in limits.items():
                if file != "memory.swap.max" or (path / file).exists():
                    (path / file).write_text(str(value))
            made.append(path)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
    return tuple(made)


def oom_kills(groups: tuple[Path, ...]) -> int:
    """Processes of the groups that the kernel has ended so far because the group had no memory left."""
    count = 0
    for path in groups:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with contextlib.suppress(OSError):
                for line in (path / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        count += int(line.split()[1])
    return count


def remove(groups: tuple[Path, ...]) -> None:
    """Remove the groups; waits a moment for their last process to be gone."""
    for path in groups:
        for _ in range(100):
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
