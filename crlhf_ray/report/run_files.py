"""The files of a run folder that a report is made from: their schema, and reading them back.

Every file but ``settings.json`` is optional: a run that stopped after its first round still reads. All rates,
posteriors and probabilities are fractions from 0 to 1; all times are seconds.

``settings.json``: the resolved settings, nested as in the config file.

``metrics.jsonl``, one object a round; only ``round`` is required:

    {"round": 3,                          0-based
     "reward": {"mean": .61, "std": .2},  over the round's samples
     "samples": 48,                       programs sampled in this round and checked by the sandbox
     "unchecked": 0,                      programs that the sandbox failed on, left out of the round
     "untested": 0,                       those whose problem has no tests, left out of the next
     "train_pass_rate": .27,              share of those that pass their tests; null where none has any
     "learner": {"kl": .01,               nats a token, against the reference (SFT) model
                 "kl_coef": .2, "loss": .4, "entropy": .9, "grad_norm": 1.2,
                 "logprob_gap_mean": 1e-5, "logprob_gap_max": 4e-5, ...},   |rollout - learner|, nats a token
     "aggregation": {"consensus_accuracy": .94, "majority_accuracy": .9,    share of reviewed lines, against line truth
                     "consensus_auc": .95, "labels": 1200, ...},            labels: new in this round
     "carried": {"human": .8, "llm": .2},                                   share of the marks' evidence by source
     "rollout": {"serving": 2, "wanted": 3,                                 replicas at the round's end
                 "changes": [{"before": 2, "after": 3, "why": "..."}, ...]},    by the autoscaler since the last row
     "seconds": {"generate": 7.1, "check": .4, "review": .1, "aggregate": .2, "learn": 16.0, "sync": .6, ...},
                                          by phase; phases whose names share a first word are shown as one
     "alerts": ["annotator collapse: ...", ...]}                            or objects with kind, message, remedy

``evaluations.jsonl``, one object an evaluation:

    {"round": 0,             how many rounds the evaluated weights had learnt from; 0 is before training
     "split": "heldout", "n": 10, "temperature": .8,      n: samples a problem
     "unchecked": 0,                                       samples left out, because the sandbox failed on them
     "pass_at_1": .21, "low": .17, "high": .25,            95% interval
     "per_problem": {"strings/reverse": .3, ...}}          pass@1 of each problem; optional

``reliability.parquet``: RELIABILITY_SCHEMA, one row an annotator and round; nulls where unknown.

``samples.jsonl``, one object a program:

    {"round": 3, "sample_id": "...", "problem_id": "...", "item_id": "...", "prompt": "def f(x):...",
                                                                            item_id: as in the marks; optional
     "lines": [{"text": "    return x", "p_correct": .97, "truth": 1, "to_review": true}, ...],
                p_correct and truth (+1 correct, -1 wrong) null where unknown
     "end": {"p_correct": .9, "truth": 1},   whether nothing is missing at the end; null where that was not asked
     "reward": .8, "passed": false}      passed: null where there are no tests
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crlhf_ray.errors import DataError

#: One row an annotator and round. sensitivity: P(says correct | correct); specificity: P(says wrong | wrong).
#: *_low, *_high: 95% interval. labels: marks so far, gold_labels: those on honeypots.
#: true_*: the simulated annotator's real skill, null for people. kind: such as "expert" or "human".
RELIABILITY_SCHEMA = pa.schema(
    [
        pa.field("annotator_id", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("sensitivity", pa.float64()),
        pa.field("sensitivity_low", pa.float64()),
        pa.field("sensitivity_high", pa.float64()),
        pa.field("specificity", pa.float64()),
        pa.field("specificity_low", pa.float64()),
        pa.field("specificity_high", pa.float64()),
        pa.field("labels", pa.int64()),
        pa.field("gold_labels", pa.int64()),
        pa.field("true_sensitivity", pa.float64()),
        pa.field("true_specificity", pa.float64()),
        pa.field("kind", pa.string()),
    ]
)


@dataclass(frozen=True)
class Run:
    """What a run folder holds. Rows are in file order; absent files give empty values."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def heldout(self) -> list[dict[str, Any]]:
        """Held-out evaluations by round; of two for one round, the later one."""
        by_round = {row["round"]: row for row in self.evaluations if row.get("split") == "heldout"}
        return [by_round[number] for number in sorted(by_round)]


def run_folder(run_dir: str | Path) -> Path:
    """The folder, which is a run's.

    Raises:
        DataError: the folder does not exist or holds none of the files.
    """
    directory = Path(run_dir)
    if not directory.is_dir():
        raise DataError("there is no such folder; give the run.dir of a training run", file=str(directory))
    if not any((directory / name).exists() for name in ("settings.json", "metrics.jsonl", "evaluations.jsonl")):
        raise DataError(
            "holds no settings.json, metrics.jsonl or evaluations.jsonl: not a run folder", file=str(directory)
        )
    return directory


def read_run(run_dir: str | Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: the folder does not exist or holds none of the files, or a file holds something unreadable.
    """
    directory = run_folder(run_dir)
    return Run(
        directory=directory,
        settings=read_settings(directory / "settings.json"),
        metrics=read_jsonl(directory / "metrics.jsonl"),
        evaluations=read_jsonl(directory / "evaluations.jsonl"),
        reliability=read_reliability(directory / "reliability.parquet"),
        samples=read_jsonl(directory / "samples.jsonl"),
    )


class Appended:
    """A JSON Lines file that grows, whose objects each have an integer "round"."""

    def __init__(self, path: Path):
        self.path = path
        self._file, self._end, self._rows = (0, 0), 0, list[dict[str, Any]]()

    def rows(self) -> list[dict[str, Any]]:
        """All rows, [] where the file is absent; only what was appended since the last call is read.

        A last line without its newline is still being written, or was when the process died: it does not count.

        Raises:
            DataError: a line is not such an object.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            now = os.fstat(file.fileno())
            if (now.st_dev, now.st_ino) != self._file or now.st_size < self._end:  # a resumed run wrote it again
                self._file, self._end, self._rows = (now.st_dev, now.st_ino), 0, []
            file.seek(self._end)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        new = [self._row(line, len(self._rows) + n) for n, line in enumerate(whole.split(b"\n")[:-1], start=1)]
        self._end += len(whole)
        self._rows = self._rows + new
        return self._rows

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            said = line[:80].decode(errors="replace")
            raise DataError(f"not JSON ({error}): {said!r}", file=str(self.path), row=number) from error
        if not isinstance(row, dict) or not isinstance(row.get("round"), int):
            raise DataError(
                "every row is an object with an integer round", file=str(self.path), row=number, field="round"
            )
        return row


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of such a file; raises as `Appended.rows`."""
    return Appended(path).rows()


def read_reliability(path: Path) -> list[dict[str, Any]]:
    """Rows of reliability.parquet as dicts, NaN as None; [] where the file is absent.

    Raises:
        DataError: not Parquet, or a required column is missing.
    """
    if not path.exists():
        return []
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"not a Parquet file ({error})", file=str(path)) from error
    for name in ("annotator_id", "round"):
        if name not in table.column_names:
            raise DataError(f"the column is missing; found {table.column_names}", file=str(path), field=name)
    return [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def round_seconds(row: Mapping[str, Any]) -> float:
    """A round's seconds without starting up and evaluations, which its row of metrics.jsonl holds as well."""
    phases = (row.get("seconds") or {}).items()
    return sum(seconds for name, seconds in phases if not name.startswith(("start", "evaluate")))


def alert_text(alert: Any) -> str:
    """An alert as one line: a string as it is, an object as "kind: message; remedy"."""
    if not isinstance(alert, dict):
        return str(alert)
    text = ": ".join(str(alert[key]) for key in ("kind", "message") if alert.get(key)) or json.dumps(alert)
    return f"{text}; {alert['remedy']}" if alert.get("remedy") else text


def read_settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error})", file=str(path)) from error
    if not isinstance(settings, dict):
        raise DataError(f"holds a {type(settings).__name__}, not an object of settings", file=str(path))
    return settings
