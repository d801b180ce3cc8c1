"""Where output goes: what a process prints, files that are whole or not there, folders to be made."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def print_to(file: Path | str) -> None:
    """Send everything that this process prints from now on, its C libraries too, to the end of a file."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def write_whole(file: Path, text: str) -> None:
    """Write a file of text, in the place of an older one: whoever reads meanwhile has the one or the other."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def file_in_the_way(folder: Path) -> Path | None:
    """The file that keeps a folder from being made: in its own place, or above it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return None if there.is_dir() else there
