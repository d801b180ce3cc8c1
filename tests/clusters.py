"""Ray clusters of a test's own: their ports, their environment, and how they are ended."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path

import psutil


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ray_environment(token: str) -> dict[str, str]:
    """The environment of a cluster's nodes and clients: a token, and nothing of another Ray."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def end_all_naming(folder: Path) -> None:
    """Kill every process that names the folder, a cluster's own, on its command line. `ray stop` would end every Ray
    on the machine."""
    for process in psutil.process_iter(["cmdline"]):
        named = any(str(folder) in part for part in process.info["cmdline"] or [])
        if named and process.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):
                process.kill()
