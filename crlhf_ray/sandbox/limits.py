"""What one program may use, and how many are checked at once."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from crlhf_ray.settings import Settings


class Limits(Settings):
    """What one program may use."""

    cpu_seconds: float = Field(default=5.0, gt=0)
    """CPU seconds of a program and all that it starts together, rounded up to whole ones. Functions have one process
    for all their calls, scripts one for each test; comparing the answers of all may take as much. CPU and not wall
    clock, so that a busy machine changes no verdict."""
    wall_seconds: float | None = Field(default=None, gt=0)
    """Seconds of wall clock before the program is stopped, for programs that sleep. None: 20 and twice the CPU seconds,
    times the processes that wait for each core of the machine as the program starts."""
    memory_mb: int = Field(default=512, ge=1)
    """MiB of address space of a process beyond the bare interpreter's, and of memory of all its processes together:
    stops growth before the machine swaps."""
    file_mb: int = Field(default=8, ge=1)
    """MiB for the largest file, standard output included: stops output floods."""
    disk_mb: int = Field(default=16, ge=1)
    """MiB for all files in the program's private temporary folder, which lives in memory."""
    processes: int = Field(default=40, ge=1)
    """Processes and threads of one slot at a time: enough for Python's largest default thread pool (32), too few for a
    fork storm."""
    output_kb: int = Field(default=16, ge=0)
    """KiB of captured output kept in the verdict; the rest is dropped."""

    def wall(self) -> float:
        """Seconds of wall clock that a program has which starts now."""
        if self.wall_seconds is not None:
            return self.wall_seconds
        return (20 + 2 * self.cpu_seconds) * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

    def from_now(self) -> Limits:
        """The same, with the wall clock of a program that starts now."""
        return self.model_copy(update={"wall_seconds": self.wall()})


class SandboxSettings(Settings):
    """How the sandbox runs."""

    limits: Limits = Limits()
    """What one program may use."""
    slots: int = Field(default=2, ge=1)
    """Programs checked at the same time; about one per core."""
    isolation: Literal["jailed", "weak"] = "jailed"
    """`jailed` refuses to run where the machine forbids a part of the jail. `weak` has resource limits only, for
    trusted programs on such a machine; every verdict then says so."""
    attempts: int = Field(default=3, ge=1)
    """Times that a program is tried when its slot is lost, before the verdict is `infra_error`."""


class SandboxPoolSettings(Settings):
    """How many sandboxes a cluster runs, and how work is handed to them."""

    minimum: int = Field(default=1, ge=1)
    """Actors kept warm when there is nothing to do."""
    maximum: int = Field(default=1, ge=1)
    """Most actors at a time, each with `sandbox.slots` slots; fewer run where the cluster has fewer CPUs."""
    cpus_per_slot: float = Field(default=0.0, ge=0)
    """Ray CPUs reserved for a slot. 0 where checking takes turns with sampling and learning on the same cores; 1 on a
    cluster, so that sandboxes spread over nodes which have cores to spare."""
    chunk: int = Field(default=32, ge=1)
    """Programs in one call: enough to hide the call, few enough to share the work out evenly."""
    ahead: int = Field(default=2, ge=1)
    """Calls waiting at one actor. What waits beyond that stays with the caller, so that memory does not grow."""
    resources_seconds: float = Field(default=0.0, ge=0)
    """How long an autoscaler may take, beyond wait_seconds, to bring a node for the first sandbox. 0: there is no
    autoscaler, and what does not fit is refused at once."""
    wait_seconds: float = Field(default=600.0, gt=0)
    """Longest wait for any call to come back before the pool gives up and names the actors that it waits for."""
