"""Judging on a Ray cluster: a pool of judge actors that grows with its queue, and a Ray Data operator."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from crlhf_ray.asking import own_error
from crlhf_ray.errors import EngineError
from crlhf_ray.evaluation.judge import Judge
from crlhf_ray.evaluation.limits import JudgeSettings, PoolSettings
from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    from ray.data import Dataset


class JudgePool:
    """Judges as Ray actors, with the same `check` as `Judge`. Ray must be initialised.

    A chunk whose actor died is given to another one, so no result is lost; a program is tried ``judge.attempts`` times
    at most, then it gets an `infra_error`.
    """

    def __init__(self, settings: PoolSettings | None = None, judge: JudgeSettings | None = None):
        self.settings = settings or PoolSettings()
        self.judge = judge or JudgeSettings(slots=1)
        self._actors: list[Any] = []
        self._cpus = self.settings.cpus_per_slot * self.judge.slots
        for _ in range(self.settings.minimum):
            self._grow()

    def __enter__(self) -> JudgePool:
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

    def check(self, jobs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict per (problem, completion), in the order of the jobs.

        Raises EngineError where no actor can start, or where none answers within ``wait_seconds``.
        """
        size = self.settings.chunk
        verdicts: list[Verdict | None] = [None] * len(jobs)
        queue = deque((start, 1) for start in range(0, len(jobs), size))
        flying: dict[Any, tuple[Any, int, int]] = {}  # reference -> actor, start, attempt
        while queue or flying:
            while queue and (actor := self._free(flying)) is not None:
                start, attempt = queue.popleft()
                flying[actor.check.remote(jobs[start : start + size])] = (actor, start, attempt)
            done, _ = ray.wait(list(flying), timeout=self.settings.wait_seconds)
            if not done:
                waiting = sorted({str(actor) for actor, _, _ in flying.values()})
                raise EngineError(f"no judge answered within {self.settings.wait_seconds:g} s: {', '.join(waiting)}")
            actor, start, attempt = flying.pop(done[0])
            try:
                verdicts[start : start + size] = ray.get(done[0])
            except (RayActorError, GetTimeoutError) as error:
                self._drop(actor)
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    # Its sandbox cannot start, and would not at another attempt.
                    raise EngineError(f"a judge could not start: {own_error(error) or error}") from None
                if attempt < self.judge.attempts:
                    queue.appendleft((start, attempt + 1))
                else:
                    detail = f"its judge died {attempt} times: {error}"[:300]
                    lost = Verdict("infra_error", detail=detail, isolation=self.judge.isolation)
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
        if not self._actors and ray.cluster_resources().get("CPU", 0) < self._cpus:
            raise EngineError(
                f"a judge needs {self._cpus:g} CPU, and the cluster has {ray.cluster_resources().get('CPU', 0):g}: "
                "lower judge.slots or judges.cpus_per_slot, or add a node"
            )
        actor = ray.remote(Judge).options(num_cpus=self._cpus, scheduling_strategy="SPREAD").remote(self.judge)
        self._actors.append(actor)
        return actor

    def _drop(self, actor: Any) -> None:
        if actor in self._actors:
            self._actors.remove(actor)
            ray.kill(actor)

    def _shrink(self) -> None:
        while len(self._actors) > self.settings.minimum:
            ray.kill(self._actors.pop())


class JudgeBatches:
    """Judges batches of a Ray Dataset: columns ``task_id`` and ``completion`` in, the verdict's columns added.

    Use it by `judge_dataset`, or as ``dataset.map_batches(JudgeBatches, fn_constructor_args=(problems,), ...)``.
    """

    def __init__(self, problems: Sequence[Problem] | str, judge: JudgeSettings | None = None):
        found = load_problems(problems) if isinstance(problems, str) else problems
        self.problems = {problem.problem_id: problem for problem in found}
        self.judge = Judge(judge or JudgeSettings(slots=1))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        import numpy as np

        jobs = [
            (self.problems[str(task)], str(completion))
            for task, completion in zip(batch["task_id"], batch["completion"], strict=True)
        ]
        verdicts = [asdict(verdict) for verdict in self.judge.check(jobs)]
        columns = {name: np.array([verdict[name] for verdict in verdicts]) for name in ("status", "detail", "output")}
        columns["failing_test"] = np.array([-1 if v["failing_test"] is None else v["failing_test"] for v in verdicts])
        for name in ("cpu_seconds", "memory_mb", "isolation"):
            columns[name] = np.array([verdict[name] for verdict in verdicts])
        return {**batch, **columns, "passed": columns["status"] == "passed"}

    def __del__(self) -> None:
        if hasattr(self, "judge"):
            self.judge.close()


def judge_dataset(
    dataset: Dataset,
    problems: Sequence[Problem] | str,
    *,
    judge: JudgeSettings | None = None,
    minimum: int = 1,
    maximum: int = 2,
    batch: int = 64,
) -> Dataset:
    """Add verdicts to a dataset of samples (``task_id``, ``completion``), lazily, on an actor pool that scales.

    problems: the problems, or a source that every node can load. ``failing_test`` is -1 where no test failed. What is
    in flight is bounded by Ray Data's own back-pressure.
    """
    from ray.data import ActorPoolStrategy

    settings = judge or JudgeSettings(slots=1)
    return dataset.map_batches(
        JudgeBatches,
        fn_constructor_args=(problems, settings),
        compute=ActorPoolStrategy(min_size=minimum, max_size=maximum),
        batch_size=batch,
        batch_format="numpy",
        num_cpus=settings.slots,
    )
