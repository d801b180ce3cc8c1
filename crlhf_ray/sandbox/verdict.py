"""`Verdict`: what the sandbox says of one program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "wrong", "error", "timeout", "out_of_memory", "killed", "infra_error"]


@dataclass(frozen=True)
class Verdict:
    """status: an `infra_error` says nothing about the program: it is retried and never scored as 0.

    failing_test: index of the first failing test; None where none ran or all passed.
    detail: one line for a person, such as the exception.
    memory_mb: the largest resident size, in MiB.
    output: what the program printed, capped.
    memory_by: what bounds the memory of all its processes together: a control group, or a look at them now and then.
    isolation: "jailed", or "weak" where the sandbox was told to run without a jail.
    """

    status: Status
    failing_test: int | None = None
    detail: str = ""
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    output: str = ""
    isolation: str = field(kw_only=True)
    memory_by: Literal["control group", "watch"] = field(default="watch", kw_only=True)

    @property
    def passed(self) -> bool:
        return self.status == "passed"
