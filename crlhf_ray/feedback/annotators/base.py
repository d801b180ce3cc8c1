"""What a machine annotator is: it is shown programs as people are, and says what it thinks of their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from crlhf_ray.aggregation.marks import Item


@dataclass(frozen=True)
class Review:
    """What one annotator says of one program. A review without labels abstains from all of it.

    labels: +1 (correct), -1 (wrong) or 0 (unsure) by line number, for some or all of `Item.to_review`.
    confidence: 0 to 1 by line number; a line that is missing here was marked without one.
    seconds: time spent on the program. cost: money spent, in the currency of the annotator's budget.
    note: why it abstained, for the run's report.
    """

    labels: Mapping[int, int] = field(default_factory=dict)
    confidence: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    cost: float = 0.0
    note: str = ""


class Annotator:
    """One annotator: one model with one prompt, one group of rules, one memory. Subclass it for your own.

    annotator_id: as in the marks; its reliability is learnt under this name. source: a value of `marks.SOURCES`.
    family: annotators of one family share a model or a tool, so their errors are expected to be alike.
    """

    annotator_id: str
    source: str = "check"
    family: str = ""

    def review(self, items: Sequence[Item]) -> Sequence[Review]:
        """One review for each program, in order. Honeypots are among them, and nothing tells which they are."""
        raise NotImplementedError

    def observe(self, items: Sequence[Item], marks: pa.Table, round: int) -> None:
        """Told after a round all marks on its programs (ANNOTATION_SCHEMA), honeypots' left out."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if uninterrupted, as JSON can hold it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""

    def close(self) -> None:
        """Let go of what it holds. Harmless when called twice."""
