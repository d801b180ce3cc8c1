"""A PostgreSQL server of one's own, in a temporary folder, for tests and benchmarks."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def tools() -> Path | None:
    """The folder with PostgreSQL's programs, of its newest version; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    elsewhere = shutil.which("initdb")
    return found[-1].parent if found else Path(elsewhere).parent if elsewhere else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def own_server(programs: Path) -> Iterator[str]:
    """SQLAlchemy's URL of a server that lives as long as the block, without a database's name. programs: `tools`."""
    root = os.geteuid() == 0  # PostgreSQL refuses to run as root
    user = "postgres" if root else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if root:
        shutil.chown(folder, user)

    def run(*command: str | Path) -> None:
        subprocess.run(["runuser", "-u", user, "--", *command] if root else command, check=True, capture_output=True)

    port, data = free_port(), folder / "data"
    run(programs / "initdb", "-D", data, "-A", "trust", "-U", "crlhf")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=150"
    run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://crlhf@127.0.0.1:{port}"
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def new_database(server: str) -> str:
    """URL of a new, empty database on a server."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"
