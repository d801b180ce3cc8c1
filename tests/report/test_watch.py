"""`crlhf watch`: a run in the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from crlhf_ray.errors import DataError
from crlhf_ray.report.progress import seconds_left, spark
from crlhf_ray.report.watch import Followed, owner, watch


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"run": {"rounds": 3}, "evaluation": {"every": 0}}))
    rows = [{"round": n, "reward": {"mean": 0.2 * n}, "seconds": {"learn": 60}, "alerts": ["[x] rose"]} for n in (0, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({"round": 0, "split": "heldout", "pass_at_1": 0.25}) + "\n")
    return tmp_path


def text_of(run_dir) -> str:
    console = Console(record=True, width=100)
    watch(run_dir, console, 0.05)
    return console.export_text()


def test_a_run_that_nobody_works_on_is_shown_once(run_dir):
    text = text_of(run_dir)
    for said in (
        "round 2 of 3",
        "▁█",
        "0.200",
        "before the first round: 25.0%",
        "alert: [x] rose",
        "--resume continues",
    ):
        assert said in text


def test_it_ends_by_itself_when_the_run_does(run_dir):
    run = "import os, sys, time; os.fdopen(0).read(); os.remove(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", run, str(run_dir / "run.pid")], stdin=subprocess.PIPE, text=True)
    (run_dir / "run.pid").write_text(str(process.pid))
    assert owner(run_dir) == process.pid
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 2, "reward": {"mean": 0.9}}) + "\n")
    process.stdin.close()
    assert "The run has ended." in text_of(run_dir)
    process.wait()


def test_only_what_was_appended_is_read_again(run_dir):
    followed, file = Followed(run_dir), run_dir / "metrics.jsonl"
    (run_dir / "samples.jsonl").write_text("not JSON, and not looked at\n")
    assert [row["round"] for row in followed.read().metrics] == [0, 1]
    with file.open("r+b") as metrics:
        metrics.write(b"#" * (file.stat().st_size - 1))  # would be an error to read
        metrics.seek(0, os.SEEK_END)
        metrics.write(b'{"round": 2}\n{"round"')
    assert [row["round"] for row in followed.read().metrics] == [0, 1, 2]
    with file.open("ab") as metrics:
        metrics.write(b": 3}\n")
    assert [row["round"] for row in followed.read().metrics] == [0, 1, 2, 3]


def test_a_file_that_a_resumed_run_wrote_again_is_read_from_its_start(run_dir):
    followed = Followed(run_dir)
    assert len(followed.read().metrics) == 2
    (run_dir / "new").write_text('{"round": 0}\n')
    (run_dir / "new").replace(run_dir / "metrics.jsonl")
    assert followed.read().metrics == [{"round": 0}]


def test_a_process_that_died_has_no_run(run_dir):
    (run_dir / "run.pid").write_text(str(2**22 + 1))
    assert owner(run_dir) is None
    (run_dir / "run.pid").write_text(str(os.getpid()))
    assert owner(run_dir) == os.getpid()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        text_of(tmp_path)


def test_the_time_left_counts_the_evaluation_after_the_last_round():
    row = {"round": 2, "seconds": {"learn": 10.0, "evaluate round 0": 4.0}}
    assert seconds_left([row], 3, 0) == 4.0
    assert seconds_left([row], 5, 0) == 24.0
    assert seconds_left([], 5, 0) is None


def test_a_curve_goes_from_its_lowest_to_its_highest_value():
    assert spark([0, 1, 7]) == "▁▂█"
    assert spark([2, 2]) == "▁▁"
    assert spark([]) == ""
    assert len(spark(range(100))) == 40
