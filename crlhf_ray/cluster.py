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
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
        **({} if address else {"include_dashboard": False, **local}),
    )
    try:
        # Ray's own handler prints a stack trace before Python's: put Python's back in front.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        started = [] if address else psutil.Process().children(recursive=True)
        ray.shutdown()
        # Ray returns while workers are still ending: see them out, so that nothing outlives the command.
        _, stubborn = psutil.wait_procs(started, timeout=LEAVING_SECONDS)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=1)
