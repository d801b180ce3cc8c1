"""The figures that a run is measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crlhf_ray.report.headline import duration, headline, paired_gain, summary
from crlhf_ray.report.run_files import Run


def test_a_gain_is_paired_so_that_what_makes_problems_hard_does_not_widen_it():
    before = {f"p{i}": i / 50 for i in range(40)}
    after = {name: rate + 0.1 + 0.02 * (i % 2) for i, (name, rate) in enumerate(before.items())}
    gain = paired_gain(before, after)
    assert gain.mean == pytest.approx(0.11)
    assert 0.105 < gain.low < gain.high < 0.115


def test_an_equal_gain_on_few_problems_says_little_of_others():
    gain = paired_gain({"a": 0.0, "b": 0.5, "c": 0.2}, {"a": 0.1, "b": 0.6, "c": 0.3})
    assert gain.low < -0.5 < 0.1 < gain.high
    assert gain.pairs == 3


def test_a_gains_interval_covers_the_true_gain_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        before = {f"p{i}": value for i, value in enumerate(rng.random(40))}
        after = {name: value + rng.normal(0.05, 0.2) for name, value in before.items()}
        gain = paired_gain(before, after, resamples=500, seed=seed)
        covered += gain.low <= 0.05 <= gain.high
    assert 0.88 <= covered / 200 <= 0.99


def test_only_problems_in_both_evaluations_count():
    assert paired_gain({"a": 0.0, "b": 1.0}, {"a": 0.5, "c": 0.0}).pairs == 1
    with pytest.raises(ValueError, match="share no problem"):
        paired_gain({"a": 0.0}, {"b": 1.0})


def test_the_headline_compares_the_first_with_the_last_held_out_evaluation():
    def evaluation(number: int, rate: float, split: str = "heldout") -> dict:
        return {"round": number, "split": split, "pass_at_1": rate, "low": rate, "high": rate}

    rows = [evaluation(4, 0.3), evaluation(0, 0.1), evaluation(2, 0.9), evaluation(9, 0.9, "train")]
    first = headline(Run(Path("r"), evaluations=rows))[0]
    assert first.value == "10.0% → 30.0%"


def test_the_summary_says_where_the_report_lies(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"round": 0, "samples": 12, "seconds": {"start": 20, "learn": 15, "sync": 40}}\n'
    )
    rows = summary(tmp_path, tmp_path / "report.html")
    assert rows["Programs sampled"] == "12 (12 a round)"
    assert rows["Time"] == "1 min 15 s (55 s a round, the rest start and evaluations)"
    assert rows["Report"].endswith("report.html")


def test_durations_read_as_a_person_says_them():
    assert [duration(s) for s in (5.4, 59.7, 425, 12_000)] == ["5 s", "1 min 00 s", "7 min 05 s", "3 h 20 min"]
