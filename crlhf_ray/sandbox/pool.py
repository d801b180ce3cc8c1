"""Sandboxes on a Ray cluster: a pool of actors that grows with its queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from crlhf_ray.actors import own_error
from crlhf_ray.cluster import autoscaler_says, lacking
from crlhf_ray.errors import EngineError, ResourceError
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.limits import SandboxPoolSettings, SandboxSettings
from crlhf_ray.sandbox.sandbox import Sandbox
from crlhf_ray.sandbox.verdict import Verdict


class SandboxPool:
    """Sandboxes as Ray actors, with the same `check` as `Sandbox`. Ray must be initialised.

    A chunk whose actor died is given to another one, so no result is lost; a program is tried ``sandbox.attempts``
    times at most, then it gets an `infra_error`.
    """

    def __init__(self, settings: SandboxPoolSettings | None = None, sandbox: SandboxSettings | None = None):
        self.settings = settings or SandboxPoolSettings()
        self.sandbox = sandbox or SandboxSettings(slots=1)
        self._actors: list[Any] = []
        self._cpus = self.settings.cpus_per_slot * self.sandbox.slots
        for _ in range(self.settings.minimum):
            self._grow()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Actors that there are now."""
        return len(self._actors)

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def check(
        self, jobs: Sequence[tuple[Problem, str]], each: Callable[[int, Verdict], None] = lambda index, verdict: None
    ) -> list[Verdict]:
        """One verdict per (problem, completion), in the order of the jobs. each: as `Sandbox.check` has it.

        Raises ResourceError where no actor has room, and EngineError where none can start or answers in time.
        """
        size = self.settings.chunk
        verdicts: list[Verdict | None] = [None] * len(jobs)
        queue = deque((start, 1) for start in range(0, len(jobs), size))
        flying: dict[Any, tuple[Any, int, int]] = {}  # reference -> actor, start, attempt
        while queue or flying:
            while queue and (actor := self._free(flying)) is not None:
                start, attempt = queue.popleft()
                flying[actor.check.remote(jobs[start : start + size])] = (actor, start, attempt)
            patience = self.settings.wait_seconds + self.settings.resources_seconds
            done, _ = ray.wait(list(flying), timeout=patience)
            if not done:
                if lacks := lacking({"CPU": self._cpus}, 1):
                    raise ResourceError(self._no_room(lacks))
                waiting = sorted({str(actor) for actor, _, _ in flying.values()})
                raise EngineError(f"no sandbox answered within {patience:g} s: {', '.join(waiting)}")
            actor, start, attempt = flying.pop(done[0])
            try:
                found = ray.get(done[0])
                verdicts[start : start + size] = found
                for index, verdict in enumerate(found, start):
                    each(index, verdict)
            except (RayActorError, GetTimeoutError) as error:
                self._drop(actor)
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    # Its sandbox cannot start, and would not at another attempt.
                    raise EngineError(f"a sandbox could not start: {own_error(error) or error}") from None
                if attempt < self.sandbox.attempts:
                    queue.appendleft((start, attempt + 1))
                else:
                    detail = f"its sandbox died {attempt} times: {error}"[:300]
                    lost = Verdict("infra_error", detail=detail, isolation=self.sandbox.isolation)
                    verdicts[start : start + size] = [lost] * len(jobs[start : start + size])
        self._shrink()
        return [verdict for verdict in verdicts if verdict is not None]

    def _free(self, flying: dict[Any, tuple[Any, int, int]]) -> Any:
        """An actor that may take another call; a new one where all are busy and there is room."""
        load = dict.fromkeys(self._actors, 0)
        for actor, _, _ in flying.values():
            if actor in load:
                load[actor] += 1
        if load and min(load.values()) == 0:
            return min(load, key=load.__getitem__)
        cpus = ray.available_resources().get("CPU", 0)
        if not load or (len(load) < self.settings.maximum and cpus >= self._cpus):
            return self._grow()
        least = min(load, key=load.__getitem__)
        return least if load[least] < self.settings.ahead else None

    def _grow(self) -> Any:
        actor = ray.remote(Sandbox).options(num_cpus=self._cpus, scheduling_strategy="SPREAD").remote(self.sandbox)
        self._actors.append(actor)
        alone = len(self._actors) == 1 and not self.settings.resources_seconds
        if alone and (lacks := lacking({"CPU": self._cpus}, 1)):
            self.close()
            raise ResourceError(self._no_room(lacks))
        return actor

    def _no_room(self, lacks: str) -> str:
        return (
            f"a sandbox needs {lacks}: lower sandbox.slots or sandbox_pool.cpus_per_slot, add a node, or set "
            "sandbox_pool.resources_seconds where an autoscaler adds them"
            + autoscaler_says(self.settings.resources_seconds)
        )

    def _drop(self, actor: Any) -> None:
        if actor in self._actors:
            self._actors.remove(actor)
            ray.kill(actor)

    def _shrink(self) -> None:
        while len(self._actors) > self.settings.minimum:
            ray.kill(self._actors.pop())
