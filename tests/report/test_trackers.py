"""Who is told a run's numbers, and that none of them can stop it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

import httpx
import pytest
import ray

from crlhf_ray.config import TRACKERS, load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.report.metrics import MetricsLog
from crlhf_ray.report.trackers import IDS, OURS, Prometheus, check_trackers
from tests.clusters import free_port

ROW = {"reward": {"mean": 0.5}, "seconds": {"generate, check": 2.0}, "alerts": ["low"], "learner": {"kl": None}}
KEY = "sk-planted-4711"
NUMBERS = {"reward/mean": 0.5, "seconds/generate, check": 2.0}


@pytest.fixture(autouse=True)
def no_tracker_writes_a_judges_key_into_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    yield
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


class Kept:
    """A tracker of one's own."""

    def __init__(self, run_dir, settings, resume_at):
        self.file = run_dir / "kept.jsonl"
        self.note({"settings": settings, "resume_at": resume_at})

    def note(self, what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def log(self, step, numbers):
        self.note({"step": step, **numbers})

    def close(self):
        self.note("closed")


class Broken(Kept):
    def log(self, step, numbers):
        raise ConnectionError("no server")


OWN, BROKEN = "tests.report.test_trackers:Kept", "tests.report.test_trackers:Broken"


def play(run_dir, *names, first=0, last=2, say=print, resume_at=None):
    with MetricsLog(run_dir, resume_at, trackers=names, settings={"run": {"seed": 3}}, say=say) as log:
        for number in range(first, last):
            log.append({"round": number, **ROW})
        log.append_evaluation({"round": last, "split": "heldout", "pass_at_1": 0.25})


def test_a_tracker_of_ones_own_is_told_every_number(tmp_path):
    play(tmp_path, OWN)
    assert [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()] == [
        {"settings": {"run": {"seed": 3}}, "resume_at": None},
        {"step": 0, **NUMBERS},
        {"step": 1, **NUMBERS},
        {"step": 2, "heldout/pass_at_1": 0.25},
        "closed",
    ]


def test_one_that_fails_is_told_of_once_and_stops_neither_the_run_nor_the_others(tmp_path):
    said = []
    play(tmp_path, BROKEN, "tests.report.test_trackers:Missing", OWN, say=said.append)
    assert len(said) == 2
    assert "Broken failed (ConnectionError: no server)" in said[1]
    assert "metrics.jsonl holds every number" in said[1]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert '"heldout/pass_at_1": 0.25' in (tmp_path / "kept.jsonl").read_text()


def test_settings_know_the_trackers_that_there_are():
    assert set(TRACKERS) == set(OURS)
    assert load_config(changes=[f"run.tracking=[mlflow, {OWN}]"]).run.tracking == ("mlflow", OWN)
    for wrong, message in [("tensorbord", "did you mean tensorboard"), ("wandb, wandb", "names one twice")]:
        with pytest.raises(ConfigError, match=message):
            load_config(changes=[f"run.tracking=[{wrong}]"])


def test_one_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("crlhf_ray.report.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'crlhf-ray\[wandb\]'"):
        check_trackers([OWN, "wandb"])


def test_without_a_server_mlflow_writes_beside_the_run_and_a_resumed_run_goes_to_the_same_place(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'crlhf-ray[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ})
    said = []
    play(tmp_path, "mlflow", say=said.append)
    play(tmp_path, "mlflow", first=1, last=3, resume_at=1, say=said.append)
    assert said == []
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    run = client.get_run(json.loads((tmp_path / IDS).read_text())["mlflow"])
    assert (run.info.status, run.data.params["run/seed"]) == ("FINISHED", "3")
    assert {one.step for one in client.get_metric_history(run.info.run_id, "seconds/generate_ check")} == {0, 1, 2}


def test_without_a_key_wandb_writes_beside_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'crlhf-ray[wandb]'")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key may lie
    said = []
    play(tmp_path, "wandb", say=said.append)
    assert said == []
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.engine
def test_prometheus_is_served_the_numbers_by_the_nodes_of_the_cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    port = free_port()
    fast = {"metrics_report_interval_ms": 500}
    ray.init(num_cpus=0, include_dashboard=False, _metrics_export_port=port, _system_config=fast)
    try:
        tracker = Prometheus(tmp_path / "mine", {}, None)
        tracker.log(3, {"reward/mean": 0.5, "seconds/generate, check": 2.0})
        values, deadline = [], time.monotonic() + 120
        while len(values) < 3 and time.monotonic() < deadline:
            time.sleep(0.5)
            with suppress(httpx.TransportError):  # the node's server is still starting
                served = httpx.get(f"http://{ray.util.get_node_ip_address()}:{port}/metrics").text
                values = [line for line in served.splitlines() if line.startswith("ray_crlhf_")]
    finally:
        ray.shutdown()
    assert {line.split("{")[0]: float(line.split()[-1]) for line in values} == {
        "ray_crlhf_round": 3.0,
        "ray_crlhf_reward_mean": 0.5,
        "ray_crlhf_seconds_generate_check": 2.0,
    }
    assert all('run="mine"' in line for line in values)
