"""`MetricsLog`: what a run writes round by round, as files that a report reads; trackers are told its numbers."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crlhf_ray.errors import DataError
from crlhf_ray.report.run_files import RELIABILITY_SCHEMA, read_jsonl
from crlhf_ray.report.trackers import Trackers

#: A NaN in one of these means that training has gone wrong, so the row is refused; elsewhere NaN means "undefined"
#: (an AUC with one class) and is written as null.
MUST_BE_FINITE = frozenset(
    {"round", "reward/mean", "reward/std", "train_pass_rate", "pass_at_1", "reward"}
    | {f"learner/{name}" for name in ("loss", "policy_loss", "value_loss", "kl", "kl_coef", "entropy")}
)


class MetricsLog:
    """Append-only files of a run (schemas: `crlhf_ray.report.run_files`), whose numbers trackers are told.

    Each append is on disk (fsync) before it returns. Used as a context manager, or closed by `close`.

    Args:
        run_dir: created where absent.
        resume_at: the first round that will be run now. Rows of that round and later, left by a process that died
            after its last checkpoint, are removed, so that a resumed run's files equal an uninterrupted one's.
            An evaluation's round counts the rounds learnt from, so that of ``resume_at`` itself still stands: it
            was made with the checkpoint's weights. None: nothing is removed.
        trackers: names, as in `run.tracking`. settings: what they show of the run beside its numbers.
        say: is told of a tracker that fails.
    """

    def __init__(
        self,
        run_dir: str | Path,
        resume_at: int | None = None,
        *,
        trackers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = warnings.warn,
    ):
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._metrics = self.run_dir / "metrics.jsonl"
        self._evaluations = self.run_dir / "evaluations.jsonl"
        self._samples = self.run_dir / "samples.jsonl"
        self._reliability = self.run_dir / "reliability.parquet"
        end = math.inf if resume_at is None else resume_at
        _keep(self._metrics, lambda row: row["round"] < end)
        _keep(self._samples, lambda row: row["round"] < end)
        _keep(self._evaluations, lambda row: row["round"] <= end)
        if resume_at is not None and self._reliability.exists():
            table = pq.read_table(self._reliability)
            kept = np.asarray(table["round"]) < resume_at
            self._write_reliability(table.filter(pa.array(kept)))
        rows = self.rows()
        self._last_round = rows[-1]["round"] if rows else None
        self._trackers = Trackers(trackers, self.run_dir, settings or {}, resume_at, say)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a round's metrics: nested mappings of scalars, strings and lists of these.

        Raises:
            DataError: no integer "round" later than the last one, a value that is not a plain scalar, an infinity,
                or a NaN where none may be.
        """
        number = row.get("round")
        if self._last_round is not None and isinstance(number, int) and number <= self._last_round:
            raise DataError(
                f"round {number} after round {self._last_round}; to redo rounds open the log with resume_at={number}",
                file=str(self._metrics),
                field="round",
            )
        plain = _append(self._metrics, [row])[0]
        self._last_round = plain["round"]
        self._trackers.log(plain["round"], {name: value for name, value in plain.items() if name != "round"})

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Add an evaluation; it takes the place of an earlier one of the same round and split. Raises as `append`."""
        same = (row.get("round"), row.get("split"))
        _keep(self._evaluations, lambda old: (old["round"], old.get("split")) != same)
        plain = _append(self._evaluations, [row])[0]
        if plain.get("pass_at_1") is not None:
            self._trackers.log(plain["round"], {plain.get("split", "all"): {"pass_at_1": plain["pass_at_1"]}})

    def append_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add sampled programs with their lines' posteriors; a few a round are enough for the report."""
        _append(self._samples, rows)

    def append_reliability(self, table: pa.Table) -> None:
        """Add one round's reliabilities; columns of RELIABILITY_SCHEMA, the nullable ones optional, others left out.

        Raises:
            DataError: annotator_id or round is missing, or a column has another type.
        """
        columns = {}
        for field in RELIABILITY_SCHEMA:
            if field.name in table.column_names:
                try:
                    columns[field.name] = table[field.name].cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise DataError(str(error), file=str(self._reliability), field=field.name) from error
            elif field.nullable:
                columns[field.name] = pa.nulls(table.num_rows, field.type)
            else:
                raise DataError(
                    f"the column is missing; found {table.column_names}", file=str(self._reliability), field=field.name
                )
        new = pa.table(columns, schema=RELIABILITY_SCHEMA)
        old = [pq.read_table(self._reliability, schema=RELIABILITY_SCHEMA)] if self._reliability.exists() else []
        self._write_reliability(pa.concat_tables([*old, new]))

    def rows(self) -> list[dict[str, Any]]:
        """The metrics written so far, in order of rounds."""
        return read_jsonl(self._metrics)

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations written so far, in file order."""
        return read_jsonl(self._evaluations)

    def close(self) -> None:
        self._trackers.close()

    def _write_reliability(self, table: pa.Table) -> None:
        new = self._reliability.with_suffix(".new")
        pq.write_table(table, new)
        _replace(new, self._reliability)


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = [_plain(row, path, "") for row in rows]
    for row in plain:
        if type(row.get("round")) is not int:
            raise DataError(
                f"every row needs an integer round, found {row.get('round')!r}", file=str(path), field="round"
            )
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in plain))
        file.flush()
        os.fsync(file.fileno())
    return plain


def _plain(value: Any, path: Path, name: str) -> Any:
    """The value in plain Python types, for JSON. NaN becomes None, or an error where it must not be."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, path, f"{name}/{key}" if name else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, path, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isinf(value) or name in MUST_BE_FINITE:
            raise DataError(
                f"is {value}: training has diverged, or the value was computed from nothing", file=str(path), field=name
            )
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(
        f"is a {type(value).__module__}.{type(value).__qualname__}; only numbers, strings, lists and mappings are "
        "written (call .item() on a tensor)",
        file=str(path),
        field=name,
    )


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON Lines file with the wanted rows only, and without a last line torn by a crash."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    lines = zip(text.split("\n")[:-1], read_jsonl(path), strict=True)
    kept = "".join(line + "\n" for line, row in lines if wanted(row))
    if kept != text:
        new = path.with_suffix(".new")
        new.write_text(kept, encoding="utf-8")
        _replace(new, path)


def _replace(new: Path, path: Path) -> None:
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
