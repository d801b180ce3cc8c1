"""A real Ray actor, killed with SIGKILL in the middle of its work."""

import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.aggregation.snapshots import go_back
from crlhf_ray.feedback.log import AnnotationLog
from tests.aggregation.tables import annotations, gold, keeper


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
    actor = killable().remote(str(tmp_path / "killed"), settings, AnnotationLog(tmp_path / "marks"))
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

    undisturbed = keeper(tmp_path / "undisturbed", settings)
    undisturbed.add_gold(gold([(f"item0-{i}", i % 7, 1) for i in range(20)]))
    for i in range(30):
        undisturbed.ingest(batch(i))
    assert stats["events"] == 30 * 200
    assert digest == undisturbed.digest()
    undisturbed.close()


def test_folder_and_log_go_back_to_a_copy_of_a_snapshot_and_forgets_what_came_later(tmp_path):
    def opened():
        return keeper(tmp_path / "crowd")

    actor = opened()
    actor.ingest(batch(0))
    kept = shutil.copyfile(actor.snapshot(), tmp_path / "kept.npz")
    then = actor.digest()
    actor.ingest(batch(1))
    actor.snapshot()
    actor.ingest(batch(2))
    actor.close()
    for _ in range(2):  # as often as one likes
        AnnotationLog(tmp_path / "crowd" / "marks").cut(go_back(tmp_path / "crowd", kept))
        actor = opened()
        assert actor.digest() == then
        assert actor.ingest(batch(1)) == 200
        actor.close()
    AnnotationLog(tmp_path / "crowd" / "marks").cut(go_back(tmp_path / "crowd", None))
    actor = opened()
    assert actor.stats()["events"] == 0
    actor.close()
