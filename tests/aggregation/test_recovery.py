"""A real Ray actor, killed with SIGKILL in the middle of its work."""

import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from tests.aggregation.tables import annotations, gold


def killable():
    """The actor class, made here so that it travels to the worker by value: workers don't know the tests' folder."""

    class Killable(Aggregator):
        def pid(self):
            return os.getpid()

    return ray.remote(Killable).options(max_restarts=-1, max_task_retries=-1, num_cpus=0)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        yield
        ray.shutdown()


def batch(number, size=200):
    rows = [
        (f"item{number}-{i % 20}", i % 7, f"a{(i * 7 + number) % 30}", 1 if (i + number) % 3 else -1)
        for i in range(size)
    ]
    return annotations(rows, start=number * size)


@pytest.mark.engine
def test_after_sigkill_no_event_is_lost_or_counted_twice(cluster, tmp_path):
    settings = AggregationSettings(snapshot_events=1500)
    actor = killable().remote(str(tmp_path / "killed"), settings)
    ray.get(actor.add_gold.remote(gold([(f"item0-{i}", i % 7, 1) for i in range(20)])), timeout=180)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: [ray.get(actor.ingest.remote(batch(i)), timeout=180) for i in range(30)])
        for _ in range(2):
            os.kill(ray.get(actor.pid.remote(), timeout=180), signal.SIGKILL)
        sending.result(timeout=400)
    os.kill(ray.get(actor.pid.remote(), timeout=180), signal.SIGKILL)
    stats = ray.get(actor.stats.remote(), timeout=180)
    digest = ray.get(actor.digest.remote(), timeout=180)
    ray.kill(actor)

    undisturbed = Aggregator(tmp_path / "undisturbed", settings)
    undisturbed.add_gold(gold([(f"item0-{i}", i % 7, 1) for i in range(20)]))
    for i in range(30):
        undisturbed.ingest(batch(i))
    assert stats["events"] == 30 * 200
    assert digest == undisturbed.digest()
    undisturbed.close()
