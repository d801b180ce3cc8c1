"""The benchmark reads other folders of its form than the five it reports, and leaves no method out unnamed."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks/aggregation.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("aggregation_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["aggregation_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def write(folder, names=(0, 1), top=(5, 5), unsure=False):
    """Sixty tasks with truth, six people who are right four times in five, on any scales of confidence and score."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(names), 60)
    task, worker = np.repeat(np.arange(60), 6), np.tile(np.arange(6), 60)
    said = np.where(rng.random(360) < 0.8, truth[task], (truth[task] + 1) % len(names))
    votes = pd.DataFrame({"task": task, "worker": worker, "label": np.array(names, object)[said], "time": range(360)})
    votes["confidence"], votes["score"] = rng.integers(0, top[0] + 1, 360), rng.integers(1, top[1] + 1, 360)
    votes.loc[[0, 359], ["confidence", "score"]] = top
    if unsure:
        votes.loc[::10, "label"] = 0
    folder.mkdir()
    votes.to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"task": range(60), "label": np.array(names, object)[truth]}).to_csv(folder / "truth.csv", index=False)
    return folder


@pytest.mark.parametrize("names", [(0, 1), ("n", "y"), (-1, 1)], ids=str)
@pytest.mark.parametrize("top", [(5, 5), (100, 10)], ids=["of 5", "of 100 and 10"])
def test_a_timed_set_is_replayed_on_its_own_scales_and_labels(names, top, benchmark, tmp_path):
    folder = write(tmp_path / "timed", names, top)
    assert benchmark.replayable(benchmark.load(folder)[0])
    assert benchmark.replay(folder)[benchmark.STREAMED] > 0.6


def test_the_highest_of_a_scale_counts_one_and_what_guessing_earns_counts_nothing(benchmark):
    assert benchmark.share_of_top(pd.Series([0, 50, 75, 100, np.nan]), 0.5).tolist() == [0, 0, 0.5, 1, 0]


def test_nought_between_minus_one_and_one_is_an_abstention(benchmark, tmp_path):
    votes, _, remark = benchmark.load(write(tmp_path / "signs", (-1, 1), unsure=True))
    assert set(votes["label"]) == {-1, 1}
    assert "36 abstentions" in remark


def results(rows):
    return pd.DataFrame(rows, columns=["method", "set", "accuracy"]).assign(
        draw=0, balanced=0.5, auc=0.6, ece=0.1, labels_per_s=1.0
    )


def aims(benchmark, found, sets, streams=None):
    speed = {"labels/CPU s in batches of 1,000": 1.0}
    table = benchmark.print_table(found, sets)
    binary = [name for name, (votes, _, _) in sets.items() if votes["label"].nunique() == 2]
    benchmark.targets(found, table, pd.DataFrame(), streams or {}, speed, binary)


def test_a_method_that_was_skipped_is_named_and_compared_where_it_ran(benchmark, tmp_path, capsys):
    sets = {name: benchmark.load(write(tmp_path / name)) for name in ("a", "b")}
    rows = [(benchmark.BEST, "a", 0.8), (benchmark.BEST, "b", 0.9)]
    rows += [("crowd-kit GLAD", "a", 0.85), ("crowd-kit Wawa", "a", 0.7), ("crowd-kit Wawa", "b", 0.9)]
    aims(benchmark, results(rows), sets)
    line = next(line for line in capsys.readouterr().out.splitlines() if "above every crowd-kit" in line)
    assert line.strip().startswith("NOT MET")
    assert "GLAD on a)" in line
    assert "KOS on none" in line
    assert "Wawa" not in line
    assert "-5.000 (aim > 0)" in line


def test_a_folder_of_sets_of_many_classes_has_aims_that_were_not_run(benchmark, tmp_path, capsys):
    sets = {"many": benchmark.load(write(tmp_path / "many", (0, 1, 2)))}
    aims(benchmark, results([(benchmark.BEST, "many", 0.8)]), sets)
    assert "NOT RUN accuracy above every crowd-kit method" in capsys.readouterr().out


def test_every_timed_set_is_measured_by_the_variant_named_before(benchmark, tmp_path, capsys):
    sets = {name: benchmark.load(write(tmp_path / name)) for name in ("a", "b")}
    streams = {name: {benchmark.STREAMED: 0.5, "majority, votes": 0.99} for name in sets}
    aims(benchmark, results([(benchmark.BEST, "a", 0.8), (benchmark.BEST, "b", 0.9)]), sets, streams)
    assert len(re.findall(r"NOT MET [ab] streamed, AUC .*: 0.500", capsys.readouterr().out)) == 2


def test_balanced_accuracy_auc_and_calibration_are_printed_by_set(benchmark, tmp_path, capsys):
    sets = {name: benchmark.load(write(tmp_path / name)) for name in ("a", "b")}
    benchmark.print_table(results([(benchmark.BEST, "a", 0.8), (benchmark.BEST, "b", 0.9)]), sets)
    printed = capsys.readouterr().out
    for title in ("Balanced accuracy by set", "AUC by set", "ECE by set"):
        assert title in printed
