"""Map-reduce aggregation of synthetic votes in Parquet: time and peak memory at 1, 10 and 100 million labels.

    python benchmarks/aggregation_scale.py [--labels 1000000 10000000 100000000] [--dir FOLDER]

Peak memory is the most that all processes of this run held together (proportional set size, so that shared pages
count once), Ray and its object store included, sampled twice a second. Needs about 40 bytes of disk a label.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.cluster import connect

VOTES_A_TASK, GOLD_SHARE, ROW_GROUP = 5, 0.01, 1_000_000


def generate(path: Path, gold: Path, labels: int, workers: int) -> None:
    """Votes of people with skills around .75 in random order of tasks, a row group at a time."""
    skill = np.random.default_rng(0).beta(12, 4, size=(workers, 2))
    with pq.ParquetWriter(path, pa.schema([("task", pa.int64()), ("worker", pa.int64()), ("label", pa.int8())])) as out:
        for block, start in enumerate(range(0, labels, ROW_GROUP)):
            rng = np.random.default_rng([1, block])
            n = min(ROW_GROUP, labels - start)
            task = (np.arange(start, start + n)) // VOTES_A_TASK
            worker = (rng.integers(0, workers, n) // VOTES_A_TASK) * VOTES_A_TASK + np.arange(
                start, start + n
            ) % VOTES_A_TASK
            worker = worker % workers
            truth = truth_of(task)
            label = np.where(rng.random(n) < skill[worker, truth], truth, 1 - truth).astype(np.int8)
            order = rng.permutation(n)
            out.write_table(pa.table({"task": task[order], "worker": worker[order], "label": label[order]}))
    known = np.arange(0, labels // VOTES_A_TASK, int(1 / GOLD_SHARE))[:100_000]
    with gold.open("w") as file:
        file.write("task,label\n")
        file.writelines(f"{t},{z}\n" for t, z in zip(known, truth_of(known), strict=True))


def truth_of(task: np.ndarray) -> np.ndarray:
    """A fixed coin for each task."""
    return ((task * 2654435761) >> 16) & 1


class Peak(threading.Thread):
    """The largest sum of proportional set sizes of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.largest, self._stop_it = 0, 0, threading.Event()

    def run(self) -> None:
        while not self._stop_it.wait(0.5):
            sizes = []
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    sizes.append(process.memory_full_info().pss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.most, self.largest = max(self.most, sum(sizes)), max(self.largest, *sizes)

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary folder)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="scale", dir=options.dir))
    heads = ("labels", 12), ("seconds", 8), ("labels/s", 10), ("peak MB", 8), ("largest MB", 10), ("passes", 6)
    print(" ".join(f"{name:>{width}}" for name, width in (*heads, ("accuracy", 8))))
    try:
        for labels in options.labels:
            path, gold = work / "votes.parquet", work / "gold.csv"
            generate(path, gold, labels, options.workers)
            temp = tempfile.mkdtemp(prefix="ray", dir="/tmp")
            peak = Peak()
            peak.start()
            with connect(num_cpus=options.cpus, _temp_dir=temp, object_store_memory=300 * 1024**2):
                begun = time.perf_counter()
                result = aggregate_parquet([path], work / "out", gold)
                seconds = time.perf_counter() - begun
            peak.stop()
            right = total = 0
            for part in result.consensus.glob("*.parquet"):
                table = pq.read_table(part)
                task = table["task"].cast(pa.int64()).to_numpy()
                right += int((table["label"].to_numpy() == truth_of(task)).sum())
                total += len(task)
            print(
                f"{labels:>12,} {seconds:>8.1f} {labels / seconds:>10,.0f} {peak.most / 1e6:>8,.0f} "
                f"{peak.largest / 1e6:>10,.0f} {result.passes:>6} {right / total:>8.4f}   used {result.report.used:,}",
                flush=True,
            )
            shutil.rmtree(work / "out", ignore_errors=True)
            shutil.rmtree(temp, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
