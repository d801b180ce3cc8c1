"""Checking on a Ray cluster."""

import os
import shutil
import tempfile

import pytest
import ray

from crlhf_ray.errors import EngineError, ResourceError
from crlhf_ray.sandbox.limits import SandboxPoolSettings, SandboxSettings
from crlhf_ray.sandbox.pool import SandboxPool
from crlhf_ray.sandbox.sandbox import Sandbox

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

    class Watched(SandboxPool):
        def _free(self, flying):
            sizes.append(self.size)
            return super()._free(flying)

    completions = [RIGHT, WRONG, WRONG] * 40
    with Watched(SandboxPoolSettings(maximum=2, cpus_per_slot=1, chunk=8)) as pool:
        verdicts = pool.check([(DOUBLE, completion) for completion in completions])
        assert pool.size == 1
    assert [verdict.passed for verdict in verdicts] == [completion == RIGHT for completion in completions]
    assert max(sizes) == 2


def test_a_killed_sandbox_loses_no_result():
    class Sabotaged(SandboxPool):
        killed = 0

        def _free(self, flying):
            if flying and self.killed < 2:
                self.killed += 1
                ray.kill(next(iter(flying.values()))[0])
            return super()._free(flying)

    completions = [RIGHT, WRONG] * 30
    with Sabotaged(
        SandboxPoolSettings(maximum=2, cpus_per_slot=1, chunk=8), SandboxSettings(slots=1, attempts=5)
    ) as pool:
        verdicts = pool.check([(DOUBLE, completion) for completion in completions])
    assert pool.killed == 2
    assert [verdict.passed for verdict in verdicts] == [completion == RIGHT for completion in completions]


def test_too_small_a_cluster_is_named():
    with pytest.raises(ResourceError, match=r"needs 64 CPU \(the cluster has 3\)"):
        SandboxPool(SandboxPoolSettings(cpus_per_slot=1), SandboxSettings(slots=64))


def test_a_sandbox_is_asked_for_before_the_cluster_is_looked_at_where_an_autoscaler_adds_nodes():
    settings = SandboxPoolSettings(cpus_per_slot=1, resources_seconds=0.5, wait_seconds=0.5)
    with SandboxPool(settings, SandboxSettings(slots=64)) as pool:
        assert pool.size == 1
        with pytest.raises(ResourceError, match=r"needs 64 CPU \(the cluster has 3\)"):
            pool.check([(DOUBLE, RIGHT)])


def test_a_sandbox_that_cannot_start_is_an_error_with_its_mend_and_no_verdict(monkeypatch):
    class WithoutBubblewrap(Sandbox):
        """A sandbox on a node where nobody installed it."""

        def __init__(self, settings):
            os.environ["PATH"] = "/nonexistent"
            Sandbox.__init__(self, settings)

    monkeypatch.setattr("crlhf_ray.sandbox.pool.Sandbox", WithoutBubblewrap)
    message = r"could not start: the sandbox needs bubblewrap.*make sandbox"
    with (
        SandboxPool(SandboxPoolSettings(), SandboxSettings(slots=1)) as pool,
        pytest.raises(EngineError, match=message),
    ):
        pool.check([(DOUBLE, RIGHT)])
