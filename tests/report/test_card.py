"""The model card says what the run wrote down."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import yaml
from example_run import write_example_run

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.config import load_config
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.pipeline.claim import write_data_sets
from crlhf_ray.problems.load import load_problems
from crlhf_ray.report.card import agreement, marks_of, model_card
from crlhf_ray.report.run_files import Run, read_run
from crlhf_ray.sandbox.samples import data_set_id


def marks(*said: tuple[str, int, str, int], source: str = "human") -> pa.Table:
    """(item, line, annotator, label) each, half a minute a mark."""
    rows = [
        {
            "event_id": f"{item}/{line}/{who}",
            "item_id": item,
            "line": line,
            "annotator_id": who,
            "label": label,
            "confidence": None,
            "milliseconds": 30_000,
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            "source": source,
        }
        for item, line, who, label in said
    ]
    return pa.Table.from_pylist(rows, schema=ANNOTATION_SCHEMA)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = write_example_run(tmp_path_factory.mktemp("runs") / "example")
    write_data_sets(directory, load_config(), load_problems("starter", "train"), load_problems("starter", "heldout"))
    log = AnnotationLog(directory / "annotations")
    grace, alan = "grace@example.org", "alan@example.org"
    item = "item-0-1"
    log.append(marks((item, 1, grace, 1), (item, 1, alan, 1), (item, 3, alan, -1), ("honeypot", 1, alan, -1)))
    return directory


def card(run, round_=40):
    run = run if isinstance(run, Run) else read_run(run)
    return model_card(
        run, base="me/base", form="merged", dtype="float32", checkpoint="step-00000040", round_=round_, gap=4e-7
    )


def test_it_begins_with_the_metadata_that_the_hub_reads(run_dir):
    head = yaml.safe_load(card(run_dir).split("---")[1])
    assert head["base_model"] == "me/base"
    assert head["library_name"] == "transformers"


def test_it_counts_reviewers_by_kind_and_names_none(run_dir):
    text = card(run_dir)
    assert "human: 2 reviewers, 3 marks on 1 program" in text
    assert "1 further mark, on honeypots and on programs that the run did not learn from" in text
    assert "two reviewers of one line say the same in 100% of pairs" in text
    assert "Reliability of adversary (1): P(says right | right)" in text
    assert "example.org" not in text
    assert "ann-01" not in text


def test_where_the_annotation_server_holds_the_marks_and_is_away_it_says_so(run_dir):
    web = {"source": "web", "web": {"url": "http://127.0.0.1:9", "token_file": str(run_dir / "settings.json")}}
    run = read_run(run_dir)
    run = replace(run, settings=run.settings | {"feedback": web})
    assert "could not be reached when this was written" in card(run)
    with pytest.raises(ServerError, match="is `crlhf serve` running there"):
        marks_of(run)


def test_problems_are_those_that_the_run_read_whatever_their_file_holds_now(run_dir, tmp_path):
    file, problems = tmp_path / "own.jsonl", load_problems("starter", "heldout")
    config = load_config(changes=[f"evaluation.source={file}"])  # which is not even there any more
    (tmp_path / "run").mkdir()
    write_data_sets(tmp_path / "run", config, load_problems("starter", "train"), problems[:7])
    text = card(replace(read_run(run_dir), directory=tmp_path / "run"))
    digest = data_set_id(str(file), problems[:7])["sha256"][:16]
    assert f"- Held-out: `own.jsonl` (of its file), heldout split, 7 problems, sha256 `{digest}`" in text
    assert "recorded no problems" in card(replace(read_run(run_dir), directory=tmp_path))


def test_it_names_the_problems_by_hash_and_marks_the_score_of_these_weights(run_dir):
    text = card(run_dir)
    assert "`starter`" in text
    assert "sha256 `" in text
    assert "| 40 (these weights) |" in text
    assert "Held-out gain" in text


def test_weights_that_were_not_measured_say_so(run_dir):
    assert "These weights were not measured" in card(run_dir, round_=7)


def test_agreement_counts_pairs_on_a_line_and_leaves_unsure_ones_out():
    table = marks(("p", 1, "a", 1), ("p", 1, "b", 1), ("p", 1, "c", -1), ("p", 2, "a", 1), ("p", 2, "b", 0))
    assert agreement(table) == pytest.approx(1 / 3)
    assert agreement(marks(("p", 1, "a", 1))) is None
