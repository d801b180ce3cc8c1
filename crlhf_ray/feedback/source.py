"""Feedback: programs and honeypots out, marks into the ledger, the ledger folded into the consensus.

    crowd and machines in this process --Ray Dataset--> aggregation actor: Parquet log, fold        (here)
    page or API --> annotation server's database --Ray Dataset--> aggregation actor: fold           (desk/source.py)

Every mark is stored once: in the run's own log, or in the annotation server's database where it was made there.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from crlhf_ray.actors import answer
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.aggregation.monitors import Alert, honeypot_shortage
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.annotators.correlation import carried
from crlhf_ray.feedback.annotators.machines import POOL_NAME, Machines
from crlhf_ray.feedback.annotators.memory import PEOPLE
from crlhf_ray.feedback.honeypots import HoneypotPool, opaque_id
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.feedback.simulate import Crowd

#: What errors call the one actor that is asked here.
AGGREGATOR = "the aggregation actor"

#: The simulated clock: a round an hour from here, so that the same round gives the same events whenever it is run.
_START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Heard:
    """marks: events (ANNOTATION_SCHEMA) about programs, without honeypots. reviewed: ids of the programs that are done,
    which is told once: sure enough, reviewed as often as they may be, or past their deadline."""

    marks: pa.Table
    reviewed: frozenset[str]


class Feedback(ABC):
    """Where reviews come from. Every one is an event in the ledger, and folded into the aggregation actor.

    A source needs `publish` and `hear`; the run makes it with the arguments of `SimulatedFeedback`.

    aggregator: handle of the aggregation actor. wait_seconds: longest wait for it before the error that names it.
    rounds: how many the run has; simulated annotators who drift know how far it is.
    """

    #: Reviews that a line should have when a round goes on.
    labels_wanted = 3
    #: Between two looks at what was said, where nothing was.
    pause_seconds = 1.0

    def __init__(self, aggregator: Any, wait_seconds: float, rounds: int):
        self._aggregator = aggregator
        self._wait = wait_seconds
        self._rounds = rounds

    @abstractmethod
    def publish(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], round: int) -> None:
        """Ask for reviews of programs, and mix honeypots in, which every round brings new ones of.

        truth: +1 or -1 for each line by item_id, for simulated annotators alone.
        """

    @abstractmethod
    def hear(self) -> Heard:
        """What was said since the last call. On return the aggregation actor has folded all of it in, and still knows
        what makes a program reviewed if it is killed."""

    def collect(
        self,
        items: Sequence[Item],
        truth: Mapping[str, np.ndarray],
        round: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> pa.Table:
        """`publish`, and `hear` until every program is reviewed; returns the events about them.

        progress: told how many more items are reviewed.
        """
        self.publish(items, truth, round)
        waiting, marks = {item.item_id for item in items}, [ANNOTATION_SCHEMA.empty_table()]
        while waiting:
            heard = self.hear()
            marks.append(heard.marks)
            progress(sum(item.item_id in heard.reviewed & waiting for item in items))
            waiting -= heard.reviewed
            if waiting and not heard.marks.num_rows:
                self.pause()
        everything = pa.concat_tables(marks)
        return everything.filter(pc.is_in(everything["item_id"], pa.array([item.item_id for item in items])))

    def pause(self) -> None:
        """Wait as long as lies between two looks at what was said."""
        time.sleep(self.pause_seconds)

    def close(self) -> None:  # noqa: B027  most sources hold nothing
        """Let go of whatever the annotators needed. Harmless when called twice."""

    def skills(self, round: int) -> pa.Table:
        """The true skill in a round of those whose skill is known; columns as `Crowd.skills`."""
        return Crowd().skills().slice(0, 0)

    def alerts(self) -> list[Alert]:
        """What is wrong with the supply of reviews."""
        return []

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027  as `close`
        """Go on from a `state`; the aggregation actor is back at what it was then, and so is the run's own log.

        What people reviewed later is in the server's ledger still, and is folded in again.
        """

    def ask(self, reference: ray.ObjectRef) -> Any:
        """What the aggregation actor answers."""
        return answer(reference, self._wait, AGGREGATOR)

    def hand_in(self, marks: pa.Table | ray.data.Dataset) -> None:
        """Hand marks to the aggregation actor, which has them in the run's log before it answers."""
        if isinstance(marks, pa.Table):
            if not marks.num_rows:
                return
            marks = ray.data.from_arrow(marks)
        for batch in marks.iter_batches(batch_format="pyarrow", batch_size=None):
            self.ask(self._aggregator.ingest.remote(batch))

    def share_over(self, round: int) -> float:
        """Share of the run that is over in a round, 0 to 1."""
        return min(1.0, round / max(1, self._rounds - 1))

    def carried(self, marks: pa.Table) -> dict[str, float]:
        """By source, its share of the evidence in these marks; see `annotators.correlation.carried`."""
        return carried(marks, self.ask(self._aggregator.reliability.remote()))

    def add_gold(self, gold: pa.Table) -> None:
        """Tell the aggregation actor known truth."""
        self.ask(self._aggregator.add_gold.remote(gold))


class SimulatedFeedback(Feedback):
    """The simulated crowd at work, in this process. directory: the run's."""

    pause_seconds = 0.0

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
        super().__init__(aggregator, wait_seconds, rounds)
        self.settings = settings
        self.pool = pool
        self.crowd = Crowd(settings.crowd, seed)
        self.machines = Machines(settings.annotators, seed, directory / "machines")
        self._round = -1  # the last that honeypots were shown in
        self._said: list[tuple[pa.Table, Sequence[Item]]] = []

    def publish(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], round: int) -> None:
        now, far = _START + timedelta(hours=round), self.share_over(round)
        count = self.settings.honeypots_per_round if round else self.settings.first_honeypots
        crowd = self.crowd.annotator_ids if round != self._round else ()
        shown = {annotator: self.pool.next_for(annotator, count) for annotator in crowd}
        tables = [
            self.crowd.annotate(
                [honeypot.item for honeypot in some], self.pool.truth(), now=now, annotators=[annotator], progress=far
            )
            for annotator, some in shown.items()
        ]
        marks, seen = self.machines.collect(items, self.pool, count if round != self._round else 0, now)
        self.add_gold(self.pool.gold([*(honeypot for some in shown.values() for honeypot in some), *seen]))
        self.hand_in(pa.concat_tables([*tables, marks]))  # machines first: they are cheap
        answers = self.crowd.annotate(
            self._for_people(items), truth, now=now, labels_per_item=self.settings.labels_per_item, progress=far
        )
        if self.machines.annotators:
            check_floor(items, answers, self.settings.human_floor)
        self.hand_in(answers)
        answers = pa.concat_tables([answers, about(items, marks)])
        self.machines.observe(items, answers, round)
        self._round = round
        self._said.append((answers, items))

    def _for_people(self, items: Sequence[Item]) -> list[Item]:
        """Those that people are to review: all, some at random, or those about which machines leave most doubt."""
        settings = self.settings
        if settings.human_share == 1 or settings.human_choice == "random":
            return drawn(items, settings.human_share)
        found = self.ask(self._aggregator.consensus.remote([item.item_id for item in items]))
        doubt: dict[str, float] = {}
        for name, p in zip(found["item_id"].to_pylist(), found["p_correct"].to_pylist(), strict=True):
            doubt[name] = max(doubt.get(name, 0.0), p * (1 - p))
        return drawn(items, settings.human_share, doubt, settings.human_floor)

    def hear(self) -> Heard:
        said, self._said = self._said, []
        marks = pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *(answers for answers, _ in said)])
        return Heard(marks, frozenset(item.item_id for _, items in said for item in items))

    def close(self) -> None:
        self.machines.close()

    def skills(self, round: int) -> pa.Table:
        return self.crowd.skills(self.share_over(round))

    def alerts(self) -> list[Alert]:
        """Annotators for whom the honeypots run out, and machines whose budget has."""
        names = [*self.crowd.annotator_ids, *([POOL_NAME] if self.machines.annotators else [])]
        unseen = {annotator: self.pool.remaining(annotator) for annotator in names}
        return [*honeypot_shortage(unseen, wanted=self.settings.honeypots_per_round), *self.machines.alerts()]

    def state(self) -> dict[str, Any]:
        return {"pool": self.pool.state(), "machines": self.machines.state(), "round": self._round}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.pool.restore(state["pool"])
        self.machines.restore(state["machines"])
        self._round = state["round"]


def about(items: Sequence[Item], marks: pa.Table) -> pa.Table:
    """The marks on these items."""
    return marks.filter(pc.is_in(marks["item_id"], pa.array([item.item_id for item in items], pa.string())))


def drawn(
    items: Sequence[Item], share: float, doubt: Mapping[str, float] | None = None, floor: float = 1.0
) -> list[Item]:
    """A share of the items, rounded up, in their order: a floor of all items at random, the others by doubt.

    Chance goes by the items' ids, which tell nothing. doubt: by item_id, the more the sooner; 0 where missing.
    """
    number = math.ceil(share * len(items))
    by_chance = sorted(items, key=lambda item: opaque_id(0, "people", item.item_id))
    sure = min(number, math.ceil(floor * len(items)))
    rest = sorted(by_chance[sure:], key=lambda item: -(doubt or {}).get(item.item_id, 0.0))
    names = {item.item_id for item in [*by_chance[:sure], *rest[: number - sure]]}
    return [item for item in items if item.item_id in names]


def check_floor(items: Sequence[Item], marks: pa.Table, floor: float) -> None:
    """Raise DataError where people reviewed too small a share of a round's items for machines to be relied on."""
    people = about(items, marks.filter(pc.is_in(marks["source"], pa.array(PEOPLE))))
    reviewed = len(set(people["item_id"].to_pylist()))
    if reviewed < floor * len(items):
        raise DataError(
            f"people reviewed {reviewed} of {len(items)} programs of the round, and feedback.human_floor={floor:g} "
            "wants more: machines' marks alone do not show when a machine stops seeing faults. Have people review, "
            "or lower the floor; then continue with --resume",
            field="source",
        )
