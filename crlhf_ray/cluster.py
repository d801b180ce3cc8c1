"""The Ray cluster that a command works on: quiet, and gone with the command where it was started by it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psutil
import ray
import ray.data
from ray._private import services
from ray.autoscaler.v2.sdk import get_cluster_status

from crlhf_ray.errors import ResourceError

#: Handed to every Ray worker: nothing phones home.
WORKER_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}

#: How long the processes of an ended cluster may take before they are killed.
LEAVING_SECONDS = 3.0

#: What Ray says where a node of its own is not up within the 30 s that it gives it, and how often one is started.
SLOW_START = "timed out during startup"
ATTEMPTS = 3


@contextmanager
def connect(address: str | None = None, **local: Any) -> Iterator[None]:
    """The named cluster, the one of RAY_ADDRESS, or one of this machine's own that ends with the block.

    Where Ray is initialised already that is used and left as it is. local: arguments of `ray.init` for a cluster
    that is started here. Raises ResourceError where none starts on a machine that is too busy.
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
        arguments = {} if address else {"include_dashboard": False, **local}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _undisturbed(), _apart():
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        runtime_env={"env_vars": WORKER_ENVIRONMENT},
                        **arguments,
                    )
                    started = children()
                break
            except Exception as error:
                if address or SLOW_START not in str(error):
                    raise
                _end(children())
                if attempt == ATTEMPTS:
                    raise ResourceError(
                        f"Ray did not start on this machine in {ATTEMPTS} attempts of 30 s each: the machine is too "
                        "busy. Stop whatever else is running and try again, or name a running cluster with RAY_ADDRESS"
                    ) from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        # Those from the start as well: an agent whose raylet is gone is nobody's child, and lives on for a minute.
        started |= children()
        ray.shutdown()
        # Ray returns while workers are still ending: see them out, so that nothing outlives the command.
        _, stubborn = psutil.wait_procs(list(started), timeout=LEAVING_SECONDS)
        _end(stubborn)


def _end(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=1)


@contextmanager
def _apart() -> Iterator[None]:
    """What Ray starts gets process groups of its own.

    `timeout`, among others, sends SIGTERM to the whole group of the command. It would end the cluster's processes while
    the command still needs them to end in order, and then waits for them in vain: a minute, a crash, workers left over.
    """
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


def lacking(bundle: Mapping[str, float], count: int) -> str:
    """What the cluster lacks, as it is now, of ``count`` bundles of resources: "6 CPU (the cluster has 4)"; "" if
    nothing. Only nodes that have come count, so post the demand before asking."""
    have = ray.cluster_resources()
    return ", ".join(
        f"{count * amount:g} {name} (the cluster has {have.get(name, 0.0):g})"
        for name, amount in bundle.items()
        if count * amount > have.get(name, 0.0)
    )


def autoscaler_says(asked: float) -> str:
    """The end of an error that names missing resources: what Ray's autoscaler says of nodes that are on their way or
    could not be had. "" where it says nothing, or, at 0 seconds, was not waited for."""
    found = _autoscaler_report() if asked else ""
    return f". The autoscaler says: {found}" if found else ""


def _autoscaler_report() -> str:
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except Exception as error:  # the report is a help, and its absence must not hide what it is to explain
        return f"its autoscaler could not be asked: {error}"
    coming = [f"{each.count} {each.ray_node_type_name} requested" for each in status.pending_launches]
    coming += [f"1 {node.ray_node_type_name} starting" for node in status.pending_nodes]
    failed = [f"{each.count} {each.ray_node_type_name} failed: {each.details}" for each in status.failed_launches]
    return "; ".join([*coming, *failed])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the block's end: stopped in the middle of its start, Ray leaves processes behind.

    It also puts Python's handlers back in front of Ray's own, which prints a stack trace.
    """
    came: list[signal.Signals] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(signal.Signals(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            if callable(handler := handlers[came[0]]):  # the command's own knows which signal it was
                handler(came[0], None)
            raise KeyboardInterrupt
