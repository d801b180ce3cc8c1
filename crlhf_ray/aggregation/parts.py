"""What `mapreduce` does to one part of the votes; each stage is an object that is called with the part's number.

A part's votes lie in ``work`` as integer arrays, its tasks and annotators by name beside them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.util import hash_array
from scipy.special import expit

from crlhf_ray.aggregation.batch import consensus_table, tidy
from crlhf_ray.aggregation.files import Columns, read_row_group
from crlhf_ray.aggregation.rejections import RowReport, clean


@dataclass(frozen=True)
class Partition:
    work: Path
    parts: int
    columns: Columns

    def __call__(self, path: str, group: int) -> RowReport:
        report = RowReport()
        writers: dict[int, pq.ParquetWriter] = {}
        try:
            with pq.ParquetFile(path) as file:
                for chunk, rows in read_row_group(path, file, group, report, self.columns):
                    table = clean(chunk, rows, path, report)
                    part = hash_array(table["task"].to_numpy(), categorize=True) % self.parts
                    order = np.argsort(part, kind="stable")
                    table = table.iloc[order]
                    table["label"] = [None if v is None else str(v) for v in table["label"]]
                    arrow = pa.Table.from_pandas(table, preserve_index=False, schema=_SPILL)
                    edges = np.searchsorted(part[order], np.arange(self.parts + 1))
                    for i in np.flatnonzero(np.diff(edges)):
                        if i not in writers:
                            folder = self.work / f"{i}"
                            folder.mkdir(exist_ok=True)
                            name = f"{hash_array(np.array([path], object))[0]:016x}-{group}.parquet"
                            writers[i] = pq.ParquetWriter(folder / name, _SPILL, compression="zstd")
                        writers[i].write_table(arrow.slice(edges[i], edges[i + 1] - edges[i]))
        finally:
            for writer in writers.values():
                writer.close()
        return report


_SPILL = pa.schema(
    [
        ("task", pa.string()),
        ("worker", pa.string()),
        ("label", pa.string()),
        ("weight", pa.float64()),
        ("time", pa.float64()),
        ("row", pa.int64()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Encode:
    work: Path
    truth: pd.Series
    classes: tuple[Any, Any]

    def __call__(self, part: int) -> dict[str, Any]:
        report = RowReport()
        files = sorted((self.work / f"{part}").glob("*.parquet"))
        if not files:
            votes = _SPILL.empty_table().to_pandas()
        else:
            votes = pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)
        shutil.rmtree(self.work / f"{part}", ignore_errors=True)
        names = {str(c): c for c in self.classes} | ({"0": None} if self.classes == (-1, 1) else {})
        votes["label"] = votes["label"].map(lambda v: names.get(v, v), na_action="ignore").astype(object)
        votes = tidy(votes.sort_values(["file", "row"], kind="stable"), report, self.classes)
        votes = votes[votes["label"].notna()]
        task, tasks = pd.factorize(votes["task"])
        worker, workers = pd.factorize(votes["worker"])
        label = np.where((votes["label"] == self.classes[1]).to_numpy(), 1, -1)
        gold = np.array([_sign(v, self.classes) for v in self.truth.reindex(tasks)], np.int8)
        for name, values in (("task", tasks), ("worker", workers)):
            pq.write_table(pa.table({name: pa.array(values, pa.string())}), self.work / f"{part}-{name}s.parquet")
        _save(
            self.work,
            part,
            task=task.astype(np.int32),
            worker=worker.astype(np.int32),
            label=label.astype(np.int8),
            weight=votes["weight"].to_numpy(np.float32),
            gold=gold,
        )
        labels = np.bincount(worker, minlength=len(workers))
        return {
            "report": report,
            "workers": np.asarray(workers, object),
            "labels": labels,
            "gold": np.array([(gold < 0).sum(), (gold > 0).sum()]),
        }


def _sign(value: Any, classes: tuple[Any, Any]) -> int:
    return 0 if pd.isna(value) else 1 if value == classes[1] else -1


def _save(work: Path, part: int, **arrays: Any) -> None:
    with (work / f"{part}.npz").open("wb") as file:
        np.savez(file, **arrays)


def _load(work: Path, part: int) -> dict[str, np.ndarray]:
    with np.load(work / f"{part}.npz") as arrays:
        return dict(arrays)


@dataclass(frozen=True)
class Renumber:
    """Annotators' codes of the part become those of the whole crowd. Runs after `Encode` listed them all."""

    work: Path
    workers: Any

    def __call__(self, part: int) -> None:
        import ray

        known = pd.Index(ray.get(self.workers))
        arrays = _load(self.work, part)
        names = pq.read_table(self.work / f"{part}-workers.parquet")["worker"].to_pandas()
        arrays["worker"] = known.get_indexer(names)[arrays["worker"]].astype(np.int32)
        _save(self.work, part, **arrays)


def _log_odds(votes: dict[str, np.ndarray], evidence: np.ndarray, prior: float) -> np.ndarray:
    weighed = votes["weight"] * evidence[votes["worker"], (votes["label"] > 0).astype(int)]
    return prior + np.bincount(votes["task"], weighed, minlength=len(votes["gold"]))


@dataclass(frozen=True)
class Count:
    work: Path
    handed: Any
    workers: int
    gold_only: bool

    def __call__(self, parts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        import ray

        evidence, prior = ray.get(self.handed)
        counts, shares = np.zeros((self.workers, 4)), np.zeros(2)
        for part in parts:
            votes = _load(self.work, part)
            gold = votes["gold"]
            p = np.where(gold != 0, (gold + 1) / 2, expit(_log_odds(votes, evidence, prior)))
            known = (gold != 0) if self.gold_only else np.ones(len(gold), bool)
            shares += [(1 - p)[gold == 0].sum(), p[gold == 0].sum()]
            weight = votes["weight"] * known[votes["task"]]
            up = votes["label"] > 0
            for column, share in enumerate((1 - p, p)):
                credit = weight * share[votes["task"]]
                counts[:, 2 * column] += np.bincount(votes["worker"], credit * ~up, minlength=self.workers)
                counts[:, 2 * column + 1] += np.bincount(votes["worker"], credit * up, minlength=self.workers)
        return counts, shares


@dataclass(frozen=True)
class Answer:
    work: Path
    out: Path
    handed: Any
    classes: tuple[Any, Any]

    def __call__(self, part: int) -> None:
        import ray

        evidence, prior, usual = ray.get(self.handed)
        votes = _load(self.work, part)
        gold = votes["gold"]
        p = np.where(gold != 0, (gold + 1) / 2, expit(_log_odds(votes, evidence, prior)))
        tasks = pq.read_table(self.work / f"{part}-tasks.parquet")["task"].to_pandas()
        count = np.bincount(votes["task"], minlength=len(gold))
        table = consensus_table(tasks, np.column_stack([1 - p, p]), self.classes, count, usual)
        table.to_parquet(self.out / f"part-{part:05d}.parquet", index=False)
