"""The Ray cluster that a command works on: quiet, and gone with the command where it was started by it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
import ray.data

#: Handed to every Ray worker: nothing phones home.
WORKER_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}

#: How long the processes of an ended cluster may take before they are killed.
LEAVING_SECONDS = 3.0


@contextmanager
def connect(address: str | None = None, **local: Any) -> Iterator[None]:
    """The named cluster, the one of RAY_ADDRESS, or one of this machine's own that ends with the block.

    Where Ray is initialised already that is used and left as it is. local: arguments of `ray.init` for a cluster
    that is started here.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own = psutil.Process()
    others = set(own.children(recursive=True))

    def children() -> set[psutil.Process]:
        """Those of a cluster that was started here."""
        return set() if address else set(own.children(recursive=True)) - others

    started: set[psutil.Process] = set()
    try:
        with _undisturbed():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
                **({} if address else {"include_dashboard": False, **local}),
            )
            started = children()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        # Those from the start as well: an agent whose raylet is gone is nobody's child, and lives on for a minute.
        started |= children()
        ray.shutdown()
        # Ray returns while workers are still ending: see them out, so that nothing outlives the command.
        _, stubborn = psutil.wait_procs(list(started), timeout=LEAVING_SECONDS)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=1)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the block's end: stopped in the middle of its start, Ray leaves processes behind.

    It also puts Python's handlers back in front of Ray's own, which prints a stack trace.
    """
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
