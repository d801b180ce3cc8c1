"""One round of feedback: programs and honeypots out, answers to the log, the log to the aggregation actor.

Whoever answers, people or the simulated crowd, the answers take one path: an append-only log, read as a Ray Dataset,
validated, and handed in Arrow batches to the actor. Here is that path, and the crowd in this process;
`feedback/desk/source.py` has those who work at the annotation server, people and simulated ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.actors import answer
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.aggregation.monitors import Alert, honeypot_shortage
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.ingest import read_annotations
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.feedback.simulate import Crowd

#: What errors call the one actor that is asked here.
AGGREGATOR = "the aggregation actor"

#: The simulated clock: a round an hour from here, so that the same round gives the same events whenever it is run.
_START = datetime(2025, 1, 1, tzinfo=UTC)


class Feedback(ABC):
    """Where a round's judgements come from. Every event is in the log, then in the aggregation actor.

    aggregator: handle of the aggregation actor. wait_seconds: longest wait for it before the error that names it.
    rounds: how many the run has; simulated annotators who drift know how far it is.
    """

    #: Judgements that a line should have when a round goes on.
    labels_wanted = 3

    def __init__(self, directory: Path, aggregator: Any, wait_seconds: float, rounds: int):
        self.log = AnnotationLog(directory)
        self._aggregator = aggregator
        self._wait = wait_seconds
        self._rounds = rounds
        self._handed_in = 0

    @abstractmethod
    def collect(
        self,
        items: Sequence[Item],
        truth: Mapping[str, np.ndarray],
        round: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> pa.Table:
        """Have a round's items judged; returns the events about them that came meanwhile, honeypots' left out.

        truth: +1 or -1 for each line by item_id, for simulated annotators alone. progress: told how many more items
        are done. On return the aggregation actor holds every event. Raises DataError if a stored event cannot be read
        back.
        """

    def close(self) -> None:  # noqa: B027  most sources hold nothing
        """Let go of whatever the annotators needed. Harmless when called twice."""

    @abstractmethod
    def skills(self, round: int) -> pa.Table:
        """The true skill in a round of those whose skill is known; columns as `Crowd.skills`."""

    @abstractmethod
    def alerts(self) -> list[Alert]:
        """What is wrong with the supply of judgements."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; the aggregation actor is back at what it was then.

        What people judged later stays, and the actor gets it again; what a crowd in this process did is dropped.
        """

    def hand_in(self, table: pa.Table) -> None:
        """Store the events, then read what is new in the log as a Ray Dataset into the aggregation actor.

        The actor knows events by their ids, so files that it may not have seen, because this process ended between
        the two or went back to a checkpoint, are handed on whoever wrote them.
        """
        self.log.append(table)
        fresh = self.log.files()[self._handed_in :]
        if not fresh:
            return
        dataset, rejected = read_annotations(fresh, num_cpus=0.5)
        if rejected.count:
            raise DataError(f"stored annotations do not validate: {rejected}", file=str(self.log.directory))
        for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
            answer(self._aggregator.ingest.remote(batch), self._wait, AGGREGATOR)
        self._handed_in += len(fresh)

    def share_over(self, round: int) -> float:
        """Share of the run that is over in a round, 0 to 1."""
        return min(1.0, round / max(1, self._rounds - 1))

    def add_gold(self, gold: pa.Table) -> None:
        """Tell the aggregation actor known truth."""
        answer(self._aggregator.add_gold.remote(gold), self._wait, AGGREGATOR)


class SimulatedFeedback(Feedback):
    """The simulated crowd at work, in this process."""

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
        super().__init__(directory, aggregator, wait_seconds, rounds)
        self.settings = settings
        self.pool = pool
        self.crowd = Crowd(settings.crowd, seed)
        self.machines = Machines(settings.annotators, seed)

    def collect(
        self,
        items: Sequence[Item],
        truth: Mapping[str, np.ndarray],
        round: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> pa.Table:
        now = _START + timedelta(hours=round)
        far = self.share_over(round)
        count = self.settings.honeypots_per_round if round else self.settings.first_honeypots
        tables: list[pa.Table] = []
        for annotator in self.crowd.annotator_ids:
            shown = self.pool.next_for(annotator, count)
            self.add_gold(self.pool.gold(shown))
            tables.append(
                self.crowd.annotate(
                    [honeypot.item for honeypot in shown],
                    self.pool.truth(),
                    now=now,
                    annotators=[annotator],
                    progress=far,
                )
            )
        answers = self.crowd.annotate(
            items, truth, now=now, labels_per_item=self.settings.labels_per_item, progress=far
        )
        marks, shown = self.machines.collect(items, self.pool, count, now)
        self.add_gold(self.pool.gold(shown))
        self.hand_in(pa.concat_tables([*tables, answers, marks]))
        answers = pa.concat_tables([answers, about(items, marks)])
        self.machines.observe(items, answers, round)
        progress(len(items))
        return answers

    def close(self) -> None:
        self.machines.close()

    def skills(self, round: int) -> pa.Table:
        return self.crowd.skills(self.share_over(round))

    def alerts(self) -> list[Alert]:
        """Annotators for whom the honeypots run out, and machines whose budget has."""
        names = [*self.crowd.annotator_ids, *(machine.annotator_id for machine in self.machines.annotators)]
        unseen = {annotator: self.pool.remaining(annotator) for annotator in names}
        return [*honeypot_shortage(unseen, wanted=self.settings.honeypots_per_round), *self.machines.alerts()]

    def state(self) -> dict[str, Any]:
        return {"pool": self.pool.state(), "handed_in": self._handed_in, "machines": self.machines.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.pool.restore(state["pool"])
        self.machines.restore(state["machines"])
        self._handed_in = state["handed_in"]
        self.log.cut(self._handed_in)  # later rounds are played again, and what is answered then is all that counts


def about(items: Sequence[Item], marks: pa.Table) -> pa.Table:
    """The marks on these items."""
    return marks.filter(pc.is_in(marks["item_id"], pa.array([item.item_id for item in items], pa.string())))
