"""What is to be drawn, and which replica draws what. Pure: no Ray, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from crlhf_ray.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """``n`` completions of one problem's prompt; each ends before the first of ``stops``."""

    problem_id: str
    prompt_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    n: int


@dataclass(frozen=True)
class Task:
    """One completion to draw. position: its place in the result; seed: of its own random generator."""

    position: int
    sample_id: str
    problem_id: str
    prompt_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    seed: int


def tasks_of(requests: Sequence[Request], *, seed: int, tag: str, longest_prompt: int) -> list[Task]:
    """All completions of ``requests`` in order; ids are ``{tag}-{problem_id}-{i}``.

    A task's seed hangs on the run's seed and the sample's id alone, so a sample does not depend on how many replicas
    there are or what else they draw.

    Raises ConfigError for a prompt longer than ``longest_prompt`` tokens, an empty one, and a problem asked for twice.
    """
    tasks: list[Task] = []
    seen: set[str] = set()
    for request in requests:
        length = len(request.prompt_token_ids)
        if not 0 < length <= longest_prompt:
            raise ConfigError(
                f"problem {request.problem_id!r}: the prompt has {length} tokens, allowed are 1 to {longest_prompt} "
                "(rollout.context less rollout.max_tokens); raise rollout.context or leave the problem out"
            )
        if request.problem_id in seen:
            raise ConfigError(
                f"problem {request.problem_id!r} is requested twice, so its sample ids would collide; raise n instead"
            )
        seen.add(request.problem_id)
        for i in range(request.n):
            sample_id = f"{tag}-{request.problem_id}-{i}" if tag else f"{request.problem_id}-{i}"
            tasks.append(
                Task(
                    position=len(tasks),
                    sample_id=sample_id,
                    problem_id=request.problem_id,
                    prompt_token_ids=tuple(request.prompt_token_ids),
                    stops=tuple(request.stops),
                    seed=sample_seed(seed, sample_id),
                )
            )
    return tasks


def sample_seed(seed: int, sample_id: str) -> int:
    """The seed of one sample's generator: 63 bits of a hash of the run's seed and the sample's id."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=8).digest(), "big") >> 1


def split(tasks: Sequence[Task], replicas: Sequence[str]) -> dict[str, list[Task]]:
    """Consecutive, nearly equal shares, one a replica; replicas beyond the number of tasks get none.

    Consecutive, because tasks of one problem share a prompt and so a cached prefix.
    """
    count = min(len(replicas), len(tasks))
    bounds = [len(tasks) * k // count for k in range(count + 1)] if count else []
    return {replica: list(tasks[bounds[k] : bounds[k + 1]]) for k, replica in enumerate(replicas[:count])}
