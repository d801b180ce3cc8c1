"""A round of feedback from the annotation server: people, the simulated crowd over the same API, or both.

Who waits for whom: the driver publishes a round's programs and looks every `poll_seconds` for what was submitted; what
is there goes to the aggregation actor at once. The round goes on when the server calls every program done (its lines
are sure, or it has as many judgements as it may), or at the deadline. Judgements that come later are taken in with the
next round: they teach reliabilities and correct what is thought of old lines, but no reward that was given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA, Item
from crlhf_ray.aggregation.monitors import Alert
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.client import AnnotationClient, Assignment
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.engine import MakeEngine
from crlhf_ray.feedback.desk.serve import BackgroundServer
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.feedback.source import Feedback

_log = logging.getLogger(__name__)
#: Simulated annotators that work at the same time.
AT_ONCE = 4
#: Seconds that training waits for a server that does not answer: it may be restarted.
PATIENCE_SECONDS = 120.0
#: Looks without any work done after which a crowd that is alone will not do more.
IDLE_LOOKS = 3


class WebFeedback(Feedback):
    """Whoever works at the server.

    With the source ``simulated`` the server is the run's own, in a thread of this process, and its folder lies beside
    the log. engine: what that server knows its crowd by. aggregation: the run's settings of it, which the server at
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
        super().__init__(directory, aggregator, wait_seconds, rounds)
        self.settings, self.pool = settings.web, pool
        self.labels_wanted = settings.web.queue.labels_least
        self._cursor, self._published = 0, False
        self._late: list[Alert] = []
        self._server: BackgroundServer | None = None
        url, token_file = settings.web.url, settings.web.token_file
        if settings.source == "simulated":
            self._server = BackgroundServer(
                Desk(WebSettings(dir=directory.parent / "annotation", queue=settings.web.queue), engine)
            )
            url, token_file = self._server.url, self._server.token_file
        self.client = AnnotationClient.from_file(url, token_file, patience=PATIENCE_SECONDS)
        check_same(aggregation, self.client.aggregation(), url)
        self._crowd: SimulatedPeople | None = None
        if self._server is not None or settings.web.simulated_crowd:
            self._crowd = SimulatedPeople(self.client, Crowd(settings.crowd, seed), seed)

    def close(self) -> None:
        if self._crowd is not None:
            self._crowd.close()
        self.client.close()
        if self._server is not None:
            self._server.close()

    def collect(
        self,
        items: Sequence[Item],
        truth: Mapping[str, np.ndarray],
        round: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> pa.Table:
        deadline = datetime.now(UTC) + timedelta(minutes=self.settings.deadline_minutes)
        if not self._published:
            self.client.publish(self.pool.items(), gold={i: z.tolist() for i, z in self.pool.truth().items()})
            self.add_gold(self.pool.gold())
            self._published = True
        all_of_them, items = len(items), self._unanswered(items)
        progress(all_of_them - len(items))
        self.client.publish(items, round=round, deadline=deadline)
        self._late = []
        known = {item.item_id: item for item in [*self.pool.items(), *items]}
        truth = {**self.pool.truth(), **truth}
        waiting, tables, idle = [item.item_id for item in items], [], 0
        while waiting and (self._server is None or idle < IDLE_LOOKS):
            judged = self._crowd.work(known, truth, self.share_over(round)) if self._crowd else 0
            idle = 0 if judged else idle + 1
            tables += self._take_in()
            states = self.client.status(waiting)
            still = [item_id for item_id in waiting if states.get(item_id) == "open"]
            progress(len(waiting) - len(still))
            waiting = still or self._put_off(items, tables, round)
            if waiting and not judged:
                time.sleep(self.settings.poll_seconds)
        tables += self._take_in()
        everything = pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *tables])
        return everything.filter(pc.is_in(everything["item_id"], pa.array([item.item_id for item in items])))

    def _put_off(self, items: Sequence[Item], tables: Sequence[pa.Table], round: int) -> list[str]:
        """Where too little was reviewed to learn from, give people as long again; returns what is waited for then."""
        reviewed = {item_id for table in tables for item_id in table["item_id"].to_pylist()}
        missing = [item for item in items if item.item_id not in reviewed]
        if self._server is not None or len(items) - len(missing) >= self.settings.least_reviewed * len(items):
            return []
        self.client.publish(
            missing, round=round, deadline=datetime.now(UTC) + timedelta(minutes=self.settings.deadline_minutes)
        )
        self._late = too_few_reviewed(len(items) - len(missing), len(items), self.settings.least_reviewed)
        _log.warning("%s", self._late[0])
        return [item.item_id for item in missing]

    def _unanswered(self, items: Sequence[Item]) -> list[Item]:
        """Without those whose text is a honeypot's: their truth is known, and nobody gets the same text twice."""
        honeypots = {(item.prompt, item.lines): item for item in self.pool.items()}
        truth = self.pool.truth()
        same = [(item, honeypots.get((item.prompt, item.lines))) for item in items]
        rows = [
            {"item_id": item.item_id, "line": line, "truth": int(truth[honeypot.item_id][line])}
            for item, honeypot in same
            if honeypot is not None
            for line in item.judged
        ]
        self.add_gold(pa.Table.from_pylist(rows, schema=GOLD_SCHEMA))
        return [item for item, honeypot in same if honeypot is None]

    def _take_in(self) -> list[pa.Table]:
        tables: list[pa.Table] = []
        while True:
            table, after = self.client.annotations(self._cursor)
            if after == self._cursor:
                break
            self._cursor = after
            tables.append(table)
        if tables:
            self.hand_in(pa.concat_tables(tables))
        return tables

    def skills(self, round: int) -> pa.Table:
        if self._crowd is None:
            return Crowd().skills().slice(0, 0)
        return self._crowd.skills(self.share_over(round))

    def alerts(self) -> list[Alert]:
        return self._late  # the server watches its people itself

    def state(self) -> dict[str, Any]:
        return {"cursor": self._cursor, "handed_in": self._handed_in}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._cursor, self._handed_in = state["cursor"], state["handed_in"]


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
        judged = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while made := sum(pool.map(lambda name: self._judge(name, items, truth, progress), self._clients)):
                judged += made
        return judged

    def _judge(self, name: str, items: Mapping[str, Item], truth: Mapping[str, np.ndarray], progress: float) -> bool:
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
