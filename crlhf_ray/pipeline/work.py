"""`Work`: one group of samples on its way from the policy to the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.rollout.sample import Line, Sample
from crlhf_ray.sandbox.verdict import Verdict


@dataclass
class Work:
    """The samples of one problem, which a baseline needs all of.

    number: counts groups from the start of the run; seeds and problems follow from it. version: of the weights when it
    was begun. samples: those that are drawn, and once they are checked (`items` is not empty, or all were lost) those
    that the sandbox could check. lost: those that it could not. verdicts: None, and truth: nothing, where the problem
    has no tests. waiting: ids of items that are not reviewed yet.
    """

    number: int
    problem_id: str
    version: int
    sample_ids: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)
    verdicts: list[Verdict | None] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    checked: bool = False
    lost: int = 0

    def take(self, sample: Sample) -> bool:
        """Add a sample; whether the group is complete. The order is that of the ids, whoever was drawn first."""
        self.samples.append(sample)
        if len(self.samples) < len(self.sample_ids):
            return False
        self.samples.sort(key=lambda one: self.sample_ids.index(one.sample_id))
        return True

    def keep(self, found: Sequence[tuple[Sample, Verdict | None, Item]], truth: Mapping[str, np.ndarray]) -> None:
        """Take note of what the sandbox found; samples that it could not check are gone."""
        self.lost = len(self.sample_ids) - len(found)
        self.samples, self.verdicts = [sample for sample, _, _ in found], [verdict for _, verdict, _ in found]
        self.items = [item for _, _, item in found]
        self.truth = {item.item_id: truth[item.item_id] for item in self.items if item.item_id in truth}
        self.waiting, self.checked = {item.item_id for item in self.items}, True

    @property
    def passed(self) -> list[bool | None]:
        """Whether each sample passes its tests; None where there are none."""
        return [None if verdict is None else verdict.passed for verdict in self.verdicts]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values. A group that is not wholly drawn is drawn again."""
        if not self.checked:
            return {"number": self.number}
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Work:
        """A group that was checked when its `state` was taken."""
        samples = [Sample(**{**one, "lines": tuple(Line(**line) for line in one["lines"])}) for one in state["samples"]]
        return cls(
            **{
                **state,
                "samples": samples,
                "verdicts": [one and Verdict(**one) for one in state["verdicts"]],
                "items": [Item(**one) for one in state["items"]],
            }
        )
