"""Ctrl-C as a terminal sends it, to the whole process group, at moments that are hard to leave cleanly."""

import os
import signal
import time

import psutil
import pytest

from tests.integration.test_loop import start

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def everything_of(run_dir):
    """Processes that inherited the command's environment, wherever they are in the tree."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        if (process.info["environ"] or {}).get("CRLHF_TEST_RUN") == str(run_dir):
            found.append(" ".join(process.info["cmdline"] or [process.name()])[:80])
    return found


@pytest.mark.parametrize("seen", ["raylet", "ray::", "ray::Replica"])
def test_ctrl_c_leaves_no_process_behind(tmp_path, monkeypatch, seen):
    run_dir = tmp_path / "stopped"
    monkeypatch.setenv("CRLHF_TEST_RUN", str(run_dir))
    process = start(run_dir)
    while not any(seen in command for command in everything_of(run_dir)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert everything_of(run_dir) == []
