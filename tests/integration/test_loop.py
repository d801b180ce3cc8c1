"""The whole loop on real engines and a tiny random model: what a run leaves behind, and how it goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.report.run_files import read_run
from crlhf_ray.report.trackers import flatten
from tests.desk.conftest import review, serve
from tests.feedback.judge_server import JudgeServer

__all__ = ["serve"]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

KEY = "sk-planted-4711"
SMALL = {
    "run": {
        "rounds": 6,
        "checkpoint_every": 3,
        "problems_per_round": 2,
        "samples_per_problem": 2,
        "keep_best": True,
    },
    "model": {"name": "tiny", "lora": {"r": 4}},
    "rollout": {"max_tokens": 24, "temperature": 0.7},  # away from 1, where a forgotten temperature would not show
    "feedback": {"first_honeypots": 2, "honeypots_per_round": 1},
    "learner": {"epochs": 1, "lr": 1e-3},
    "evaluation": {"samples": 1, "limit": 3},
}


def start(run_dir: Path, *changes: str, resume: bool = False) -> subprocess.Popen[str]:
    settings = run_dir.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "crlhf_ray.cli", "train", "--config", str(settings), "--set", f"run.dir={run_dir}"]
    for change in changes:
        command += ["--set", change]
    return subprocess.Popen(
        command + ["--resume"] * resume,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "300"},  # a long path is not folded
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def descendants(session: int) -> list[str]:
    """Command lines of the processes that still belong to a session."""
    listing = subprocess.run(["ps", "-eo", "sess,args"], capture_output=True, text=True, check=True).stdout
    mine = [line for line in listing.splitlines() if line.split(None, 1)[0] == str(session)]
    return [line for line in mine if "<defunct>" not in line]  # it has ended, and waits to be counted


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """An uninterrupted run: its folder, its output and its session id."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    process = start(run_dir)
    return run_dir, finish(process), process.pid


def test_a_run_measures_before_and_after_and_says_where_the_report_lies(whole):
    run_dir, output, _ = whole
    assert [row["round"] for row in read_run(run_dir).heldout()] == [0, 6]
    assert "report.html" in output
    assert (run_dir / "report.html").read_text().startswith("<!doctype html>")


def test_at_temperature_0_7_rollout_and_learner_log_probs_agree_in_every_round(whole):
    for row in read_run(whole[0]).metrics:
        assert row["learner"]["logprob_gap_max"] < 1e-3


def places(samples: Iterable[dict[str, Any]]) -> int:
    """What a crowd marks of them: their lines with code, and their ends."""
    return sum(sum(line["to_review"] for line in one["lines"]) + (one["end"] is not None) for one in samples)


def test_every_round_hears_the_whole_crowd_on_every_line(whole):
    run = read_run(whole[0])
    for row in run.metrics:
        mine = places(sample for sample in run.samples if sample["round"] == row["round"])
        assert row["aggregation"]["labels"] == 10 * mine


def test_a_round_whose_scores_hardly_differ_says_so(whole):
    for row in read_run(whole[0]).metrics:
        stagnant = any(alert["kind"] == "score stagnation" for alert in row["alerts"])
        assert stagnant == (row["reward"]["std"] < 0.01)


def test_engine_noise_stays_out_of_the_terminal(whole):
    assert not any(word in whole[1] for word in ("WARNING", "INFO", "[deepspeed]", "raylet"))


def test_a_run_leaves_its_model_and_keeps_its_best_checkpoint(whole):
    run_dir, output, _ = whole
    assert json.loads((run_dir / "model" / "export.json").read_text())["checkpoint"] == "step-00000006"
    assert "vllm serve" in output
    card = (run_dir / "model" / "README.md").read_text()
    assert "simulated: 10 reviewers" in card
    assert "| 6 (these weights) |" in card
    assert (run_dir / "checkpoints" / "best").read_text() == "step-00000006"


def test_the_dashboard_for_grafana_draws_numbers_that_a_run_writes(whole):
    rows = read_run(whole[0]).metrics
    written = {re.sub(r"\W+", "_", name) for row in rows for name, _ in flatten(row)} | {"heldout_pass_at_1"}
    written |= {"learner_age_mean", "learner_age_max"}  # side by side only
    dashboard = (Path(__file__).parents[2] / "clusters" / "grafana.json").read_text()
    drawn = set(re.findall(r"ray_crlhf_(\w+){", dashboard))
    assert len(drawn) > 10
    assert drawn <= written


def test_no_process_is_left_behind(whole):
    assert descendants(whole[2]) == []


def test_a_folder_that_holds_a_run_is_not_overwritten(whole):
    from crlhf_ray.loop import train

    with pytest.raises(ConfigError, match="--resume"):
        train(load_config(changes=[f"run.dir={whole[0]}"]))


def test_a_run_resumed_with_fewer_rounds_than_it_played_ends_at_once(whole, tmp_path: Path):
    run_dir = tmp_path / "longer"
    shutil.copytree(whole[0], run_dir)
    finish(start(run_dir, "run.rounds=1", resume=True))
    found = read_run(run_dir)
    assert [row["round"] for row in found.metrics] == list(range(6))
    assert [row["round"] for row in found.heldout()] == [0, 6]


def test_an_evaluation_of_a_run_needs_no_other_settings_and_a_file_for_each_policy(whole, tmp_path: Path):
    out = tmp_path / "samples.jsonl"
    command = [sys.executable, "-m", "crlhf_ray.cli", "evaluate", str(out), "--run", str(whole[0])]
    done = subprocess.run([*command, "--set", "evaluation.samples=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert (head["model"]["name"], head["checkpoint"]["step"]) == ("tiny", "step-00000006")
    assert (head["max_tokens"], head["n"], len(rows)) == (24, 2, 3 * 2)
    refused = subprocess.run(
        [*command, "--set", "evaluation.samples=2", "--set", "run.seed=5"], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "seed is 0 there and 5 here" in " ".join(refused.stderr.split())


def stop_after(process: subprocess.Popen[str], run_dir: Path, *, rounds: int) -> None:
    """Ctrl-C once so many rounds are written down."""
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= rounds):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output
    assert descendants(process.pid) == []


def assert_equal_runs(left_dir: Path, right_dir: Path) -> None:
    expected, found = read_run(left_dir), read_run(right_dir)
    assert len(found.metrics) == len(expected.metrics)
    for left, right in zip(expected.metrics, found.metrics, strict=True):
        for part in ("reward", "train_pass_rate", "aggregation", "alerts"):
            assert json.dumps(left[part]) == json.dumps(right[part])
        assert left["learner"]["loss"] == pytest.approx(right["learner"]["loss"], abs=1e-5)
    assert [s["sample_id"] for s in expected.samples] == [s["sample_id"] for s in found.samples]
    assert [s["lines"] for s in expected.samples] == [s["lines"] for s in found.samples]
    assert expected.reliability == found.reliability


def test_a_run_stopped_before_its_first_checkpoint_and_between_two_equals_an_uninterrupted_one(whole, tmp_path: Path):
    run_dir = tmp_path / "stopped"
    stop_after(start(run_dir), run_dir, rounds=1)
    assert not (run_dir / "checkpoints").exists()
    # Now the checkpoint is of three rounds, and the crowd has heard of the fourth.
    stop_after(start(run_dir, resume=True), run_dir, rounds=4)
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-00000003"
    finish(start(run_dir, resume=True))
    assert_equal_runs(whole[0], run_dir)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Path, JudgeServer]]:
    """A round that a simulated crowd reviews over HTTP, and a judge with a key: the run's folder, its output, and the
    folder of Ray's own logs. At first the judge's endpoint takes no request, and sends the key back."""
    run_dir, logs = tmp_path_factory.mktemp("runs") / "served", Path(tempfile.mkdtemp(dir="/tmp"))  # sockets: short
    judge = JudgeServer(lambda told: dict.fromkeys(told["lines"], "correct"), faults=[500, 429, 400])
    entry = f"kind: llm, model: m, base_url: '{judge.url}', key_variable: JUDGE_KEY, canary: false, longest_wait: 0"
    changes = ["feedback.source=simulated", f"feedback.annotators=[{{{entry}}}]", "run.rounds=1", "evaluation.limit=1"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUDGE_KEY", KEY)
            patch.setenv("RAY_TMPDIR", str(logs))
            process = start(run_dir, *changes)
        yield run_dir, finish(process), logs, judge
    finally:
        judge.close()
        shutil.rmtree(logs, ignore_errors=True)


def test_the_simulated_crowd_can_review_over_http_beside_a_machine(served):
    run = read_run(served[0])
    wanted = places(run.samples)
    assert 2 * wanted <= run.metrics[0]["aggregation"]["labels"] <= 8 * wanted
    assert len(run.reliability) == 10 + 1


def test_a_judges_key_is_in_nothing_that_a_run_leaves(served):
    run_dir, output, logs, judge = served
    assert {headers["Authorization"] for _, headers, _ in judge.requests} == {f"Bearer {KEY}"}
    assert judge.faults == []
    files = [file for folder in (run_dir, logs) for file in folder.rglob("*") if file.is_file()]
    assert {"report.html", "metrics.jsonl", "raylet.out"} <= {file.name for file in files}
    assert any("checkpoints" in file.parts for file in files)
    assert KEY not in output
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_problems_without_tests_are_trained_on_by_what_people_say_alone(serve, tmp_path: Path):
    server = serve(queue=QueueSettings(qualification=1, labels_least=1, labels_most=1))
    server.now = time.time()
    prompt = '"""Greet everybody whose name stands in names.txt, and say how many there are."""'
    rows = [{"problem_id": f"own/{n}", "kind": "review", "prompt": prompt} for n in range(2)]
    problems = tmp_path / "prompts.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {"program": "print(1)\nprint(2)", "prompt": prompt, "problem": "own/0", "language": "python"}
    text = json.dumps({**known, "wrong_lines": [2]})
    server.lead.import_files([{"name": "known.jsonl", "text": text}], ask_end=True)
    run_dir = tmp_path / "alone"
    process = start(
        run_dir, f"problems.source={problems}", "feedback.source=web", f"feedback.web.url={server.url}",
        f"feedback.web.token_file={server.token_file}", "run.rounds=1", "evaluation.limit=1",
    )  # fmt: skip
    ann = server.person("ann")
    while process.poll() is None:
        if review(ann) is None:
            time.sleep(0.2)
    finish(process)
    run = read_run(run_dir)
    (row,) = run.metrics
    assert (row["samples"], row["untested"], row["train_pass_rate"]) == (4, 4, None)
    assert {sample["passed"] for sample in run.samples} == {None}
    assert {line["truth"] for sample in run.samples for line in sample["lines"]} == {None}
    (known_of_ann,) = run.reliability
    assert known_of_ann["gold_labels"] == 3  # the lead's honeypot: two lines and the end
    assert row["aggregation"]["labels"] == places(run.samples)
    assert (run_dir / "model" / "export.json").exists()


def test_side_by_side_nothing_too_old_is_learnt_from_and_an_interrupted_run_loses_and_repeats_no_group(tmp_path: Path):
    run_dir, changes = tmp_path / "ahead", ("pipeline.max_staleness=2", "run.checkpoint_every=1", "run.rounds=5")
    # Twelve programs are begun at once, and a replica draws four at a time: a second one joins while the run goes on.
    changes += ("rollout.autoscale={most: 2, grow_seconds: 0}", "rollout.max_num_seqs=4")
    changes += ("evaluation.limit=1", "rollout.cpus_per_replica=0.25", "rollout.on_update=keep")
    stop_after(start(run_dir, *changes), run_dir, rounds=2)
    finish(start(run_dir, *changes, resume=True))
    run = read_run(run_dir)
    assert [row["round"] for row in run.metrics] == list(range(5))
    ages = [row["learner"].get("age_max", 0) for row in run.metrics]
    assert 0 < max(ages) <= 2
    drawn = [(sample["sample_id"].split("-")[0], sample["sample_id"]) for sample in run.samples]
    assert len(set(drawn)) == len(drawn) == 5 * 2 * 2
    assert {tag for tag, _ in drawn} == {f"r{round}" for round in range(5)}
    (grown,) = run.metrics[0]["rollout"]["changes"]
    assert (grown["before"], grown["after"]) == (1, 2)
    assert grown["why"].startswith("12 programs are to be drawn and 0 are under review, a replica draws 4 at a time")
    for row in run.metrics:
        assert row["learner"].get("logprob_gap_max", 0) < 1e-3
