"""A simulated crowd: annotators of known skill who review lines whose truth is given.

Two words for the same two numbers: this package (docs/method.md, two-coin) says *sensitivity* for P(says correct | line
correct) and *specificity* for P(says wrong | line wrong). Studies of fault finding turn them round: their sensitivity
to faults is our specificity. The default ten have, on average over answers that are not "unsure", sensitivity .77 and
specificity .51, as programmers had on real code lines (faultloc data, arXiv 1612.03015), where 12% answered "I do not
know", confidence hardly told right from wrong (3.9 against 3.7 of 5), and errors on one line were correlated by .1.

Every answer is a function of (seed, annotator, item, line), its truth and the progress of the run alone: the order of
the calls, a retry or a resumed run change nothing, so events that were already stored come back with the same event_id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import ndtr, ndtri

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.settings import CrowdSettings

#: kind: (sensitivity, specificity, unsure rate, median ms a line, mean confidence where right, where wrong).
#: A drifting annotator has these on average: .16 and .15 better at the start of the run, as much worse at its end.
_KINDS: dict[str, tuple[float, float, float, float, float, float]] = {
    "expert": (0.92, 0.82, 0.12, 11_000, 0.85, 0.74),
    "average": (0.84, 0.58, 0.18, 9_000, 0.79, 0.74),
    "careless": (0.76, 0.34, 0.10, 3_500, 0.76, 0.73),
    "always_correct": (0.99, 0.02, 0.00, 900, 0.90, 0.90),
    "random": (0.50, 0.50, 0.15, 1_500, 0.60, 0.60),
    "adversary": (0.35, 0.25, 0.03, 8_000, 0.85, 0.85),
    "drifting": (0.74, 0.61, 0.14, 7_000, 0.79, 0.74),
}
_DRIFT = (0.16, 0.15)


class _Asked(NamedTuple):
    """One entry for each line that a member is asked about; member counts those who take part.

    clean: nothing of its item is wrong. later: it is wrong, and so is an earlier line of its item.
    """

    item: np.ndarray
    member: np.ndarray
    line: np.ndarray
    correct: np.ndarray
    key: np.ndarray
    clean: np.ndarray
    later: np.ndarray


class Crowd:
    """The simulated annotators. Holds no state that changes: see the module's text.

    settings: who they are. seed: any integer; another seed gives other answers.
    """

    def __init__(self, settings: CrowdSettings | None = None, seed: int = 0):
        self.settings = settings or CrowdSettings()
        self.seed = seed
        width = max(2, len(str(len(self.settings.annotators) - 1)))
        self.annotator_ids = tuple(f"sim-{i:0{width}d}" for i in range(len(self.settings.annotators)))
        who = self.settings.annotators
        base = np.array([_KINDS[a.kind] for a in who])
        self._sensitivity = _given([a.sensitivity for a in who], base[:, 0])
        self._specificity = _given([a.specificity for a in who], base[:, 1])
        self._unsure = _given([a.unsure for a in who], base[:, 2])
        self._style = np.array([a.style for a in who])
        self._overlooks = np.array([a.overlooks for a in who])
        self._median_ms, self._sure_right, self._sure_wrong = base[:, 3], base[:, 4], base[:, 5]
        self._drifts = np.array([a.kind == "drifting" for a in who])

    def skills(self, progress: float = 0.5) -> pa.Table:
        """The true skills: annotator_id, kind, sensitivity, specificity (see the module's text for these words).

        progress: share of the run that is over, 0 to 1; it matters for those who drift, whose average is at 0.5.
        """
        sensitivity, specificity = self._skill(progress)
        return pa.table(
            {
                "annotator_id": pa.array(self.annotator_ids),
                "kind": pa.array([a.kind for a in self.settings.annotators]),
                "sensitivity": sensitivity,
                "specificity": specificity,
            }
        )

    def annotate(
        self,
        items: Sequence[Item],
        truth: Mapping[str, np.ndarray],
        *,
        now: datetime,
        annotators: Sequence[str] | None = None,
        labels_per_item: int | None = None,
        progress: float = 0.5,
    ) -> pa.Table:
        """Mark every place in `to_review` of every item.

        truth: by item_id, +1 or -1 for each place of the item, shape (places,): its lines, and its end where asked.
        now: the events' created_at; with a time zone.
        annotators: ids of those who take part; everybody if None.
        labels_per_item: how many of them review each item, drawn again for each; all of them if None.
        progress: share of the run that is over, 0 to 1; moves those who drift.
        Returns ANNOTATION_SCHEMA with source "simulated", ordered by item, annotator, line. An unsure answer has label
        0 and no confidence. Raises DataError for a missing or ill-formed truth, ValueError for an unknown annotator.
        """
        members = self._members(annotators)
        wanted = _wanted(labels_per_item, len(members))
        keys = np.array([self._key(f"a:{self.annotator_ids[m]}") for m in members], dtype=np.uint64)
        asked = self._asked(items, truth, keys, wanted)
        if not len(asked.line):
            return ANNOTATION_SCHEMA.empty_table()
        answer_key = _mix(asked.key ^ keys[asked.member])
        annotator = members[asked.member]

        sensitivity, specificity = self._skill(progress)
        skill = np.where(asked.correct, sensitivity[annotator], specificity[annotator])
        rho = self.settings.shared_difficulty
        hardness = np.sqrt(rho) * ndtri(_uniform(asked.key, 0)) + np.sqrt(1 - rho) * ndtri(_uniform(answer_key, 1))
        right = ndtr(hardness) < skill
        right &= ~(asked.clean & (_uniform(answer_key, 5) < self._style[annotator]))
        right &= ~(asked.later & (_uniform(answer_key, 6) < self._overlooks[annotator]))
        unsure = _uniform(answer_key, 2) < self._unsure[annotator]
        label = np.where(unsure, 0, np.where(asked.correct == right, 1, -1)).astype(np.int8)

        mean = np.where(right, self._sure_right[annotator], self._sure_wrong[annotator])
        confidence = np.clip(mean + 0.15 * ndtri(_uniform(answer_key, 3)), 0.0, 1.0).astype(np.float32)
        milliseconds = self._median_ms[annotator] * np.exp(0.6 * ndtri(_uniform(answer_key, 4)))
        spoken = _mix(answer_key + (label + 2).astype(np.uint64))
        event_ids = [f"sim-{a:016x}{b:016x}" for a, b in zip(spoken.tolist(), _mix(spoken).tolist(), strict=True)]
        return pa.table(
            [
                pa.array(event_ids),
                pa.array([i.item_id for i in items]).take(pa.array(asked.item)),
                pa.array(asked.line, pa.int32()),
                pa.array(self.annotator_ids).take(pa.array(annotator)),
                pa.array(label),
                pa.array(confidence, mask=unsure),
                pa.array(milliseconds.astype(np.int64)),
                pa.array([now] * len(label), pa.timestamp("us", tz="UTC")),
                pa.array(["simulated"] * len(label)),
            ],
            schema=ANNOTATION_SCHEMA,
        )

    def _asked(self, items: Sequence[Item], truth: Mapping[str, np.ndarray], keys: np.ndarray, wanted: int) -> _Asked:
        """Which lines each of the members with these keys is asked about."""
        parts: list[_Asked] = []
        for number, item in enumerate(items):
            correct = _truth_of(item, truth) > 0
            item_key = np.uint64(self._key("i:" + item.item_id + "\0" + "\n".join(item.lines)))
            drawn = np.sort(np.argsort(_mix(keys ^ item_key), kind="stable")[:wanted])
            lines = np.asarray(item.to_review, dtype=np.int64)
            wrong = ~correct[lines]
            parts.append(
                _Asked(
                    item=np.full(wanted * len(lines), number),
                    member=np.repeat(drawn, len(lines)),
                    line=np.tile(lines, wanted),
                    correct=np.tile(~wrong, wanted),
                    key=np.tile(_mix(item_key + lines.astype(np.uint64)), wanted),
                    clean=np.full(wanted * len(lines), not wrong.any()),
                    later=np.tile(wrong & (np.cumsum(wrong) > 1), wanted),
                )
            )
        if not parts:
            return _Asked(*([np.empty(0, dtype=np.int64)] * len(_Asked._fields)))
        return _Asked(*map(np.concatenate, zip(*parts, strict=True)))

    def _skill(self, progress: float) -> tuple[np.ndarray, np.ndarray]:
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is {progress}: it is the share of the run that is over, from 0 to 1")
        shift = np.where(self._drifts, 1.0 - 2.0 * progress, 0.0)
        return (
            np.clip(self._sensitivity + shift * _DRIFT[0], 0.0, 1.0),
            np.clip(self._specificity + shift * _DRIFT[1], 0.0, 1.0),
        )

    def _members(self, annotators: Sequence[str] | None) -> np.ndarray:
        if annotators is None:
            return np.arange(len(self.annotator_ids))
        index = {name: i for i, name in enumerate(self.annotator_ids)}
        unknown = [name for name in annotators if name not in index]
        if unknown:
            raise ValueError(f"annotators {unknown} are not in the crowd: it has {', '.join(self.annotator_ids)}")
        return np.array(sorted({index[name] for name in annotators}), dtype=np.int64)

    def _key(self, text: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed}\0{text}".encode(), digest_size=8).digest(), "little")


def _given(values: Sequence[float | None], fallback: np.ndarray) -> np.ndarray:
    return np.array([f if value is None else value for value, f in zip(values, fallback, strict=True)])


def _wanted(labels_per_item: int | None, members: int) -> int:
    wanted = members if labels_per_item is None else labels_per_item
    if not 1 <= wanted <= members:
        raise ValueError(f"labels_per_item is {labels_per_item}: use 1 to {members}, the annotators taking part")
    return wanted


def _truth_of(item: Item, truth: Mapping[str, np.ndarray]) -> np.ndarray:
    if item.item_id not in truth:
        raise DataError(f"item {item.item_id!r} has no truth: give one value for each of its lines", field="truth")
    values = np.asarray(truth[item.item_id])
    if values.shape != (item.places,) or not np.isin(values, (-1, 1)).all():
        last = " (its end is the last)" if item.places > len(item.lines) else ""
        raise DataError(
            f"item {item.item_id!r}: truth must be +1 or -1 for each of its {item.places} lines{last}, "
            f"not {values.tolist()}",
            field="truth",
        )
    return values


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea, Flood 2014): a random-looking bijection of 64-bit integers. Any shape, uint64."""
    x = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(key: np.ndarray, stream: int) -> np.ndarray:
    """Uniform on the open interval (0, 1), a function of (key, stream). float64, the shape of `key`."""
    bits = _mix(key ^ np.uint64(0xD1B54A32D192ED03 * (stream + 1) & 0xFFFFFFFFFFFFFFFF)) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53
