"""The machine annotators of a run: honeypots mixed in, reviews turned into marks, what they cost.

Pure but for what the annotators do themselves: time is handed in, marks are handed out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, SOURCES, Item
from crlhf_ray.aggregation.monitors import Alert
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.checks import checks
from crlhf_ray.feedback.annotators.correlation import discounts, error_correlation, expected_correlation
from crlhf_ray.feedback.annotators.llm import judges
from crlhf_ray.feedback.annotators.memory import Memory
from crlhf_ray.feedback.annotators.settings import (
    BudgetSettings,
    ChecksSettings,
    LlmSettings,
    MachineSettings,
    MemorySettings,
    OwnSettings,
    TestsSettings,
)
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool, opaque_id
from crlhf_ray.parts import part

#: Under which the pool of honeypots knows all machines together.
POOL_NAME = "machines"
#: Programs between two looks at a budget.
_CHUNK = 8
#: What an annotator has used up so far.
Spent = dict[str, float]
_NOTHING: Spent = {"money": 0.0, "minutes": 0.0, "marks": 0, "programs": 0, "abstained": 0}


def made(settings: MachineSettings, folder: Path | None) -> list[Annotator]:
    """The annotators of one entry of `feedback.annotators`. folder: where they may keep files."""
    match settings:
        case ChecksSettings():
            return checks(settings)
        case MemorySettings():
            return [Memory(settings)]
        case LlmSettings():
            return judges(settings, folder)
        case TestsSettings():  # its mark is on whole programs: `score_round` takes it
            return []
        case OwnSettings():
            return [part({}, settings.kind)(**settings.settings)]
    raise AssertionError(settings.kind)


class Machines:
    """All machine annotators of a run.

    settings: `feedback.annotators`. seed: orders what each of them is shown. folder: where they may keep files.
    Raises ConfigError for two of one id, for a source that marks cannot have, and where a tool is not installed.
    """

    def __init__(self, settings: Sequence[MachineSettings], seed: int, folder: Path | None = None):
        self._seed = seed
        self._budgets: dict[str, BudgetSettings] = {}
        self.annotators: list[Annotator] = []
        for one in settings:
            for annotator in made(one, folder):
                _check(annotator, self._budgets)
                self._budgets[annotator.annotator_id] = one.budget
                self.annotators.append(annotator)
        #: By annotator, its label of each honeypot line that it marked, and the truth.
        self._on_gold: dict[str, dict[str, list[int]]] = defaultdict(dict)
        #: Why each abstained from programs of the last round; "" for those that it reviewed.
        self._notes: dict[str, Counter[str]] = defaultdict(Counter)
        self.spent: dict[str, Spent] = {name: dict(_NOTHING) for name in self._budgets}

    def collect(
        self, items: Sequence[Item], pool: HoneypotPool, honeypots: int, now: datetime
    ) -> tuple[pa.Table, list[Honeypot]]:
        """Have the programs reviewed, with so many honeypots among them, new to all machines and the same for each.

        now: the marks' created_at. Returns all marks (ANNOTATION_SCHEMA) and the honeypots that were shown. A mark's
        confidence is the annotator's own times its `discounts`.
        Raises DataError, which names the annotator, for a review that does not fit its program.
        """
        self._notes = defaultdict(Counter)
        working = [a for a in self.annotators if not self.exhausted(a.annotator_id)]
        shown = pool.next_for(POOL_NAME, honeypots) if working else []
        found: list[tuple[Annotator, list[tuple[Item, Review]]]] = []
        for annotator in working:
            batch = [*items, *(honeypot.item for honeypot in shown)]
            batch.sort(key=lambda item: opaque_id(self._seed, annotator.annotator_id, item.item_id))
            step = len(batch) if self._budgets[annotator.annotator_id] == BudgetSettings() else _CHUNK
            reviews: list[tuple[Item, Review]] = []
            for start in range(0, len(batch), max(1, step)):
                if not self.exhausted(annotator.annotator_id):
                    reviews += self._reviewed(annotator, batch[start : start + step])
            found.append((annotator, reviews))
            told = {item.item_id: review.labels for item, review in reviews}
            for honeypot in shown:
                for line, label in told.get(honeypot.item.item_id, {}).items():
                    self._on_gold[annotator.annotator_id][f"{honeypot.item.item_id}:{line}"] = [
                        label,
                        honeypot.truth[line],
                    ]
        counts = self.counts(working)
        tables = [self._marks(annotator, reviews, counts[annotator.annotator_id], now) for annotator, reviews in found]
        return pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *tables]), shown

    def counts(self, working: Sequence[Annotator]) -> dict[str, float]:
        """What each of these machines' word counts, above 0 to 1, because they err together: see `discounts`."""
        names = [annotator.annotator_id for annotator in working]
        lines = sorted({line for name in names for line in self._on_gold[name]})
        labels, truth = np.zeros((len(lines), len(names)), int), np.zeros(len(lines), int)
        for row, line in enumerate(lines):
            for column, name in enumerate(names):
                if line in self._on_gold[name]:
                    labels[row, column], truth[row] = self._on_gold[name][line]
        expected = expected_correlation([annotator.family or annotator.annotator_id for annotator in working])
        correlation = error_correlation(labels, truth, expected)
        return dict(zip(names, discounts(correlation).tolist(), strict=True))

    def _reviewed(self, annotator: Annotator, items: Sequence[Item]) -> list[tuple[Item, Review]]:
        reviews = list(annotator.review(items))
        if len(reviews) != len(items):
            raise DataError(f"{annotator.annotator_id} gave {len(reviews)} reviews of {len(items)} programs")
        spent = self.spent[annotator.annotator_id]
        for item, review in zip(items, reviews, strict=True):
            _check_review(annotator, item, review)
            self._notes[annotator.annotator_id][review.note] += 1
            spent["money"] += review.cost
            spent["minutes"] += review.seconds / 60
            spent["marks"] += len(review.labels)
            spent["programs"] += 1
            spent["abstained"] += not review.labels
        return list(zip(items, reviews, strict=True))

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
        """Whose budget is used up, and who abstained from most of the last round."""
        return [*self._silent(), *self._used_up()]

    def _silent(self) -> list[Alert]:
        found = []
        for name, notes in self._notes.items():
            silent, whole = notes.total() - notes[""], notes.total()
            if 2 * silent > whole:
                reason, times = max((pair for pair in notes.items() if pair[0]), key=lambda pair: pair[1])
                message = f"{name} abstained from {silent} of {whole} programs; {times} times: {reason}"
                remedy = "fix what it says, or leave the annotator out of feedback.annotators"
                found.append(Alert("annotator abstains", message, remedy, (name,)))
        return found

    def _used_up(self) -> list[Alert]:
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
        return {
            a.annotator_id: {
                "spent": self.spent[a.annotator_id],
                "on_gold": self._on_gold[a.annotator_id],
                "own": a.state(),
            }
            for a in self.annotators
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; annotators that it does not know begin afresh."""
        for annotator in self.annotators:
            if (found := state.get(annotator.annotator_id)) is not None:
                self.spent[annotator.annotator_id] = dict(found["spent"])
                self._on_gold[annotator.annotator_id] = dict(found["on_gold"])
                annotator.restore(found["own"])

    def close(self) -> None:
        for annotator in self.annotators:
            annotator.close()

    def _marks(
        self, annotator: Annotator, reviews: Sequence[tuple[Item, Review]], counts: float, now: datetime
    ) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for item, review in reviews:
            each = int(1000 * review.seconds / max(1, len(review.labels)))
            for line, label in review.labels.items():
                sure = review.confidence.get(line)
                if counts < 1 and label:
                    sure = (1.0 if sure is None else sure) * counts
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
    to_review = set(item.to_review)
    for line, label in review.labels.items():
        sure = review.confidence.get(line)
        if line not in to_review or label not in (-1, 0, 1) or (sure is not None and not 0 <= sure <= 1):
            raise DataError(
                f"{annotator.annotator_id} marked line {line} of {item.item_id} with {label} and confidence {sure}; "
                f"use +1, -1 or 0 and 0 to 1, on lines {sorted(to_review)}",
                field="label",
            )
