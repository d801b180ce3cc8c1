"""Who watches a run: handed in by the front, since a run knows neither the console nor the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa


class Display(Protocol):
    """Shows how far the run is."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[None]: ...

    def advance(self, n: int = 1) -> None: ...

    def say(self, text: str) -> None: ...

    def measured(self, evaluations: Sequence[Mapping[str, Any]]) -> None: ...

    def round_done(self, row: Mapping[str, Any]) -> None: ...


class Metrics(Protocol):
    """Keeps what a run showed, in its folder."""

    def append(self, row: Mapping[str, Any]) -> None: ...

    def append_evaluation(self, row: Mapping[str, Any]) -> None: ...

    def append_samples(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def append_reliability(self, table: pa.Table) -> None: ...

    def evaluations(self) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...
