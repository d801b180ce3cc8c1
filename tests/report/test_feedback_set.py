"""The reviewers' work as a data set."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from test_card import marks

from crlhf_ray.errors import DataError
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.report.feedback_set import preferences, steps, write_feedback
from crlhf_ray.report.run_files import read_run

GOOD = [("", None), ("    # twice", None), ("    y = 2 * x", 0.9), ("    return y", 0.8), ("", None)]
BAD = [("    return x", 0.2)]


def sample(name: str, lines: list, score: float, problem: str = "double") -> dict:
    return {
        "round": 0,
        "sample_id": name,
        "problem_id": problem,
        "item_id": f"item-{name}",
        "prompt": "def double(x):",
        "lines": [{"text": text, "p_correct": p, "truth": 1, "to_review": p is not None} for text, p in lines],
        "reward": score,
        "passed": True,
    }


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    rows = [sample("good", GOOD, 0.85), sample("bad", BAD, 0.2)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [("item-good", 2, "grace", 1), ("item-good", 2, "alan", -1), ("item-good", 2, "kurt", 0)]
    AnnotationLog(tmp_path / "annotations").append(marks(*said))
    return tmp_path


def test_each_line_comes_with_its_posterior_and_what_was_said_of_it(run_dir, tmp_path):
    assert write_feedback(read_run(run_dir), tmp_path / "out") == {"lines": 6, "preferences": 1, "steps": 2}
    rows = pq.read_table(tmp_path / "out" / "lines.parquet").to_pylist()
    line = next(row for row in rows if row["sample_id"] == "good" and row["line"] == 2)
    assert (line["p_correct"], line["said_correct"], line["said_wrong"], line["said_unsure"]) == (0.9, 1, 1, 1)
    assert all("truth" not in row for row in rows)
    assert not any(name in (tmp_path / "out" / "README.md").read_text() for name in ("grace", "alan", "kurt"))


def test_the_folder_loads_with_the_datasets_library(run_dir, tmp_path):
    write_feedback(read_run(run_dir), tmp_path / "out")
    found = load_dataset(str(tmp_path / "out"), "steps", split="train", cache_dir=str(tmp_path / "cache"))
    assert found[0]["labels"] == [True, True]


def test_a_step_is_a_line_with_code_and_the_lines_without_before_it():
    found = steps(sample("good", GOOD, 0.85))
    assert found["completions"] == ["\n    # twice\n    y = 2 * x", "    return y\n"]
    assert "\n".join(found["completions"]) == "\n".join(text for text, _ in GOOD)


def test_two_programs_make_a_pair_only_where_their_scores_tell_them_apart():
    (pair,) = preferences([sample("good", GOOD, 0.85), sample("bad", BAD, 0.2), sample("other", BAD, 0.1, "triple")])
    assert (pair["chosen"], pair["rejected"]) == ("\n".join(text for text, _ in GOOD), "    return x")
    assert list(preferences([sample("a", GOOD, 0.5), sample("b", BAD, 0.45)])) == []


def test_a_run_without_programs_says_so(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="no programs yet"):
        write_feedback(read_run(tmp_path), tmp_path / "out")
