"""Votes in Parquet larger than memory: Ray Data maps over parts, and only counts by annotator come together.

1. Partition: each row group is cleaned and its votes are written to one of P part files, by a hash of the task, so that
   a task's votes lie together.
2. Encode: each part drops second votes and becomes integer arrays on disk; the distinct annotators come together.
3. Learn: each pass answers every part's tasks with the annotators' rates of now, and returns soft counts by annotator
   (the sufficient statistics); their sum gives the next rates. Honeypots alone teach in the first pass.
4. Answer: one Parquet file of consensus a part.
The model is that of `Hierarchical` for two classes with full trust; passes stop when the rates stand still.
"""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logit

from crlhf_ray.aggregation.advice import with_advice
from crlhf_ray.aggregation.base import interval_columns
from crlhf_ray.aggregation.batch import (
    MOST_LABELS,
    NO_GOLD,
    check_gold,
    classes_of,
    no_votes,
    read_gold_file,
    too_many_labels,
)
from crlhf_ray.aggregation.files import (
    CHUNK_ROWS,
    USUAL,
    Columns,
    columns_of_parquet,
    readable,
    refuse_folder,
)
from crlhf_ray.aggregation.parts import Answer, Count, Encode, Partition, Renumber
from crlhf_ray.aggregation.rejections import RowReport, label_value
from crlhf_ray.aggregation.shrinkage import class_shares, fitted_strength
from crlhf_ray.errors import DataError

#: Votes a part: some 200 MB while it is worked on.
PART_VOTES = 1_000_000
START, START_WEIGHT, SHARE_WEIGHT = 0.7, 2.0, 10.0


@dataclass(frozen=True)
class MapReduceResult:
    """consensus: folder of Parquet files with the columns of `Aggregation.consensus`. reliability: by worker."""

    consensus: Path
    reliability: pd.DataFrame
    report: RowReport
    passes: int


def aggregate_parquet(
    labels: Sequence[Path | str],
    out: Path | str,
    gold: Path | str | None = None,
    *,
    classes: tuple[Any, Any] | None = None,
    columns: Columns = USUAL,
    max_passes: int = 20,
    tol: float = 1e-3,
    part_votes: int = PART_VOTES,
) -> MapReduceResult:
    """Consensus of votes in Parquet files (task, worker, label, optionally weight), in bounded memory.

    Needs `ray.init` first, and room on ``out``'s disk for about 20 bytes a vote while it works. Raises as
    `batch.aggregate` does. tol: largest change of a rate between passes at which learning ends.
    """
    import ray

    paths, out = [Path(p) for p in labels], Path(out)
    if bad := [p for p in paths if p.suffix != ".parquet"]:
        raise DataError("is not a Parquet file: convert it, or leave out --big", file=str(bad[0]))
    truth = read_gold_file(Path(gold), columns) if gold is not None else NO_GOLD
    groups, total = _row_groups(paths, columns)
    report = RowReport()
    pair = _two_classes(paths, truth, gold, report, columns) if classes is None else classes
    work = out / "parts"
    shutil.rmtree(work, ignore_errors=True)
    (work / "consensus").mkdir(parents=True)
    parts = max(1, -(-total // part_votes))
    try:
        for row in _mapped(groups, Partition(work, parts, columns)):
            report.merge(row)
        encoded = _mapped([{"part": i} for i in range(parts)], Encode(work, truth["label"], pair))
        for part in encoded:
            report.merge(part["report"])
        workers = pd.Index(np.unique(np.concatenate([part["workers"] for part in encoded])))
        if not len(workers):
            raise no_votes(report, paths[0])
        known = sum(part["gold"] for part in encoded)  # by class
        check_gold(truth, gold, pair, int(known.sum()), report)
        shared = ray.put(workers.to_numpy())
        _mapped([{"part": i} for i in range(parts)], Renumber(work, shared))
        rates, counts, prior, passes = _learnt(work, parts, len(workers), known, max_passes, tol)
        usual = np.average(rates[0], axis=0, weights=counts.sum(axis=1) + 1e-9)
        last = ray.put((_evidence(rates), prior, usual))
        _mapped([{"part": i} for i in range(parts)], Answer(work, work / "consensus", last, pair))
        _put_in_place(work / "consensus", out / "consensus")
        return MapReduceResult(out / "consensus", _reliability(workers, counts, encoded), report, passes)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _row_groups(paths: Sequence[Path], columns: Columns) -> tuple[list[dict[str, Any]], int]:
    """All row groups of the files, and how many rows they have together."""
    groups, total = [], 0
    for path in paths:
        if not path.exists():
            raise DataError("no such file", file=str(path))
        refuse_folder(path)
        try:
            with pq.ParquetFile(path) as file:
                columns_of_parquet(file, str(path), columns)
                groups += [{"path": str(path), "group": g} for g in range(file.num_row_groups)]
                total += file.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise DataError(f"cannot be read as parquet: {error}; export it again", file=str(path)) from error
    return groups, total


def _learnt(
    work: Path, parts: int, workers: int, known: np.ndarray, max_passes: int, tol: float
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, float, int]:
    """Rates and soft counts by annotator, the log-odds of the classes, and how many passes it took.

    known: honeypots by class.
    """
    import ray

    counts, prior = np.zeros((workers, 4)), 0.0
    rates, passes = _rates(counts), 0
    for passes in range(1, max_passes + 1):
        handed = ray.put((_evidence(rates), prior))
        gold_only = passes == 1 and bool(known.all())  # honeypots that lack a class do not say where to start
        tasks = [{"parts": [int(i) for i in some]} for some in np.array_split(np.arange(parts), 2 * _cpus())]
        sums = _mapped([t for t in tasks if t["parts"]], Count(work, handed, workers, gold_only))
        counts = sum(s[0] for s in sums)
        if not gold_only:
            prior = logit(class_shares(known, sum(s[1] for s in sums), SHARE_WEIGHT)[1])
        before, rates = rates, _rates(counts)
        if passes > 1 and np.abs(rates[0] - before[0]).max() < tol:
            break
    return rates, counts, prior, passes


def _put_in_place(fresh: Path, folder: Path) -> None:
    """The parts of this run instead of those of an earlier one, which may be more."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("part-*.parquet"):
        old.unlink()
    for new in fresh.iterdir():
        new.rename(folder / new.name)


def _two_classes(
    paths: Sequence[Path], truth: pd.DataFrame, gold: Path | str | None, report: RowReport, columns: Columns
) -> tuple[Hashable, Hashable]:
    """By gold and the labels of all files: the first votes alone may all be of one class."""
    given: dict[Hashable, tuple[Any, ...]] = {}  # votes, file and row of the first
    for path in paths:
        start = 0
        with pq.ParquetFile(path) as file:
            wanted = columns_of_parquet(file, str(path), columns)
            label_column = next(theirs for theirs, ours in wanted.items() if ours == "label")
            for batch in file.iter_batches(CHUNK_ROWS, columns=[label_column]):
                coded = readable(batch.column(0), str(path), start, "label").dictionary_encode()
                local = coded.indices.fill_null(-1).to_numpy()
                names = coded.dictionary.to_pylist()
                for i, count in enumerate(np.bincount(local[local >= 0], minlength=len(names)).tolist()):
                    if (label := label_value(names[i])) is not None and count:
                        votes, *first = given.get(label) or (0, str(path), start + 1 + int(np.argmax(local == i)))
                        given[label] = (votes + count, *first)
                if len(given) > MOST_LABELS:
                    raise too_many_labels(path, len(given))
                start += batch.num_rows
    if not given:
        raise DataError("it contains no label; give votes, or name the classes (--class)", file=str(paths[0]))
    index = pd.Index(list(given), dtype=object)
    labels = pd.DataFrame(list(given.values()), index=index, columns=["votes", "file", "row"])
    found = classes_of(labels.sort_values("votes", ascending=False, kind="stable"), truth, gold, report)
    if len(found) != 2:
        raise DataError(f"the labels are {list(found)}; name the two classes that count (--class)", file=str(paths[0]))
    return found[0], found[1]


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _mapped(items: list[dict[str, Any]], function: Any) -> list[Any]:
    """``function`` of each item, as a Ray Data map; results come back pickled, because they are no tables."""
    import pickle

    import ray.data

    def run(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": pickle.dumps(function(**row))}
        except DataError as error:  # raised here it would come back wrapped in Ray's own
            return {"result": pickle.dumps(error)}

    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(run)
    results = [pickle.loads(row["result"]) for row in dataset.iter_rows()]
    for result in results:
        if isinstance(result, DataError):
            raise result
    return results


def _rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(P(right) [n, 2] on negative and on positive tasks, Beta parameters [n, 2, 2])``, shrunk to the crowd's."""
    right, wrong = counts[:, [0, 3]], counts[:, [1, 2]]
    pooled_right, pooled = right.sum(axis=0), right.sum(axis=0) + wrong.sum(axis=0)
    mean = (START * START_WEIGHT + pooled_right) / (START_WEIGHT + pooled)
    shape = np.empty((len(counts), 2, 2))
    for c in range(2):
        strength = fitted_strength(np.stack([right[:, c], wrong[:, c]], axis=1), np.array([mean[c], 1 - mean[c]]))
        shape[:, c, 0] = strength * mean[c] + right[:, c]
        shape[:, c, 1] = strength * (1 - mean[c]) + wrong[:, c]
    return shape[:, :, 0] / shape.sum(axis=2), shape


def _evidence(rates: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Log-likelihood ratio [n, 2] of a negative and of a positive vote."""
    specificity, sensitivity = rates[0][:, 0], rates[0][:, 1]
    return np.stack(
        [np.log1p(-sensitivity) - np.log(specificity), np.log(sensitivity) - np.log1p(-specificity)], axis=1
    )


def _reliability(workers: pd.Index, counts: np.ndarray, encoded: list[dict[str, Any]]) -> pd.DataFrame:
    mean, shape = _rates(counts)
    columns: dict[str, np.ndarray] = {}
    for c, name in ((1, "sensitivity"), (0, "specificity")):
        columns |= {name: mean[:, c], **interval_columns(name, shape[:, c, 0], shape[:, c, 1])}
    labels = np.zeros(len(workers), np.int64)
    for part in encoded:
        labels[workers.get_indexer(part["workers"])] += part["labels"]
    return with_advice(pd.DataFrame({"worker": workers, **columns, "labels": labels}))
