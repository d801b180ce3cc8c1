"""The rollout fleet: vLLM replicas as Ray actors behind one object on the driver.

Who waits for whom. A replica is asked for first and waited for afterwards, because an autoscaler adds nodes only for
actors that exist. Tasks wait in one queue; replicas get as many as they have room for, and `poll` sleeps until a sample
is finished. `sync` waits until nobody draws, where rollout.on_update does not say otherwise, then lets the learner send
and the replicas receive at the same time, and sleeps until both have ended. Every wait is bounded, and its error names
the replica. A replica that fails is killed and never used again: what it left undone goes to the others, and its slot
is filled in the background, so that a lost node delays nobody; the new one takes the current weights when it has
loaded, while the others draw. Only where no replica is left does `poll` wait for a new one. A replica that is let go
(`resize`) finishes what it is drawing first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from crlhf_ray.errors import ConfigError, EngineError, ResourceError, TransferError
from crlhf_ray.policy.model import ModelSettings, resolve
from crlhf_ray.rollout.members import ANSWER_SECONDS, Members, why_of
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.rollout.scaling import Autoscaler, Load
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.rollout.tasks import Drawing, Request, Sampling, Task, tasks_of
from crlhf_ray.rollout.weights import Learner

__all__ = ["Fleet", "Request", "RolloutSettings"]

log = logging.getLogger(__name__)

#: Longest sleep on the driver while samples are drawn.
POLL_SECONDS = 5.0


class Fleet:
    """Start, use and end the replicas.

    Args:
        log_dir: folder for ``replica-<id>.log``; None leaves the replicas' output to Ray.
        say: told when the pool changes, and when a replica that was asked for does not come.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        model: ModelSettings,
        log_dir: Path | str | None = None,
        say: Callable[[str], None] = log.warning,
    ):
        if settings.max_tokens >= settings.context:
            raise ConfigError(
                f"rollout.max_tokens={settings.max_tokens} leaves no room for a prompt within "
                f"rollout.context={settings.context}; lower the first or raise the second"
            )
        self.settings, self.model, self._say = settings, model, say
        self.log_dir = Path(log_dir).absolute() if log_dir is not None else None
        self.version = 0
        self.members = Members(settings, model, self.log_dir, self._lost)
        self._learner: Learner | None = None
        self._connected: set[str] = set()
        self._drawing = Drawing()
        self._streams: dict[Any, str] = {}  # what a replica hands over of what it draws: the replica
        self._heard: dict[str, float] = {}
        self._finished: list[Sample] = []
        self._recoveries = 0
        self._changes: list[dict[str, Any]] = []
        self._autoscaler: Autoscaler | None = None
        if settings.autoscale is not None:
            self._autoscaler = Autoscaler(settings.autoscale, settings.max_num_seqs)
            self.members.health.resize(self._autoscaler.wanted)

    def start(self) -> None:
        """`launch`, and wait until the replicas are `ready`."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Ask for the replicas and return at once, so that other engines can load meanwhile; `ready` waits for them.

        Raises:
            ResourceError: the cluster has too little room for as many as there may be, and no autoscaler to add nodes.
        """
        resolve(self.model.name)  # unpacked once here rather than by all replicas at once
        self._patience = time.monotonic() + self.settings.resources_seconds
        self.members.fill()
        most = self.settings.most_replicas
        if not self.settings.resources_seconds and self.members.lacks(most):
            self.close()
            raise ResourceError(self.members.no_room(most))

    def ready(self) -> None:
        """Wait until every replica that was launched has loaded the base model, which is weight version 0.

        Where an autoscaler has not brought all nodes within ``resources_seconds``, the replicas that have loaded serve,
        and the others join when their nodes come.

        Raises:
            ResourceError: no replica has room within ``resources_seconds``; says what the cluster lacks.
            EngineError: a replica failed or did not load in time; names it and its log.
        """
        while self.members.health.starting():
            wanted = self.members.health.slots
            if time.monotonic() >= self._patience and self.members.lacks(wanted):
                if alive := self.members.health.alive():
                    self._say(f"starting with {len(alive)} replicas: {self.members.no_room(wanted)}")
                    break
                if self.members.lacks(1):
                    self.close()
                    raise ResourceError(self.members.no_room(wanted))
            for replica, why in self.members.arrive(1.0).items():
                raise EngineError(f"replica {replica} did not start: {why}{self.members.log_hint(replica)}")
        self._adopt_base()

    def generate(
        self,
        requests: Sequence[Request],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int,
        tag: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """Draw ``n`` completions of each request; the result has the order of the requests.

        temperature, max_tokens: None takes the settings'. seed, tag: with a problem's id and the completion's number
        they fix its random numbers, whatever the number of replicas; sample ids are ``{tag}-{problem_id}-{i}``.
        progress: called with the number of samples that were finished since the last call.

        Raises:
            ConfigError: a prompt is too long or a problem requested twice.
            EngineError: replicas failed more often than ``recoveries`` allows; names each and why.
        """
        tasks = self.tasks(requests, temperature=temperature, max_tokens=max_tokens, seed=seed, tag=tag)
        wanted = {task.sample_id for task in tasks}
        done: dict[str, Sample] = {}
        others: list[Sample] = []
        self.submit(tasks)
        while len(done) < len(tasks):
            self.scale()
            samples = self.poll(POLL_SECONDS)
            own = {sample.sample_id: sample for sample in samples if sample.sample_id in wanted}
            others += [sample for sample in samples if sample.sample_id not in own]
            done |= own
            if progress is not None and own:
                progress(len(own))
        self._finished = others + self._finished
        return [done[task.sample_id] for task in tasks]

    def tasks(
        self,
        requests: Sequence[Request],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int,
        tag: str = "",
    ) -> list[Task]:
        """What to `submit` for the requests; arguments and ConfigError as of `generate`."""
        sampling = Sampling(
            self.settings.temperature if temperature is None else temperature,
            self.settings.top_p,
            self.settings.max_tokens if max_tokens is None else max_tokens,
        )
        longest = self.settings.context - sampling.max_tokens
        return tasks_of(requests, sampling, seed=seed, tag=tag, longest_prompt=longest)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Put tasks into the queue that the replicas draw from; `poll` hands over what they have finished."""
        if not self._drawing:
            self._recoveries = 0
        self._drawing.add(tasks)
        self._hand_out()

    def withdraw(self, sample_ids: Collection[str]) -> None:
        """Take tasks out of the queue; those that are being drawn are finished."""
        self._drawing.withdraw(sample_ids)

    def poll(self, seconds: float) -> list[Sample]:
        """Samples that were finished since the last call, waiting so many seconds for the first.

        A replica that has loaded meanwhile takes the current weights and joins in. The learner must be idle.

        Raises EngineError: replicas failed more often than ``recoveries`` allows; names each and why.
        """
        if self._drawing:
            self._join()
            self._hand_out()
            seconds = 0.0 if self._finished else seconds
            if self._streams:
                self._listen(seconds)
            else:
                self._await_one(seconds)
        finished, self._finished = self._finished, []
        return finished

    def sync(self, learner: Learner, version: int) -> None:
        """Bring the learner's present weights to every replica that has loaded and call them ``version``.

        Replicas finish what they are drawing first, or continue it with the new weights (rollout.on_update); what
        waits is drawn with the new weights. Empty slots are filled in the background. The learner's weights must not
        change while `poll` runs, because a replica may have to take them again.

        Raises TransferError, naming replica and weight, when no replica could be brought up to date.
        """
        while self.settings.on_update == "finish" and self._drawing.busy():
            self._listen(POLL_SECONDS)
        if learner is not self._learner:
            self._connected.clear()
        self._learner, self.version = learner, version
        for _ in range(2):  # where the last replica broke, a new one gets one more chance
            self.members.fill()
            self._arrive(0.0)
            while not self.members.health.alive() and self.members.health.starting():
                self._arrive(1.0)
            self._connect(learner)
            self._transfer(learner, version, self.members.health.alive())
            self._heard |= dict.fromkeys(self._streams.values(), time.monotonic())  # learner and update took their time
            if self.members.health.serving(version) or not self.members.health.slots:
                self.members.fill()
                return
        raise TransferError(f"no replica took weight version {version}: {self.members.deaths()}")

    def resize(self, replicas: int) -> None:
        """Ask for more replicas, or let some go, and return at once.

        Those that are asked for join when they have loaded. Those that have not loaded go first, then those that draw
        least; whoever goes is handed nothing more, finishes what it is drawing, and gives back what it holds. Raises
        ValueError below 0; below 1 only an autoscaled pool asks for a replica again when there is something to draw.
        """
        if replicas < (self._autoscaler is None):
            raise ValueError(
                f"{replicas} replicas: a pool without rollout.autoscale keeps 1 or more, another 0 or more"
            )
        self.members.health.resize(replicas, self._drawing.load)
        self.members.fill()
        self._let_go()

    def scale(self, to_review: int = 0) -> None:
        """Have the autoscaler look at what is to be drawn, where the settings ask for one.

        to_review: programs that reviewers have in front of them, beside which drawing is not urgent.
        """
        if self._autoscaler is not None:
            change = self._autoscaler.decide(Load(len(self._drawing), to_review), time.monotonic())
            if change is not None:
                self._changes.append(asdict(change))
                self._say(str(change))
                self.resize(change.after)

    def report(self) -> dict[str, Any]:
        """How many replicas serve and how many are wanted, and the changes of that since the last call."""
        changes, self._changes = self._changes, []
        return {"serving": len(self.replicas()), "wanted": self.members.health.slots, "changes": changes}

    def replicas(self) -> list[str]:
        """Ids of the replicas that hold the current weights."""
        return self.members.health.serving(self.version)

    def starting(self) -> list[str]:
        """Ids of the replicas that have not loaded yet: their nodes are on their way, or their engines are booting."""
        self.members.arrive(0.0)
        return self.members.health.starting()

    def close(self) -> None:
        """End all replicas. Harmless when called twice."""
        for replica in list(self.members.actors):
            self.members.bury(replica, "closed")

    def _hand_out(self) -> None:
        """Give the replicas that serve what waits, as far as they have room for it."""
        serving = self.members.health.serving(self.version)
        for replica, tasks in self._drawing.hand_out(serving, self.settings.max_num_seqs).items():
            if replica in self._streams.values():
                self.members.actors[replica].add.remote(tasks)
            else:
                self._draw(replica, tasks)

    def _await_one(self, seconds: float) -> None:
        """Nobody draws: wait so long for a replica that loads, and ask for one first where none does."""
        if not self.members.health.starting():
            if self._recoveries == self.settings.recoveries:
                raise EngineError(f"{len(self._drawing)} samples were not drawn: {self.members.deaths()}")
            self._recoveries += 1
            self.members.fill()
        self._arrive(seconds)

    def _arrive(self, seconds: float) -> None:
        """Take note of what has loaded, and tell of what has failed to, waiting so long for the first."""
        for replica, why in self.members.arrive(seconds).items():
            self._say(f"replica {replica} did not start: {why}{self.members.log_hint(replica)}")

    def _let_go(self) -> None:
        """End the replicas that have no slot any more and nothing left to draw."""
        for replica in self.members.leaving():
            if not self._drawing.load(replica):
                self.members.bury(replica, "was let go")

    def _draw(self, replica: str, tasks: Sequence[Task]) -> None:
        method = self.members.actors[replica].draw.options(num_returns="streaming")
        self._streams[method.remote(self.version, tasks)] = replica
        self._heard[replica] = time.monotonic()

    def _listen(self, seconds: float) -> None:
        """Take in finished samples, waiting so long for the first; replicas that fail or stall are buried.

        Whoever is drawing has a stream, and ends up with a sample, a failure or a stall.
        """
        while self._streams:
            ready: list[Any] = ray.wait(list(self._streams), num_returns=1, timeout=seconds)[0]
            for stream in ready:
                self._next(stream, self._streams[stream])
            if not ready:  # only now is all taken in that came while nobody listened, as during an update
                now, most = time.monotonic(), self.settings.stall_seconds
                for replica in [one for one in self._streams.values() if now - self._heard[one] > most]:
                    self.members.bury(replica, f"finished no sample for {most:g} s")
                return
            seconds = 0.0

    def _next(self, stream: Any, replica: str) -> None:
        """The next sample of a stream, or its end."""
        self._heard[replica] = time.monotonic()
        try:
            sample: Sample = ray.get(next(stream), timeout=ANSWER_SECONDS)
        except StopIteration:
            del self._streams[stream]
            if replica in self._drawing.busy():  # what was added came too late for it
                self._draw(replica, [])
        except RayError as error:
            self.members.bury(replica, why_of(error))
        else:
            self._drawing.done(replica, sample.sample_id)
            self._finished.append(sample)
            self._let_go()

    def _join(self) -> None:
        """Bring replicas that have loaded since the last sync to the weights that the others hold."""
        self._arrive(0.0)
        serving = self.members.health.serving(self.version)
        late = [replica for replica in self.members.health.alive() if replica not in serving]
        if late and self._learner is None:
            self._adopt_base()
        elif late and self._learner is not None:
            self._connect(self._learner)
            self._transfer(self._learner, self.version, late)

    def _lost(self, replica: str) -> None:
        """What a replica was drawing goes to the others."""
        self._drawing.lost(replica)
        self._streams = {stream: one for stream, one in self._streams.items() if one != replica}
        self._connected.discard(replica)

    def _adopt_base(self) -> None:
        refs = {replica: self.members.actors[replica].adopt_base.remote() for replica in self.members.health.alive()}
        for replica, failure in self.members.answers(refs, ANSWER_SECONDS).items():
            if failure is None:
                self.members.health.synced(replica, 0)

    def _connect(self, learner: Learner) -> None:
        """Bring the learner together with every replica that it has not met."""
        new = [replica for replica in self.members.health.alive() if replica not in self._connected]
        refs = {replica: self.members.actors[replica].open_transfer.remote() for replica in new}
        opened = [replica for replica, failure in self.members.answers(refs, ANSWER_SECONDS).items() if failure is None]
        if not opened:
            return
        specs = [ray.get(refs[replica]) for replica in opened]
        joins = {replica: self.members.actors[replica].join.remote() for replica in opened}
        self.members.meet(learner.connect(specs), joins, self.settings.transfer_seconds)
        self._connected.update(replica for replica in opened if replica in self.members.actors)

    def _transfer(self, learner: Learner, version: int, replicas: Sequence[str]) -> None:
        chosen = [replica for replica in replicas if replica in self._connected]
        if not chosen:
            return
        receives = {replica: self.members.actors[replica].receive.remote(version) for replica in chosen}
        self.members.meet(learner.send_weights(chosen), receives, 10 * self.settings.transfer_seconds)
        for replica in chosen:
            if replica in self.members.actors:
                self.members.health.synced(replica, version)
