"""The aggregation actor under load: durable labels a second from concurrent producers, recovery after SIGKILL, memory.

    python benchmarks/aggregation_actor.py [--labels 2000000] [--annotators 1000000] [--producers 4] [--batch 20000]

Producers are Ray tasks; each sends Arrow batches of ANNOTATION_SCHEMA and waits for each to be acknowledged, which is
after it is on disk. Every annotator labels; then the actor's process is killed and the time is taken until its
successor answers, with the same digest. Wall-clock times: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA
from crlhf_ray.feedback.log import AnnotationLog

LINES = 10


def batches(producer: int, labels: int, size: int, annotators: int, producers: int) -> list[pa.Table]:
    """The producer's share: annotators in turn, five of them on each line."""
    out = []
    for start in range(0, labels, size):
        n = min(size, labels - start)
        index = np.arange(start, start + n)
        annotator = (producer + producers * index) % annotators
        line = index // 5
        columns = {
            "event_id": pa.array([f"{producer}-{i}" for i in index.tolist()]),
            "item_id": pa.array([f"s{producer}-{i}" for i in (line // LINES).tolist()]),
            "line": pa.array((line % LINES).astype(np.int32)),
            "annotator_id": pa.array([f"annotator-{i}" for i in annotator.tolist()]),
            "label": pa.array(np.where(index * 7919 % 10 < 7, 1, -1).astype(np.int8)),
            "confidence": pa.array(np.full(n, 0.8, np.float32)),
            "milliseconds": pa.nulls(n, pa.int64()),
            "created_at": pa.array(index, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "source": pa.array(["simulated"] * n),
        }
        out.append(pa.table(columns, schema=ANNOTATION_SCHEMA))
    return out


def produce(actor, producer: int, labels: int, size: int, annotators: int, producers: int, start_file: str) -> float:  # type: ignore[no-untyped-def]
    """Send everything, one batch ahead of its acknowledgement; returns the wall-clock time of the last one."""
    tables = [ray.put(t) for t in batches(producer, labels, size, annotators, producers)]
    Path(f"{start_file}-{producer}").touch()
    while not Path(start_file).exists():
        time.sleep(0.01)
    waiting: list = []
    for table in tables:
        waiting.append(actor.ingest.remote(table))
        if len(waiting) == 2:
            ray.get(waiting.pop(0))
    ray.get(waiting)
    return time.time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=2_000_000, help="labels in all")
    parser.add_argument("--annotators", type=int, default=1_000_000)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=20_000, help="labels in one Arrow batch")
    parser.add_argument("--dir", type=Path, help="where the actor keeps its state (default: a temporary folder)")
    options = parser.parse_args()

    class Measured(Aggregator):
        def pid(self) -> int:
            return os.getpid()

        def rss(self) -> int:
            return psutil.Process().memory_info().rss

    work = Path(tempfile.mkdtemp(prefix="agg", dir=options.dir))
    ray.init(
        num_cpus=options.producers + 1, include_dashboard=False, log_to_driver=False,
        _temp_dir=tempfile.mkdtemp(prefix="ray", dir="/tmp"), object_store_memory=2 * 1024**3,
    )  # fmt: skip
    try:
        actor = (
            ray.remote(Measured)
            .options(max_restarts=-1, max_task_retries=-1, num_cpus=0)
            .remote(str(work / "state"), AggregationSettings(), AnnotationLog(work / "marks"))
        )
        empty = ray.get(actor.rss.remote())
        ray.get(actor.add_gold.remote(pa.table({"item_id": ["s0-0"], "line": [0], "truth": [1]}, schema=GOLD_SCHEMA)))
        share = options.labels // options.producers
        flag = str(work / "go")
        send = ray.remote(produce).options(num_cpus=1)
        running = [
            send.remote(actor, i, share, options.batch, options.annotators, options.producers, flag)
            for i in range(options.producers)
        ]
        while not all(Path(f"{flag}-{i}").exists() for i in range(options.producers)):
            time.sleep(0.05)
        begun = time.time()
        Path(flag).touch()
        ended = max(ray.get(running))
        stats = ray.get(actor.stats.remote())
        full = ray.get(actor.rss.remote())
        print(f"{stats['labels']:,} labels of {stats['annotators']:,} annotators on {stats['lines']:,} lines")
        print(f"durable labels a second, {options.producers} producers, batches of {options.batch:,}: "
              f"{share * options.producers / (ended - begun):,.0f}")  # fmt: skip
        digest = ray.get(actor.digest.remote())
        disk = [sum(f.stat().st_size for f in (work / name).iterdir()) / 1e6 for name in ("state", "marks")]
        os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
        begun = time.time()
        after = ray.get(actor.stats.remote())
        recovery = time.time() - begun
        assert (after["events"], ray.get(actor.digest.remote())) == (stats["events"], digest), "state differs"
        print(f"recovery after SIGKILL, until the new process answers: {recovery:.2f} s (digest equal)")
        ray.kill(actor)
        time.sleep(1)
        begun = time.time()
        again = Aggregator(work / "state", None, AnnotationLog(work / "marks"))
        print(f"  of which reading the state back: {time.time() - begun:.2f} s; on disk: state {disk[0]:,.0f} MB, "
              f"marks {disk[1]:,.0f} MB")  # fmt: skip
        begun = time.time()
        assert again.ingest(batches(0, 1, 1, 1, 1)[0]) == 0, "an event was taken in twice"
        print(f"first batch after that, which reads the ids of all events: {time.time() - begun:.2f} s")
        print(f"memory of the actor: {empty / 1e6:,.0f} MB empty, {full / 1e6:,.0f} MB full")
        per_annotator = memory_of_annotators(options.annotators)
        print(f"memory an annotator: {per_annotator:,.0f} bytes; "
              f"a label with its line, item and event id: "
              f"{(full - empty - per_annotator * stats['annotators']) / stats['labels']:,.0f} bytes")  # fmt: skip
    finally:
        ray.shutdown()
        shutil.rmtree(work, ignore_errors=True)


def memory_of_annotators(n: int) -> float:
    """Bytes an annotator: their arrays in the state, their name and its place in the codebook."""
    import tracemalloc

    from crlhf_ray.aggregation.encoding import Codebook
    from crlhf_ray.aggregation.state import CrowdState
    from crlhf_ray.aggregation.two_coin import TwoCoinRates

    tracemalloc.start()
    state, book = CrowdState(TwoCoinRates()), Codebook()
    book.encode(np.array([f"annotator-{i}" for i in range(n)], object))
    state.reserve(n, 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / n


if __name__ == "__main__":
    main()
