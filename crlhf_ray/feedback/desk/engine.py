"""What the desk asks of the engine that knows its crowd. Whoever starts the server hands one in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from crlhf_ray.aggregation.monitors import Alert


class Engine(Protocol):
    """The consensus of a crowd. All that it holds can be learnt again from the database."""

    def described(self) -> dict[str, Any]:
        """The settings that its answers depend on, by name: a run that uses the server must have the same."""
        ...

    def position(self) -> int:
        """The cursor up to which the database's marks are folded in."""
        ...

    def fold(self, table: pa.Table, after: int, upto: int) -> int:
        """Take in the marks (ANNOTATION_SCHEMA) between two cursors; returns `position`, which tells whether it did."""
        ...

    def add_gold(self, table: pa.Table) -> int:
        """Take in known truth (GOLD_SCHEMA)."""
        ...

    def consensus(self, item_ids: Sequence[str]) -> pa.Table:
        """CONSENSUS_SCHEMA of every line of these items that was reviewed or has known truth."""
        ...

    def reliability(self) -> pa.Table:
        """One row an annotator: annotator_id, sensitivity, specificity, each with _low and _high, and labels."""
        ...

    def alerts(self, labels_wanted: int = 3) -> list[Alert]:
        """What is wrong with the crowd as it stands."""
        ...

    def agreement(self, sure: float) -> tuple[float | None, int]:
        """``(Krippendorff's alpha of all marks, lines without known truth whose posterior is sure either way)``."""
        ...

    def pairs(self) -> pa.Table:
        """Of each two annotators who marked lines in common: first, second, lines, agreement, kappa (Cohen's)."""
        ...

    def frozen(self) -> Engine:
        """A copy to ask at leisure while this one goes on learning."""
        ...

    def snapshot(self) -> object:
        """Write what it knows and its position to its folder."""
        ...

    def close(self) -> None:
        """Let go of the folder."""
        ...


#: Makes the engine whose state lies in a folder.
MakeEngine = Callable[[Path], Engine]
