"""Judging on a Ray cluster."""

import os
import shutil
import tempfile

import pytest
import ray

from crlhf_ray.errors import EngineError
from crlhf_ray.evaluation.judge import Judge
from crlhf_ray.evaluation.limits import JudgeSettings, PoolSettings
from crlhf_ray.evaluation.pool import JudgePool, judge_dataset

from .samples import DOUBLE, RIGHT, WRONG

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", autouse=True)
def cluster():
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_pool_grows_with_its_queue_and_shrinks_after():
    sizes = []

    class Watched(JudgePool):
        def _free(self, flying):
            sizes.append(self.size)
            return super()._free(flying)

    completions = [RIGHT, WRONG, WRONG] * 40
    with Watched(PoolSettings(maximum=2, cpus_per_slot=1, chunk=8)) as pool:
        verdicts = pool.check([(DOUBLE, completion) for completion in completions])
        assert pool.size == 1
    assert [verdict.passed for verdict in verdicts] == [completion == RIGHT for completion in completions]
    assert max(sizes) == 2


def test_a_killed_judge_loses_no_result():
    class Sabotaged(JudgePool):
        killed = 0

        def _free(self, flying):
            if flying and self.killed < 2:
                self.killed += 1
                ray.kill(next(iter(flying.values()))[0])
            return super()._free(flying)

    completions = [RIGHT, WRONG] * 30
    with Sabotaged(PoolSettings(maximum=2, cpus_per_slot=1, chunk=8), JudgeSettings(slots=1, attempts=5)) as pool:
        verdicts = pool.check([(DOUBLE, completion) for completion in completions])
    assert pool.killed == 2
    assert [verdict.passed for verdict in verdicts] == [completion == RIGHT for completion in completions]


def test_too_small_a_cluster_is_named():
    with pytest.raises(EngineError, match=r"needs 64 CPU, and the cluster has 3"):
        JudgePool(PoolSettings(cpus_per_slot=1), JudgeSettings(slots=64))


def test_a_sandbox_that_cannot_start_is_an_error_with_its_mend_and_no_verdict(monkeypatch):
    class WithoutBubblewrap(Judge):
        """A judge on a node where nobody installed it."""

        def __init__(self, settings):
            os.environ["PATH"] = "/nonexistent"
            Judge.__init__(self, settings)

    monkeypatch.setattr("crlhf_ray.evaluation.pool.Judge", WithoutBubblewrap)
    message = r"could not start: the sandbox needs bubblewrap.*make sandbox"
    with JudgePool(PoolSettings(), JudgeSettings(slots=1)) as pool, pytest.raises(EngineError, match=message):
        pool.check([(DOUBLE, RIGHT)])


def test_as_an_operator_of_ray_data():
    rows = [
        {"task_id": "double", "completion": text, "n": i} for i, text in enumerate([RIGHT, WRONG, "\n    oops(\n"] * 5)
    ]
    judged = judge_dataset(ray.data.from_items(rows), [DOUBLE], maximum=1, batch=4).take_all()
    assert {row["n"]: row["status"] for row in judged} == {
        row["n"]: {RIGHT: "passed", WRONG: "wrong"}.get(row["completion"], "error") for row in rows
    }
    assert all(row["passed"] == (row["status"] == "passed") for row in judged)
