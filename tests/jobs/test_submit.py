"""The documented way to run on a cluster: a head node with a token, and `ray job submit` of jobs/train.py."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml

from crlhf_ray.feedback.ledger import LOG
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.report.run_files import read_run
from tests.clusters import end_all_naming, free_port, ray_environment
from tests.parts import MY_PARTS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = {
    "run": {"rounds": 1, "problems_per_round": 2, "samples_per_problem": 2},
    "model": {"name": "tiny", "lora": {"r": 4}},
    "rollout": {"max_tokens": 24},
    "feedback": {"first_honeypots": 2, "honeypots_per_round": 1},
    "learner": {"epochs": 1},
    "evaluation": {"samples": 1, "limit": 2},
}


@pytest.fixture(scope="module")
def head():
    """A head node of its own, with its own ports, folder and token; gives the environment of its clients.

    It is ended by process id: `ray stop` would end every Ray on the machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: sockets live in it
    dashboard = free_port()
    environment = ray_environment(secrets.token_hex(32))
    ports = {"port": free_port(), "dashboard-port": dashboard, "ray-client-server-port": free_port()}
    ports |= {"dashboard-agent-listen-port": free_port(), "metrics-export-port": free_port()}
    command = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    command += [f"--{name}={number}" for name, number in ports.items()]
    with (folder / "head.log").open("w") as log:
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            assert node.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, f"no dashboard within 120 s\n{(folder / 'head.log').read_text()}"
            time.sleep(0.2)
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        node.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            node.wait(30)
        end_all_naming(folder)
        if node.poll() is None:
            node.kill()
        node.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def submit(environment: dict[str, str], *command: str, working_dir: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--working-dir", working_dir, "--", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        cwd=working_dir,
    )


def test_a_client_without_the_token_is_refused(head, tmp_path):
    stranger = head | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = submit(stranger, "true", working_dir=tmp_path)
    assert refused.returncode != 0
    assert "authentication" in (refused.stdout + refused.stderr).lower()


def test_a_submitted_job_trains_with_parts_from_its_working_directory_and_leaves_its_report(head, tmp_path):
    working_dir = tmp_path / "work"
    shutil.copytree(ROOT / "jobs", working_dir / "jobs")
    (working_dir / "my_parts.py").write_text(MY_PARTS)
    settings = tmp_path / "small.yaml"
    learner = SMALL["learner"] | {"algorithm": "my_parts:centred"}
    parts = {"reward": {"form": "my_parts:strict"}, "aggregation": {"estimator": "my_parts:Trusting"}}
    parts |= {"feedback": {"source": "my_parts:OneVoice"}}
    settings.write_text(yaml.safe_dump(SMALL | parts | {"learner": learner}))
    run_dir = tmp_path / "run"
    command = ["python", "jobs/train.py", "--config", str(settings), "--set", f"run.dir={run_dir}"]
    done = submit(head, *command, working_dir=working_dir)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    assert (run_dir / "report.html").is_file()
    assert [row["round"] for row in read_run(run_dir).heldout()] == [0, 1]
    scores = [json.loads(line)["reward"] for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    assert set(scores) <= {0.0, 1.0}, "only that reward gives nothing in between"
    assert set(AnnotationLog(run_dir / LOG).read()["annotator_id"].to_pylist()) == {"one"}
