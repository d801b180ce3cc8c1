"""A cluster of this machine's own: a start that Ray gives up on is tried again, and told in words where it stays so."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import ray

from crlhf_ray import cluster
from crlhf_ray.errors import ResourceError

LATE = "The current node timed out during startup. This could happen because the GCS has become overloaded."


def late(times, then=lambda: None):
    """A `ray.init` whose first ``times`` starts leave a process behind and fail as Ray does beside busy processes: that
    takes 30 s each and cannot be had on demand."""
    calls = []

    def init(**_):
        calls.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        then()
        if len(calls) <= times:
            raise Exception(LATE)

    return init, calls


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def test_a_start_that_took_too_long_is_tried_again_without_what_it_left(nowhere, monkeypatch):
    init, started = late(2)
    monkeypatch.setattr(ray, "init", init)
    with cluster.connect():
        assert [process.poll() is None for process in started] == [False, False, True]
    assert started[-1].wait(10) is not None


def test_a_machine_that_is_too_busy_is_named_instead_of_rays_traceback(nowhere, monkeypatch):
    init, started = late(9)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError, match=r"Ray did not start .* too busy"), cluster.connect():
        pass
    assert len(started) == 3
    assert not any(psutil.pid_exists(process.pid) and process.poll() is None for process in started)


@pytest.mark.parametrize("address", ["127.0.0.1:1", None])
def test_other_failures_and_named_clusters_are_not_tried_again(nowhere, monkeypatch, address):
    calls = []

    def init(**_):
        calls.append(1)
        raise ConnectionError("no such cluster" if address is None else LATE)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConnectionError), cluster.connect(address):
        pass
    assert len(calls) == 1


def test_ctrl_c_during_a_start_that_fails_ends_the_command(nowhere, monkeypatch):
    init, started = late(9, then=lambda: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyboardInterrupt), cluster.connect():
        pass
    assert len(started) == 1
    assert started[0].wait(10) is not None
