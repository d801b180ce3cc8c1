"""How a process joins DeepSpeed's group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def join_group(*, cuda: bool, timeout_seconds: float) -> Any:
    """Join DeepSpeed's process group as the environment's RANK says; returns the deepspeed module."""
    import deepspeed

    # On CPU DeepSpeed compiles a shared-memory collective when it joins a group: a minute, and an error where there
    # is no compiler or ninja. gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, timeout=timedelta(seconds=timeout_seconds)
    )
    return deepspeed
