"""The machine annotators of a run: honeypots mixed in, reviews turned into marks, what they cost.

Pure but for what the annotators do themselves: time is handed in, marks are handed out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, SOURCES, Item
from crlhf_ray.aggregation.monitors import Alert
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.checks import checks
from crlhf_ray.feedback.annotators.memory import Memory
from crlhf_ray.feedback.annotators.settings import (
    BudgetSettings,
    ChecksSettings,
    MachineSettings,
    MemorySettings,
    OwnSettings,
)
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool, opaque_id
from crlhf_ray.parts import part

#: What an annotator has used up so far.
Spent = dict[str, float]
_NOTHING: Spent = {"money": 0.0, "minutes": 0.0, "marks": 0, "programs": 0, "abstained": 0}


def made(settings: MachineSettings) -> list[Annotator]:
    """The annotators of one entry of `feedback.annotators`."""
    match settings:
        case ChecksSettings():
            return checks(settings)
        case MemorySettings():
            return [Memory(settings)]
        case OwnSettings():
            return [part({}, settings.kind)(**settings.settings)]
    raise AssertionError(settings.kind)


class Machines:
    """All machine annotators of a run.

    settings: `feedback.annotators`. seed: orders what each of them is shown.
    Raises ConfigError for two of one id, for a source that marks cannot have, and where a tool is not installed.
    """

    def __init__(self, settings: Sequence[MachineSettings], seed: int):
        self._seed = seed
        self._budgets: dict[str, BudgetSettings] = {}
        self.annotators: list[Annotator] = []
        for one in settings:
            for annotator in made(one):
                _check(annotator, self._budgets)
                self._budgets[annotator.annotator_id] = one.budget
                self.annotators.append(annotator)
        self.spent: dict[str, Spent] = {name: dict(_NOTHING) for name in self._budgets}

    def collect(
        self, items: Sequence[Item], pool: HoneypotPool, honeypots: int, now: datetime
    ) -> tuple[pa.Table, list[Honeypot]]:
        """Have the programs reviewed, by each annotator with so many honeypots that it has not seen among them.

        now: the marks' created_at. Returns all marks (ANNOTATION_SCHEMA) and the honeypots that were shown.
        Raises DataError, which names the annotator, for a review that does not fit its program.
        """
        tables, shown = [ANNOTATION_SCHEMA.empty_table()], []
        for annotator in self.annotators:
            if self.exhausted(annotator.annotator_id):
                continue
            fresh = pool.next_for(annotator.annotator_id, honeypots)
            shown += fresh
            batch = [*items, *(honeypot.item for honeypot in fresh)]
            batch.sort(key=lambda item: opaque_id(self._seed, annotator.annotator_id, item.item_id))
            reviews = list(annotator.review(batch))
            if len(reviews) != len(batch):
                raise DataError(f"{annotator.annotator_id} gave {len(reviews)} reviews of {len(batch)} programs")
            tables.append(self._marks(annotator, batch, reviews, now))
        return pa.concat_tables(tables), shown

    def observe(self, items: Sequence[Item], marks: pa.Table, round: int) -> None:
        """Tell every annotator what was said in a round."""
        for annotator in self.annotators:
            annotator.observe(items, marks, round)

    def exhausted(self, annotator_id: str) -> bool:
        """Whether the annotator's budget is used up."""
        budget, spent = self._budgets[annotator_id], self.spent[annotator_id]
        limits = {"money": budget.money, "minutes": budget.minutes, "marks": budget.marks}
        return any(limit is not None and spent[name] >= limit for name, limit in limits.items())

    def alerts(self) -> list[Alert]:
        """Whose budget is used up."""
        done = tuple(name for name in self._budgets if self.exhausted(name))
        if not done:
            return []
        return [
            Alert(
                "budget used up",
                f"{', '.join(done)} abstained from the round",
                "raise the budget in feedback.annotators, or leave the lines to the others",
                done,
            )
        ]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {a.annotator_id: {"spent": self.spent[a.annotator_id], "own": a.state()} for a in self.annotators}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; annotators that it does not know begin afresh."""
        for annotator in self.annotators:
            if (found := state.get(annotator.annotator_id)) is not None:
                self.spent[annotator.annotator_id] = dict(found["spent"])
                annotator.restore(found["own"])

    def close(self) -> None:
        for annotator in self.annotators:
            annotator.close()

    def _marks(self, annotator: Annotator, items: Sequence[Item], reviews: Sequence[Review], now: datetime) -> pa.Table:
        rows: list[dict[str, Any]] = []
        spent = self.spent[annotator.annotator_id]
        for item, review in zip(items, reviews, strict=True):
            _check_review(annotator, item, review)
            spent["money"] += review.cost
            spent["minutes"] += review.seconds / 60
            spent["marks"] += len(review.labels)
            spent["programs"] += 1
            spent["abstained"] += not review.labels
            each = int(1000 * review.seconds / max(1, len(review.labels)))
            for line, label in review.labels.items():
                sure = review.confidence.get(line)
                rows.append(
                    {
                        "event_id": _event_id(annotator.annotator_id, item.item_id, line, label, sure),
                        "item_id": item.item_id,
                        "line": line,
                        "annotator_id": annotator.annotator_id,
                        "label": label,
                        "confidence": sure,
                        "milliseconds": each,
                        "created_at": now,
                        "source": annotator.source,
                    }
                )
        return pa.Table.from_pylist(rows, schema=ANNOTATION_SCHEMA)


def _event_id(*said: object) -> str:
    return "m-" + hashlib.blake2b("\0".join(map(str, said)).encode(), digest_size=16).hexdigest()


def _check(annotator: Annotator, known: Mapping[str, Any]) -> None:
    name = getattr(annotator, "annotator_id", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"feedback.annotators: {type(annotator).__name__} has no annotator_id: give it a name")
    if name in known:
        raise ConfigError(f"feedback.annotators has two of the name {name!r}: leave one out")
    if annotator.source not in SOURCES:
        raise ConfigError(
            f"feedback.annotators: {name} has the source {annotator.source!r}; use one of {', '.join(SOURCES)}"
        )


def _check_review(annotator: Annotator, item: Item, review: Review) -> None:
    judged = set(item.judged)
    for line, label in review.labels.items():
        sure = review.confidence.get(line)
        if line not in judged or label not in (-1, 0, 1) or (sure is not None and not 0 <= sure <= 1):
            raise DataError(
                f"{annotator.annotator_id} marked line {line} of {item.item_id} with {label} and confidence {sure}; "
                f"use +1, -1 or 0 and 0 to 1, on lines {sorted(judged)}",
                field="label",
            )
