"""What is to be drawn, and which replica draws what. Pure: no Ray, no clock."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

from crlhf_ray.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """``n`` completions of one problem's prompt; each ends before the first of ``stops``."""

    problem_id: str
    prompt_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    n: int


@dataclass(frozen=True)
class Sampling:
    """What completions are drawn by. max_tokens: of one completion."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Task:
    """One completion to draw. seed: of its own random generator."""

    sample_id: str
    problem_id: str
    prompt_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    seed: int
    sampling: Sampling


def tasks_of(
    requests: Sequence[Request], sampling: Sampling, *, seed: int, tag: str, longest_prompt: int
) -> list[Task]:
    """All completions of ``requests`` in order; ids are ``{tag}-{problem_id}-{i}``.

    A task's seed depends on the run's seed and the sample's id alone, so a sample does not depend on how many replicas
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
                    sample_id=sample_id,
                    problem_id=request.problem_id,
                    prompt_token_ids=tuple(request.prompt_token_ids),
                    stops=tuple(request.stops),
                    seed=sample_seed(seed, sample_id),
                    sampling=sampling,
                )
            )
    return tasks


def sample_seed(seed: int, sample_id: str) -> int:
    """The seed of one sample's generator: 63 bits of a hash of the run's seed and the sample's id."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=8).digest(), "big") >> 1


class Drawing:
    """What waits to be drawn, and who draws what. Every task that was added is in one of the two until it is done."""

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self._at: dict[str, dict[str, Task]] = {}

    def __len__(self) -> int:
        """Tasks that are not done."""
        return len(self.waiting) + sum(map(len, self._at.values()))

    def busy(self) -> list[str]:
        """The replicas that are drawing."""
        return [replica for replica, tasks in self._at.items() if tasks]

    def load(self, replica: str) -> int:
        """Tasks that the replica is drawing."""
        return len(self._at.get(replica, ()))

    def add(self, tasks: Sequence[Task]) -> None:
        """Put tasks at the end of the queue."""
        self.waiting.extend(tasks)

    def withdraw(self, sample_ids: Collection[str]) -> None:
        """Take tasks out of the queue; those that are being drawn stay."""
        self.waiting = deque(task for task in self.waiting if task.sample_id not in sample_ids)

    def hand_out(self, replicas: Sequence[str], window: int) -> dict[str, list[Task]]:
        """Level the replicas' loads with what waits, at most ``window`` tasks each; what each gets in addition.

        Consecutive tasks go to one replica, because those of one problem share a prompt and so a cached prefix.
        """
        given: dict[str, list[Task]] = {}
        loads = {replica: self.load(replica) for replica in replicas}
        for place, replica in enumerate(replicas):
            level = ceil(
                (len(self.waiting) + sum(loads[other] for other in replicas[place:])) / (len(replicas) - place)
            )
            count = min(level, window) - loads[replica]
            if tasks := [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]:
                given[replica] = tasks
                self._at.setdefault(replica, {}).update({task.sample_id: task for task in tasks})
        return given

    def done(self, replica: str, sample_id: str) -> None:
        """The replica has drawn the task."""
        self._at[replica].pop(sample_id, None)

    def lost(self, replica: str) -> None:
        """The replica is gone: what it was drawing waits again, before everything else."""
        self.waiting.extendleft(reversed(self._at.pop(replica, {}).values()))
