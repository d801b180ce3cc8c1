"""Feedback from the annotation server: people, the simulated crowd over the same API, or both.

Who waits for whom: the driver publishes programs and looks every `poll_seconds` for what was submitted; what is there
is folded into the aggregation actor at once, and the server's database alone stores it. A program is done when the
server says so (its lines are sure, or it has as many reviews as it may), or at its deadline. Reviews that come
later are folded in as well: they teach reliabilities and correct what is thought of old lines, but no reward that was
given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA, Item
from crlhf_ray.aggregation.monitors import Alert
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.desk.client import AnnotationClient, Assignment
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.engine import MakeEngine
from crlhf_ray.feedback.desk.serve import BackgroundServer
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.ledger import SERVER
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.feedback.source import Feedback, Heard

_log = logging.getLogger(__name__)
#: Simulated annotators that work at the same time.
AT_ONCE = 4
#: Seconds that training waits for a server that does not answer: it may be restarted.
PATIENCE_SECONDS = 120.0
#: Looks without any work done after which a crowd that is alone will not do more.
IDLE_LOOKS = 3


@dataclass
class _Lot:
    """Programs that were published together. waiting: those that are not done; reviewed: those that somebody reviewed;
    told: those that `hear` has told of."""

    round: int
    items: dict[str, Item]
    truth: Mapping[str, np.ndarray]
    waiting: list[str] = field(init=False)
    reviewed: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.waiting = list(self.items)


class WebFeedback(Feedback):
    """Whoever works at the server.

    With the source ``simulated`` the server is the run's own, in a thread of this process. directory: the run's.
    engine: what that server knows its crowd by. aggregation: the run's settings of it, which the server at
    work must share: by them it decides when a program is done.
    Raises ConfigError where there is no token or the server aggregates by other settings, and ServerError where it
    does not answer.
    """

    def __init__(
        self,
        settings: FeedbackSettings,
        pool: HoneypotPool,
        aggregator: Any,
        directory: Path,
        *,
        engine: MakeEngine,
        aggregation: Mapping[str, Any],
        seed: int,
        rounds: int,
        wait_seconds: float,
    ):
        super().__init__(aggregator, wait_seconds, rounds)
        self.settings, self.pool = settings.web, pool
        self._machines_share = settings.first_honeypots, settings.honeypots_per_round
        self.machines = Machines(settings.annotators, seed, directory / "machines")
        self.labels_wanted = settings.web.queue.labels_least
        self.pause_seconds = settings.web.poll_seconds
        self._cursor = 0  # in the server's ledger: up to where `hear` has told
        self._published, self._idle, self._round = False, 0, -1
        self._lots: list[_Lot] = []
        self._known: set[str] = set()  # programs that equal a honeypot, and were not told of yet
        self._honeypots = pa.array([item.item_id for item in pool.items()], pa.string())
        self._said: list[pa.Table] = []  # machines' marks that were not told of yet
        self._late: list[Alert] = []
        self._server: BackgroundServer | None = None
        url, token_file = settings.web.url, settings.web.token_file
        if settings.source == "simulated":
            self._server = BackgroundServer(Desk(WebSettings(dir=directory / SERVER, queue=settings.web.queue), engine))
            url, token_file = self._server.url, self._server.token_file
        self.client = AnnotationClient.from_file(url, token_file, patience=PATIENCE_SECONDS)
        check_same(aggregation, self.client.aggregation(), url)
        self._crowd: SimulatedPeople | None = None
        if self._server is not None or settings.web.simulated_crowd:
            self._crowd = SimulatedPeople(self.client, Crowd(settings.crowd, seed), seed)

    def close(self) -> None:
        self.machines.close()
        if self._crowd is not None:
            self._crowd.close()
        self.client.close()
        if self._server is not None:
            self._server.close()

    def publish(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], round: int) -> None:
        if not self._published:
            self.client.publish(self.pool.items(), gold={i: z.tolist() for i, z in self.pool.truth().items()})
            self.add_gold(self.pool.gold())
            self._published = True
        honeypots = self._machines_share[round > 0] if round != self._round else 0
        if round != self._round:
            self._round, self._late = round, []
        self._idle, asked = 0, self._unanswered(items)
        self._known |= {item.item_id for item in items} - {item.item_id for item in asked}
        self.client.publish(asked, round=round, deadline=self._deadline())
        lot = _Lot(round, {item.item_id: item for item in asked}, truth)
        lot.reviewed |= lot.items.keys() - set(self._open(asked))  # before: nobody is asked again
        self._lots.append(lot)
        marks, _ = self.machines.collect(asked, self.pool, honeypots, datetime.now(UTC))
        self.hand_in(marks)  # the server does not count them: when a program is done, people decide
        self._said.append(marks)

    def hear(self) -> Heard:
        worked = self._work()
        waiting = [item_id for lot in self._lots for item_id in lot.waiting]
        states = self.client.status(waiting) if waiting else {}  # first: of what is done, all marks are there
        marks = pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *self._take_in()])
        told = set(marks["item_id"].to_pylist())
        reviewed, self._known = set(self._known), set()
        self._idle = 0 if worked or told else self._idle + 1
        for lot in self._lots:
            lot.reviewed |= told & lot.items.keys()
            still = [item_id for item_id in lot.waiting if states.get(item_id) == "open"]
            if self._server is not None and self._idle >= IDLE_LOOKS:
                still = []
            closed, lot.waiting = set(lot.waiting) - set(still), still or self._put_off(lot)
            reviewed |= (closed & lot.reviewed) if lot.waiting else lot.items.keys() - lot.told
            lot.told |= reviewed
        for lot in self._lots:
            self.machines.observe(list(lot.items.values()), marks, lot.round)
        self._lots = [lot for lot in self._lots if lot.waiting]
        marks, self._said = pa.concat_tables([marks, *self._said]), []
        if reviewed:
            self.add_gold(self.client.gold())  # with what leads brought in and decided since
            self.ask(self._aggregator.snapshot.remote())
        return Heard(marks.filter(pc.invert(pc.is_in(marks["item_id"], self._honeypots))), frozenset(reviewed))

    def _work(self) -> int:
        """Have the simulated crowd, if there is one, review what there is; returns how many reviews that made."""
        if self._crowd is None or not self._lots:
            return 0
        items, truth = {item.item_id: item for item in self.pool.items()}, self.pool.truth()
        for lot in self._lots:
            known = {name: item for name, item in lot.items.items() if name in lot.truth}  # of problems with tests
            items, truth = items | known, {**truth, **lot.truth}
        return self._crowd.work(items, truth, self.share_over(max(lot.round for lot in self._lots)))

    def _open(self, items: Sequence[Item]) -> list[str]:
        states = self.client.status([item.item_id for item in items])
        return [item.item_id for item in items if states.get(item.item_id) == "open"]

    def _deadline(self) -> datetime:
        return datetime.now(UTC) + timedelta(minutes=self.settings.deadline_minutes)

    def _put_off(self, lot: _Lot) -> list[str]:
        """Where too little was reviewed to learn from, give people as long again; returns what is waited for then."""
        missing = [item for item in lot.items.values() if item.item_id not in lot.reviewed]
        reviewed = len(lot.items) - len(missing)
        if self._server is not None or reviewed >= self.settings.least_reviewed * len(lot.items):
            return []
        self.client.publish(missing, round=lot.round, deadline=self._deadline())
        waiting = self._open(missing)
        if waiting:  # else nobody is left who could review them
            self._late = too_few_reviewed(reviewed, len(lot.items), self.settings.least_reviewed)
            _log.warning("%s", self._late[0])
        return waiting

    def _unanswered(self, items: Sequence[Item]) -> list[Item]:
        """Without those whose text is a honeypot's: their truth is known, and nobody gets the same text twice."""
        honeypots = {(item.prompt, item.lines): item for item in self.pool.items()}
        truth = self.pool.truth()
        same = [(item, honeypots.get((item.prompt, item.lines))) for item in items]
        rows = [
            {"item_id": item.item_id, "line": line, "truth": int(truth[honeypot.item_id][line])}
            for item, honeypot in same
            if honeypot is not None
            for line in item.to_review
        ]
        self.add_gold(pa.Table.from_pylist(rows, schema=GOLD_SCHEMA))
        return [item for item, honeypot in same if honeypot is None]

    def _take_in(self) -> list[pa.Table]:
        """Fold in what the server's ledger has; returns what of it was not told before."""
        pages = []
        if self._position() < self._cursor:
            self._catch_up()
        for page, after in self.client.since(self._cursor):
            pages.append(page)
            if self._fold(page, self._cursor, after) != after:
                self._catch_up()
            self._cursor = after
        return pages

    def _catch_up(self) -> None:
        """Fold in what the actor lacks since it was restarted from a snapshot."""
        at = self._position()
        for page, after in self.client.since(at):
            if self._fold(page, at, after) != after:
                return self._catch_up()
            at = after

    def _fold(self, page: pa.Table, after: int, upto: int) -> int:
        batches = ray.data.from_arrow(page).iter_batches(batch_format="pyarrow", batch_size=None)
        marks = pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *batches])
        position: int = self.ask(self._aggregator.fold.remote(marks, after, upto))
        return position

    def _position(self) -> int:
        """The cursor that the aggregation actor stands at: after a restart, that of its last snapshot."""
        position: int = self.ask(self._aggregator.position.remote())
        return position

    def skills(self, round: int) -> pa.Table:
        return super().skills(round) if self._crowd is None else self._crowd.skills(self.share_over(round))

    def alerts(self) -> list[Alert]:
        return [*self._late, *self.machines.alerts()]  # the server watches its people itself

    def state(self) -> dict[str, Any]:
        return {"cursor": self._cursor, "pool": self.pool.state(), "machines": self.machines.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._cursor = state["cursor"]
        self.pool.restore(state["pool"])
        self.machines.restore(state["machines"])


def too_few_reviewed(reviewed: int, programs: int, least: float) -> list[Alert]:
    """A round's deadline came with too few programs reviewed. least: the share wanted."""
    return [
        Alert(
            "few reviews",
            f"{reviewed} of {programs} programs of the round were reviewed by its deadline; {least:.0%} are wanted",
            "the deadline is put off: see whether people are at work, raise feedback.web.deadline_minutes, or lower "
            "feedback.web.least_reviewed",
        )
    ]


def check_same(run: Mapping[str, Any], server: Mapping[str, Any], url: str) -> None:
    """Raise ConfigError where a run and its annotation server aggregate by different settings."""
    differing = [
        f"aggregation.{name} is {run.get(name)!r} in the run and {server.get(name)!r} at the server"
        for name in {**run, **server}
        if run.get(name) != server.get(name)
    ]
    if differing:
        raise ConfigError(
            f"{'; '.join(differing)} ({url}). The server decides by them when a program is done: give the same to "
            "`crlhf serve` and to `crlhf train`, by --set or in their YAML files"
        )


class SimulatedPeople:
    """The simulated crowd as users of the server: each has an account, asks for work, marks lines and submits.

    Simulated annotators know the truth of the items that they are given with it, and leave others' work alone.
    """

    def __init__(self, lead: AnnotationClient, crowd: Crowd, seed: int):
        self.crowd = crowd
        self._clients = {name: lead.simulated(f"{name}-{seed}") for name in crowd.annotator_ids}
        self._ids = {name: client.me()["annotator_id"] for name, client in self._clients.items()}
        self._held: dict[str, Assignment | None] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def work(self, items: Mapping[str, Item], truth: Mapping[str, np.ndarray], progress: float) -> int:
        """Everybody reviews, one program each in turn, until there is nothing left; returns how many reviews that made.

        items: all whose truth is known, by id.
        """
        reviewed = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while made := sum(pool.map(lambda name: self._review(name, items, truth, progress), self._clients)):
                reviewed += made
        return reviewed

    def _review(self, name: str, items: Mapping[str, Item], truth: Mapping[str, np.ndarray], progress: float) -> bool:
        client = self._clients[name]
        task = self._held.pop(name, None) or client.next()
        while task is not None and task.item_id not in items:  # of another run, or of an earlier round
            client.release(task.lease_id)
            task = client.next()
        if task is None:
            return False
        answers = self.crowd.annotate(
            [items[task.item_id]], truth, now=datetime.now(UTC), annotators=[name], progress=progress
        )
        sure = np.nan_to_num(answers["confidence"].to_numpy(zero_copy_only=False).astype(float), nan=0.5).mean()
        labels = dict(zip(answers["line"].to_pylist(), answers["label"].to_pylist(), strict=True))
        client.mark(task.lease_id, labels, int(np.mean(answers["milliseconds"].to_numpy())))
        self._held[name] = client.submit(task.lease_id, 1 + min(2, int(3 * sure)))
        return True

    def skills(self, progress: float) -> pa.Table:
        """As `Crowd.skills`, under the ids that the server gave."""
        skills = self.crowd.skills(progress)
        ids = pa.array([self._ids[name] for name in skills["annotator_id"].to_pylist()])
        return skills.set_column(0, "annotator_id", ids)
