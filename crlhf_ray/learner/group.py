"""The learner's ranks as Ray actors in one placement group. All ranks are called alike; every wait is bounded.

The driver sleeps in `update` until the last rank answers; ranks wait for each other in DeepSpeed's collectives. A rank
that dies or stays silent ends the call with an error that names it and its log file.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from crlhf_ray.cluster import autoscaler_says, lacking
from crlhf_ray.errors import CrlhfError, EngineError, ResourceError
from crlhf_ray.learner.batching import Experience
from crlhf_ray.learner.settings import KLSettings, LearnerSettings
from crlhf_ray.learner.worker import LearnerWorker
from crlhf_ray.policy.checkpoints import check_shape, latest_tag, prune, publish, temporary_tag
from crlhf_ray.policy.model import ModelSettings
from crlhf_ray.rollout.weights import TransferSpec

__all__ = ["Experience", "KLSettings", "LearnerGroup", "LearnerSettings"]

#: glibc hands large arrays back to the kernel and faults them in again on every use; keeping them saves that.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}

#: After a rank failed, how long to wait for news of the others before naming the culprit.
BLAME_SECONDS = 5.0


P = ParamSpec("P")
R = TypeVar("R")


class RankActor(LearnerWorker):
    """A rank as a Ray actor."""

    def endpoint(self) -> tuple[str, int]:
        """An address and a free port for the other ranks to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]


class LearnerGroup:
    """PPO over one or more DeepSpeed ranks.

    Args:
        log_dir: folder (it exists) for ``learner-rank<i>.log``; None leaves the ranks' output to Ray.
    """

    def __init__(self, settings: LearnerSettings, model: ModelSettings, log_dir: Path | str | None = None):
        self.settings, self.model = settings, model
        self.log_dir = Path(log_dir).absolute() if log_dir is not None else None
        self._group: PlacementGroup | None = None
        self._ranks: list[Any] = []
        self._starting: list[ray.ObjectRef] = []

    def start(self) -> None:
        """`launch`, and wait until the ranks are `ready`."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Place the ranks and have each load the model and check that packed log-probs equal the plain model's.

        Returns at once, so that other engines can load, and other demand for nodes be posted, meanwhile; `ready` waits
        for the ranks.

        Raises:
            ResourceError: the cluster has fewer CPUs or GPUs than the ranks need, and no autoscaler to add them.
        """
        settings = self.settings
        bundle = {"CPU": settings.cpus_per_rank, "GPU": settings.gpus_per_rank, **settings.resources}
        bundle = {name: amount for name, amount in bundle.items() if amount} or {"CPU": 0.001}
        self._bundle = bundle
        self._group = placement_group([dict(bundle) for _ in range(settings.ranks)], strategy="PACK")
        if not settings.resources_seconds:
            self._check_room()
        self._ranks = [
            ray.remote(RankActor)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=settings.gpus_per_rank,
                resources=settings.resources,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, rank),
                runtime_env={"env_vars": self._environment()},
                max_restarts=0,  # a rank alone cannot rejoin its group; the run resumes from its checkpoint
            )
            .remote(settings, self.model, rank, self._log(rank))
            for rank in range(settings.ranks)
        ]
        self._starting = self._begin(RankActor.start, self._ranks[0].endpoint.remote())

    def ready(self) -> None:
        """Wait for the ranks that were launched.

        Raises:
            ResourceError: the nodes did not come in time, or others hold what the ranks need.
            EngineError: a rank failed or did not answer in time; names the rank and its log.
        """
        self._await_room()
        self._wait(self._starting, "start", self.settings.start_seconds)

    def update(self, batch: Sequence[Experience]) -> dict[str, float]:
        """One PPO update: ``epochs`` passes over the batch in minibatches. Blocks until all ranks are done.

        A batch whose scores hardly differ (``signal`` below ``signal_floor``) is skipped: no step is taken, ``skipped``
        is 1, and what only steps can show is absent.

        Returns, among others: loss, policy_loss, value_loss (means over the tokens of all steps taken); kl (nats a
        token against the reference) and kl_per_sample; kl_coef; approx_kl (of the policy against the one that
        sampled); clip_fraction; entropy; explained_variance; logprob_gap_mean and logprob_gap_max (|learner -
        rollout| a token before the first step, free of charge from its forward pass); grad_norm; tokens;
        optimizer_steps; stopped_early; seconds_reference, seconds_policy, seconds_step. Where older weights drew some
        of the batch: age_mean, age_max (updates) and effective_share, truncated, left_out (see `staleness.Correction`);
        the gap is then that of the other samples, and absent where there are none.
        """
        if not batch:
            raise EngineError(
                "nothing to learn from: every program of the round ended before its first token, or was cut at "
                "rollout.max_tokens and masked (reward.overlong); start from a model that answers such prompts, use "
                "another problems.template, or raise rollout.max_tokens"
            )
        return self._all(RankActor.update, list(batch))[0]

    def logprobs(self, batch: Sequence[Experience]) -> list[np.ndarray]:
        """Per sample, [T] log-probs in nats of its tokens under the current weights."""
        return self._all(RankActor.logprobs, list(batch))[0]

    def save(
        self,
        directory: Path | str,
        client_state: dict[str, Any],
        *,
        files: Mapping[str, Path] | None = None,
        kept: int | None = None,
    ) -> Path:
        """Write weights, optimizer, value head, KL coefficient, step and ``client_state``; returns the new folder.

        files: copied into it under their names, so that they belong to this checkpoint and to no other.

        Parts go to a temporary tag; ``latest`` is flipped last, so a crash leaves the checkpoint before. The folder
        must be visible to all ranks. With ``kept`` older checkpoints beyond that number are deleted.
        """
        directory = Path(directory).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        step = self._all(RankActor.save, str(directory), client_state)[0]
        for name, file in (files or {}).items():
            shutil.copyfile(file, directory / temporary_tag(step) / name)
        folder = publish(directory, step, self._shape())
        if kept is not None:
            prune(directory, kept)
        return folder

    def load(self, directory: Path | str) -> dict[str, Any]:
        """Go back to the latest checkpoint in the folder; returns its client state.

        Raises DataError when there is none, EngineError when ranks or ZeRO stage differ from those that wrote it.
        """
        directory = Path(directory).absolute()
        tag = latest_tag(directory)
        check_shape(directory / tag, self._shape())
        return self._all(RankActor.load, str(directory), tag)[0]

    def weight_meta(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(Hugging Face name, dtype, shape) of each weight, in the order in which they are sent."""
        return self._all(RankActor.weight_meta)[0]

    def connect(self, specs: Sequence[TransferSpec]) -> list[Any]:
        """Begin to connect to replicas, which must join meanwhile. Returns object refs, one a rank; the first resolves
        to what went wrong, by replica id."""
        return self._begin(RankActor.connect, list(specs))

    def send_weights(self, only: Collection[str] | None = None) -> list[Any]:
        """Begin to stream the weights to the connected replicas, or some of them; object refs as from `connect`."""
        return self._begin(RankActor.send_weights, only)

    def close(self) -> None:
        """End the ranks and give back what they held. Safe to call twice."""
        for actor in self._ranks:
            ray.kill(actor)
        self._ranks = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _environment(self) -> dict[str, str]:
        variables = dict(KEEP_MEMORY)
        if not self.settings.gpus_per_rank:
            variables |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if self.settings.threads_per_rank is not None:
            variables["OMP_NUM_THREADS"] = str(self.settings.threads_per_rank)
        return variables

    def _shape(self) -> dict[str, int]:
        return {"ranks": self.settings.ranks, "zero_stage": self.settings.zero_stage}

    def _log(self, rank: int) -> str | None:
        return str(self.log_dir / f"learner-rank{rank}.log") if self.log_dir is not None else None

    def _await_room(self) -> None:
        """Wait until the placement group stands: first for the nodes, then for what others hold on them."""
        settings = self.settings
        assert self._group is not None
        begun = time.monotonic()
        while not self._group.wait(1.0):
            waited = time.monotonic() - begun
            if waited >= settings.resources_seconds:
                self._check_room()
            if waited >= settings.resources_seconds + settings.start_seconds:
                free = ray.available_resources()
                self.close()
                raise ResourceError(
                    f"no room for {settings.ranks} learner rank(s) of {_amounts(self._bundle)} in {waited:.0f} s: "
                    f"free now are {_amounts({name: free.get(name, 0.0) for name in self._bundle})}; other actors hold "
                    "the rest. Lower learner.cpus_per_rank or rollout.replicas, or end the other job"
                )

    def _check_room(self) -> None:
        lacks = lacking(self._bundle, self.settings.ranks)
        if lacks:
            found = autoscaler_says(self.settings.resources_seconds)
            self.close()
            raise ResourceError(
                f"{self.settings.ranks} learner rank(s) need {lacks}. Add nodes, lower learner.ranks or "
                f"learner.cpus_per_rank, or set learner.resources_seconds where an autoscaler adds nodes{found}"
            )

    def _all(self, method: Callable[Concatenate[RankActor, P], R], *given: P.args, **named: P.kwargs) -> list[R]:
        """What a method answers on every rank, by rank."""
        return self._wait(self._begin(method, *given, **named), method.__name__, self.settings.timeout_seconds)

    def _begin(
        self, method: Callable[Concatenate[RankActor, P], R], *given: P.args, **named: P.kwargs
    ) -> list[ray.ObjectRef]:
        if not self._ranks:
            raise EngineError("the learner is not running: call start() first")
        shared = [one if isinstance(one, ray.ObjectRef) else ray.put(one) for one in given]
        return [getattr(actor, method.__name__).remote(*shared, **named) for actor in self._ranks]

    def _wait(self, references: list[Any], doing: str, seconds: float) -> list[Any]:
        """All answers in the order of the ranks, or one error that names the culprit."""
        pending = list(references)
        while pending:
            done, pending = ray.wait(pending, timeout=seconds)
            if not done:
                silent = [references.index(reference) for reference in pending]
                raise EngineError(
                    f"learner rank(s) {silent} did not {doing} within {seconds:g} s; {self._where(silent[0])}"
                )
            if _failure(done[0]) is not None:
                # A rank that dies makes the others fail in a collective: give both a moment, and blame the dead one.
                finished, _ = ray.wait(references, num_returns=len(references), timeout=BLAME_SECONDS)
                failures = [(references.index(ref), _failure(ref)) for ref in finished]
                self._raise([(rank, error) for rank, error in failures if error is not None], doing)
        return ray.get(references)

    def _raise(self, failures: list[tuple[int, Exception]], doing: str) -> NoReturn:
        rank, error = min(failures, key=lambda failure: not isinstance(failure[1], RayActorError))
        if isinstance(error, RayTaskError) and isinstance(error.cause, CrlhfError):
            raise error.cause from error
        if isinstance(error, RayTaskError):
            raise EngineError(f"learner rank {rank} failed to {doing}: {error.cause!r}; {self._where(rank)}") from error
        raise EngineError(
            f"learner rank {rank} died during {doing}: {str(error).splitlines()[0]}; {self._where(rank)}"
        ) from error

    def _where(self, rank: int) -> str:
        return f"see {self._log(rank)}" if self.log_dir is not None else "see the Ray worker's log"


def _failure(reference: Any) -> Exception | None:
    """What a finished call raised."""
    try:
        ray.get(reference)
    except RayError as error:
        return error
    return None


def _amounts(bundle: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
