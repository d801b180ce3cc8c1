"""Where a process's output goes."""

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
