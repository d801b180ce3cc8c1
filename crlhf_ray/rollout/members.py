"""The replicas that there are: asked for, loading, alive, buried. Ray actors behind `Health`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from crlhf_ray.actors import own_error
from crlhf_ray.cluster import autoscaler_says, lacking
from crlhf_ray.errors import ConfigError, TransferError
from crlhf_ray.policy.model import ModelSettings
from crlhf_ray.rollout.health import Health
from crlhf_ray.rollout.replica import Replica
from crlhf_ray.rollout.settings import RolloutSettings

#: vLLM compiles one comparison of its log-prob code for each of several batch sizes, which takes longer than it saves.
CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}

#: A call that only answers "here I am" takes milliseconds; a replica that needs longer is hung.
ANSWER_SECONDS = 60.0


class Members:
    """The fleet's replicas by id. on_loss: called with the id of one that is never used again."""

    def __init__(
        self, settings: RolloutSettings, model: ModelSettings, log_dir: Path | None, on_loss: Callable[[str], None]
    ):
        self.settings, self.model, self.log_dir, self._on_loss = settings, model, log_dir, on_loss
        self.health = Health(settings.replicas)
        self.actors: dict[str, Any] = {}
        self._loading: dict[str, tuple[Any, float]] = {}  # replica: its first answer, and when it is given up

    def fill(self) -> None:
        """Ask for a replica in every empty slot; `arrive` tells when they have loaded."""
        given_up = time.monotonic() + self.settings.start_seconds + self.settings.resources_seconds
        for replica in self.health.fill():
            self.actors[replica] = self.actor(replica)
            self._loading[replica] = (self.actors[replica].pid.remote(), given_up)

    def arrive(self, seconds: float) -> dict[str, str]:
        """Take note of replicas that have loaded, waiting so long for the first; those that failed, with the reason."""
        references = {replica: reference for replica, (reference, _) in self._loading.items()}
        if not references:
            return {}
        ray.wait(list(references.values()), num_returns=1, timeout=seconds)
        waiting = unready(references, 0.0)
        failures: dict[str, str] = {}
        for replica, reference in references.items():
            given_up = self._loading[replica][1]
            try:
                if replica not in waiting:
                    ray.get(reference)
                    self.health.loaded(replica)
                elif time.monotonic() < given_up:
                    continue
                else:
                    raise TimeoutError(f"did not load in time{self._reasons()}")
            except (RayError, TimeoutError) as error:
                failures[replica] = why_of(error)
                self.bury(replica, failures[replica])
            self._loading.pop(replica, None)
        return failures

    def answers(self, refs: Mapping[str, Any], seconds: float) -> dict[str, str | None]:
        """Wait for one answer a replica; what went wrong with each, or None. Replicas that failed are buried."""
        late = unready(refs, seconds)
        answers: dict[str, str | None] = {}
        for replica, ref in refs.items():
            try:
                if replica in late:
                    raise TimeoutError(f"did not answer within {seconds:g} s")
                ray.get(ref)
                answers[replica] = None
            except (RayError, TimeoutError) as error:
                answers[replica] = why_of(error)
                self.bury(replica, why_of(error))
        return answers

    def meet(self, ranks: Sequence[Any], replicas: Mapping[str, Any], seconds: float) -> None:
        """Wait for both sides of a rendezvous or a transfer; buries replicas that failed on either side.

        Raises TransferError when a learner rank failed: then nothing can be sent to anyone.
        """
        failures = self.answers(replicas, seconds)
        labelled = {f"learner rank {rank}": ref for rank, ref in enumerate(ranks)}
        late = unready(labelled, ANSWER_SECONDS)
        if late:
            raise TransferError(f"{', '.join(late)} did not end the transfer {ANSWER_SECONDS:g} s after the replicas")
        for label, ref in labelled.items():
            try:
                answer = ray.get(ref)
            except RayError as error:
                raise TransferError(f"{label} failed in a weight transfer: {why_of(error)}") from error
            for replica, why in (answer or {}).items():
                if failures.get(replica) is None:
                    self.bury(replica, why)

    def actor(self, replica: str) -> Any:
        """Ask Ray for the replica's process."""
        settings = self.settings
        threads = settings.threads or max(1, len(os.sched_getaffinity(0)) // settings.tensor_parallel)
        environment = {"OMP_NUM_THREADS": str(threads)}
        if not settings.gpus_per_replica:
            environment |= CPU_ENVIRONMENT
        options = ray.remote(Replica).options(
            num_cpus=settings.cpus_per_replica,
            num_gpus=settings.gpus_per_replica,
            resources=settings.resources,
            max_concurrency=2,  # `add` and `receive` beside `draw`
            max_restarts=0,  # a restarted actor would be stale; the fleet replaces it and syncs
            runtime_env={"env_vars": environment},
        )
        file = self._log_file(replica)
        return options.remote(replica, settings, self.model, str(file) if file else None)

    def bury(self, replica: str, why: str) -> None:
        """Never use the replica again, and free what it holds."""
        self.health.died(replica, why)
        self._on_loss(replica)
        self._loading.pop(replica, None)
        actor = self.actors.pop(replica, None)
        if actor is not None and ray.is_initialized():
            ray.kill(actor)

    def leaving(self) -> list[str]:
        """Replicas that have no slot any more, and are there still."""
        return [replica for replica in self.actors if replica not in self.health]

    def bundle(self) -> dict[str, float]:
        """What one replica reserves."""
        settings = self.settings
        return {"CPU": settings.cpus_per_replica, "GPU": settings.gpus_per_replica, **settings.resources}

    def lacks(self, replicas: int) -> str:
        """What the cluster lacks of what so many replicas need; "" if nothing."""
        return lacking(self.bundle(), replicas)

    def no_room(self, replicas: int) -> str:
        """An error's text: what the cluster lacks of what so many replicas need."""
        setting = "rollout.replicas" if self.settings.autoscale is None else "rollout.autoscale.most"
        return (
            f"{replicas} rollout replicas need {self.lacks(replicas)}; lower {setting} or the reservation a "
            "replica, add nodes, or set rollout.resources_seconds where an autoscaler adds them"
            + autoscaler_says(self.settings.resources_seconds)
        )

    def _reasons(self) -> str:
        lacks = self.lacks(self.health.slots)
        return (f"; {self.health.slots} replicas need {lacks}" if lacks else "") + autoscaler_says(
            self.settings.resources_seconds
        )

    def log_hint(self, replica: str) -> str:
        """Where to read what the replica had to say."""
        file = self._log_file(replica)
        return f" (log: {file})" if file else ""

    def _log_file(self, replica: str) -> Path | None:
        return self.log_dir / f"replica-{replica}.log" if self.log_dir is not None else None

    def deaths(self) -> str:
        """Every replica that was buried, and why."""
        return "; ".join(f"replica {replica} {why}" for replica, why in self.health.deaths.items()) or "none is alive"


def unready(refs: Mapping[str, Any], seconds: float) -> list[str]:
    """The labels whose references are not ready after so many seconds."""
    if not refs:
        return []
    _, missing = ray.wait(list(refs.values()), num_returns=len(refs), timeout=seconds)
    return [label for label, ref in refs.items() if ref in missing]


def why_of(error: BaseException) -> str:
    """One line that says why, without Ray's traceback. A ConfigError is raised: another replica would say the same."""
    own = own_error(error)
    if isinstance(own, ConfigError):
        raise own
    if own is not None:
        return str(own)
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return str(error).strip().splitlines()[-1]  # of the traceback of its constructor
    if isinstance(error, RayActorError):
        return "died: its process is gone (killed, or out of memory)"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
