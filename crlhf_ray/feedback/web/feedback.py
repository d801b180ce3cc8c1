"""A round of feedback from the annotation server: people, the simulated crowd over the same API, or both.

Who waits for whom: the driver publishes a round's programs and looks every `poll_seconds` for what was submitted; what
is there goes to the aggregation actor at once. The round goes on when the server calls every program done (its lines
are sure, or it has as many judgements as it may), or at the deadline. Judgements that come later are taken in with the
next round: they teach reliabilities and correct what is thought of old lines, but no reward that was given.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.aggregation.monitors import Alert
from crlhf_ray.feedback.collect import Feedback, FeedbackSettings
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.schema import ANNOTATION_SCHEMA, Item
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.feedback.web.client import AnnotationClient, ServerError

#: Simulated annotators that work at the same time.
AT_ONCE = 4


class WebFeedback(Feedback):
    """Whoever works at the server. rounds: how many the run has; simulated annotators who drift know how far it is.

    Raises ConfigError where there is no token, ServerError where the server does not answer.
    """

    def __init__(
        self,
        settings: FeedbackSettings,
        pool: HoneypotPool,
        aggregator: Any,
        directory: Path,
        *,
        seed: int,
        rounds: int,
        wait_seconds: float,
    ):
        super().__init__(directory, aggregator, wait_seconds)
        self.settings, self.pool = settings.web, pool
        self.client = AnnotationClient.from_file(settings.web.url, settings.web.token_file)
        self._rounds, self._cursor, self._published = rounds, 0, False
        self._crowd = (
            SimulatedPeople(self.client, Crowd(settings.crowd, seed), seed) if settings.web.simulated_crowd else None
        )

    def collect(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], round: int) -> pa.Table:
        deadline = datetime.now(UTC) + timedelta(minutes=self.settings.deadline_minutes)
        if not self._published:
            self.client.publish(self.pool.items(), gold={i: z.tolist() for i, z in self.pool.truth().items()})
            self.add_gold(self.pool.gold())
            self._published = True
        self.client.publish(items, round=round, deadline=deadline)
        waiting = [item.item_id for item in items]
        known = {item.item_id: item for item in [*self.pool.items(), *items]}
        tables: list[pa.Table] = []
        while True:
            if self._crowd is not None:
                self._crowd.work(known, {**self.pool.truth(), **truth}, self._progress(round))
            tables += self._take_in()
            states = self.client.status(waiting)
            waiting = [item_id for item_id in waiting if states.get(item_id) == "open"]
            if not waiting:
                break
            time.sleep(self.settings.poll_seconds)
        tables += self._take_in()
        everything = pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *tables])
        return everything.filter(pc.is_in(everything["item_id"], pa.array([item.item_id for item in items])))

    def _take_in(self) -> list[pa.Table]:
        tables: list[pa.Table] = []
        while True:
            table, after = self.client.annotations(self._cursor)
            if after == self._cursor:
                return tables
            self.hand_in(table)
            self._cursor = after
            tables.append(table)

    def skills(self, round: int) -> pa.Table:
        found = Crowd().skills().slice(0, 0)
        return found if self._crowd is None else self._crowd.skills(self._progress(round))

    def alerts(self) -> list[Alert]:
        return []  # the server watches its people itself

    def state(self) -> dict[str, Any]:
        return {"cursor": self._cursor, "handed_in": self._handed_in}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._cursor, self._handed_in = state["cursor"], state["handed_in"]

    def _progress(self, round: int) -> float:
        return min(1.0, round / max(1, self._rounds - 1))


class SimulatedPeople:
    """The simulated crowd as users of the server: each has an account, asks for work, marks lines and submits."""

    def __init__(self, lead: AnnotationClient, crowd: Crowd, seed: int):
        self.crowd = crowd
        self._clients = {name: self._enter(lead, f"{name}-{seed}") for name in crowd.annotator_ids}
        self._ids = {name: client.me()["annotator_id"] for name, client in self._clients.items()}

    @staticmethod
    def _enter(lead: AnnotationClient, name: str) -> AnnotationClient:
        secret = hashlib.blake2b(f"{lead.token} {name}".encode()).hexdigest()
        try:
            return lead.log_in(name, secret)
        except ServerError as error:
            if error.status != 401:
                raise
        return lead.join(lead.invite(source="simulated"), name, secret)

    def work(self, items: Mapping[str, Item], truth: Mapping[str, np.ndarray], progress: float) -> None:
        """Everybody judges until nothing is to do. items: all that may be handed out, by id."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(self._judge, name, items, truth, progress) for name in self._clients]:
                done.result()

    def _judge(self, name: str, items: Mapping[str, Item], truth: Mapping[str, np.ndarray], progress: float) -> None:
        client, now = self._clients[name], datetime.now(UTC)
        while (task := client.next()) is not None:
            answers = self.crowd.annotate([items[task.item_id]], truth, now=now, annotators=[name], progress=progress)
            sure = np.nan_to_num(answers["confidence"].to_numpy(zero_copy_only=False).astype(float), nan=0.5).mean()
            labels = dict(zip(answers["line"].to_pylist(), answers["label"].to_pylist(), strict=True))
            client.mark(task.lease_id, labels, int(np.mean(answers["milliseconds"].to_numpy())))
            client.submit(task.lease_id, 1 + min(2, int(3 * sure)))

    def skills(self, progress: float) -> pa.Table:
        """As `Crowd.skills`, under the ids that the server gave."""
        skills = self.crowd.skills(progress)
        ids = pa.array([self._ids[name] for name in skills["annotator_id"].to_pylist()])
        return skills.set_column(0, "annotator_id", ids)
