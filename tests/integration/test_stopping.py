"""Ctrl-C as a terminal sends it, and SIGTERM as `timeout` does: to the whole process group, at moments that are hard to
leave cleanly."""

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


@pytest.mark.parametrize(
    "seen, sent, code",
    [
        ("raylet", signal.SIGINT, 130),
        ("ray::", signal.SIGINT, 130),
        ("ray::Replica", signal.SIGTERM, 143),
    ],
)
def test_a_stop_leaves_no_process_behind(tmp_path, monkeypatch, seen, sent, code):
    run_dir = tmp_path / "stopped"
    monkeypatch.setenv("CRLHF_TEST_RUN", str(run_dir))
    process = start(run_dir)
    while not any(seen in command for command in everything_of(run_dir)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, sent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert "same command and --resume" in output.strip().splitlines()[-1]
    assert everything_of(run_dir) == []
