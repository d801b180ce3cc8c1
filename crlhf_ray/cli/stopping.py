"""How a command ends: by itself, by an error in one red message, or stopped by Ctrl-C or SIGTERM."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from rich.text import Text

from crlhf_ray.cli.app import app, errors
from crlhf_ray.errors import CrlhfError

#: What typer makes of a KeyboardInterrupt.
INTERRUPTED = 130
_CHECKPOINT = "Continue from the last checkpoint with the same command and --resume."
_SAME_COMMAND = "What was measured is kept; the same command continues from there."
#: After a stop: how a command continues, where it can.
CONTINUES = {
    "train": _CHECKPOINT,
    "sft": _CHECKPOINT,
    "judge-train": _CHECKPOINT,
    "study": _SAME_COMMAND,
    "evaluate": _SAME_COMMAND,
}
#: What a disk says that is full or read-only.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}

_terminated = False


def stopped(advice: str) -> NoReturn:
    """End after Ctrl-C or SIGTERM, when all has been closed; the exit code is 128 and the signal, as shells have it."""
    by = " by SIGTERM" if _terminated else ""
    errors.print(f"[yellow]Stopped{by}.[/yellow] {advice}".rstrip())
    # All is ended by now but Ray's threads, and Python's way out would take their memory from under them.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(128 + signal.SIGTERM if _terminated else INTERRUPTED)


def _terminate(signum: int, frame: FrameType | None) -> None:
    """SIGTERM, which Kubernetes, systemd, `timeout` and `ray job stop` send, takes the way of Ctrl-C."""
    global _terminated
    _terminated = True
    signal.signal(signum, signal.SIG_IGN)  # `timeout` sends it twice: the second must not cut the first one's way out
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: turns the package's errors into one red message, and SIGTERM into a clean stop."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.path.append(os.getcwd())  # parts of one's own; Ray's workers look there too
    try:
        app()
    except CrlhfError as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror}{where}: make room there, or name another folder. What was written before is intact; "
        errors.print(Text.assemble(("error: ", "bold red"), text, "a training run continues with --resume"))
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            stopped(CONTINUES.get(next(iter(sys.argv[1:]), ""), ""))
        raise
