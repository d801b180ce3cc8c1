"""The learning benchmark reads whatever runs there are and says what they show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from example_run import write_example_run

PATH = Path(__file__).resolve().parents[2] / "benchmarks/learning.py"


@pytest.fixture(scope="module")
def learning():
    spec = importlib.util.spec_from_file_location("learning", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["learning"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("learning")
    write_example_run(directory / "two_coin-0", rounds=10)
    write_example_run(directory / "two_coin-1", rounds=10)
    write_example_run(directory / "tests-0", rounds=3)
    return directory


def test_the_table_pools_the_seeds_of_an_arm_and_lists_what_is_not_done(learning, out, capsys):
    assert learning.main(["--report-only", "--out", str(out), "--rounds", "10"]) == 0
    shown = capsys.readouterr().out
    assert "two_coin" in shown
    assert "tests, seed 0: 3 of 10 rounds" in shown
    text = (out / "learning.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| two_coin"))
    assert row.split(" | ")[1] == "0, 1"
    assert (out / "learning.svg").read_text().rstrip().endswith("</svg>")


def test_the_gain_is_that_of_the_evaluations(learning, out):
    options = learning.parse(["--out", str(out), "--rounds", "10"])
    row = learning.summarise([learning.read_trial(options, "two_coin", seed) for seed in (0, 1)])
    assert row.gain.mean == pytest.approx(row.after - row.before)
    assert row.gain.low < row.gain.mean < row.gain.high
    assert row.gain.pairs == 40


def test_with_no_run_at_all_it_says_so(learning, tmp_path, capsys):
    assert learning.main(["--report-only", "--out", str(tmp_path)]) == 0
    assert "No run is finished yet" in capsys.readouterr().out


def test_each_arm_differs_from_the_others_by_its_reward_alone(learning):
    options = learning.parse(["--set", "learner.lr=1e-4"])
    settings = {arm: learning.settings_of(options, arm, 3) for arm in learning.ARMS}
    assert all("run.seed=3" in found and "learner.lr=1e-4" in found for found in settings.values())
    assert "reward.source=tests" in settings["tests"]
    assert "aggregation.estimator=one_coin" in settings["one_coin"]


def test_finished_runs_are_not_run_again_and_a_failed_one_is_named(learning, out, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(learning, "check_settings", lambda options, plan: None)
    monkeypatch.setattr(learning, "train", lambda options, arm, seed: started.append((arm, seed)) or 1)
    status = learning.main(["--out", str(out), "--rounds", "10", "--arms", "two_coin", "tests", "--seeds", "0", "1"])
    assert started == [("tests", 0), ("tests", 1)]
    assert status == 1
    assert "failed: tests-0" in capsys.readouterr().out


def test_a_sparkline_rises_with_its_values(learning):
    assert learning.sparkline([0.0, 0.5, 1.0], top=1.0) == "▁▅█"
    assert learning.bins([1, 1, 3, 3], 2) == [1.0, 3.0]
