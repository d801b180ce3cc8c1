"""One round of feedback from the simulated crowd: honeypots mixed in, answers to the log, the log to the aggregator.

The path is the one that people's answers take: an append-only log, read as a Ray Dataset, validated, and handed in
Arrow batches to the aggregation actor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from crlhf_ray.aggregation.monitors import Alert, honeypot_shortage
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.ingest import read_annotations
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.schema import Item
from crlhf_ray.feedback.simulate import Crowd, CrowdSettings
from crlhf_ray.settings import Settings

#: The simulated clock: a round an hour from here, so that the same round gives the same events whenever it is run.
_START = datetime(2025, 1, 1, tzinfo=UTC)


class FeedbackSettings(Settings):
    """Who judges, and how often their reliability is checked."""

    crowd: CrowdSettings = CrowdSettings()
    """The simulated annotators."""
    labels_per_item: int | None = None
    """How many annotators judge each program. None: all of them."""
    first_honeypots: int = 12
    """Honeypot programs put to each annotator before the first round (honeypots come first)."""
    honeypots_per_problem: int = 6
    """Honeypots made of each training problem. Nobody sees one twice, so this bounds how long a run can go on."""
    honeypots_per_round: int = 2
    """Honeypot programs mixed into each later round, for each annotator."""


class SimulatedFeedback:
    """The simulated crowd at work.

    aggregator: handle of the aggregation actor. wait_seconds: longest wait for it before the error that names it.
    rounds: how many the run has; those who drift know how far it is.
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
        self.settings = settings
        self.pool = pool
        self.crowd = Crowd(settings.crowd, seed)
        self.log = AnnotationLog(directory)
        self._aggregator = aggregator
        self._rounds = rounds
        self._wait = wait_seconds
        self._handed_in = 0

    def collect(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], round: int) -> pa.Table:
        """Have the crowd judge a round's items; returns the round's events, honeypots' left out.

        On return the aggregation actor holds every event. Raises DataError if a stored event cannot be read back.
        """
        now = _START + timedelta(hours=round)
        progress = self._progress(round)
        count = self.settings.honeypots_per_round if round else self.settings.first_honeypots
        tables: list[pa.Table] = []
        for annotator in self.crowd.annotator_ids:
            shown = self.pool.next_for(annotator, count)
            ray.get(self._aggregator.add_gold.remote(self.pool.gold(shown)), timeout=self._wait)
            tables.append(
                self.crowd.annotate(
                    [honeypot.item for honeypot in shown],
                    self.pool.truth(),
                    now=now,
                    annotators=[annotator],
                    progress=progress,
                )
            )
        answers = self.crowd.annotate(
            items, truth, now=now, labels_per_item=self.settings.labels_per_item, progress=progress
        )
        self._hand_in([*tables, answers])
        return answers

    def _hand_in(self, tables: Sequence[pa.Table]) -> None:
        """Store the events, then read what is new in the log as a Ray Dataset into the aggregation actor.

        An interrupted round is played again: its events are in the log already, and the actor knows their ids, so the
        files that the actor may not have seen are handed on whoever wrote them.
        """
        self.log.append(pa.concat_tables(tables))
        fresh = self.log.files()[self._handed_in :]
        if not fresh:
            return
        dataset, rejected = read_annotations(fresh, num_cpus=0.5)
        if rejected.count:
            raise DataError(f"stored annotations do not validate: {rejected}", file=str(self.log.directory))
        for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
            ray.get(self._aggregator.ingest.remote(batch), timeout=self._wait)
        self._handed_in += len(fresh)

    def skills(self, round: int) -> pa.Table:
        """The simulated annotators' true skill in a round; see `Crowd.skills`."""
        return self.crowd.skills(self._progress(round))

    def alerts(self) -> list[Alert]:
        """Annotators for whom the honeypots run out."""
        unseen = {annotator: self.pool.remaining(annotator) for annotator in self.crowd.annotator_ids}
        return honeypot_shortage(unseen, wanted=self.settings.honeypots_per_round)

    def _progress(self, round: int) -> float:
        return min(1.0, round / max(1, self._rounds - 1))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: which honeypots were shown to whom, and how much of the log was handed in."""
        return {"pool": self.pool.state(), "handed_in": self._handed_in}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.pool.restore(state["pool"])
        self._handed_in = state["handed_in"]
