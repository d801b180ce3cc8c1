"""What a run writes: durable, plain, and after a resume the same as if nothing had happened."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crlhf_ray.errors import DataError
from crlhf_ray.report.metrics import MetricsLog
from crlhf_ray.report.run_files import RELIABILITY_SCHEMA, read_jsonl


def row(number: int) -> dict:
    return {"round": number, "reward": {"mean": 0.5 + number / 100}, "learner": {"kl": 0.01 * number}}


def reliability(number: int) -> pa.Table:
    return pa.table({"annotator_id": ["ann", "bob"], "round": [number, number], "sensitivity": [0.8, 0.6]})


def evaluation(number: int) -> dict:
    return {"round": number, "split": "heldout", "pass_at_1": 0.1 * number}


def play(directory, first: int, last: int, resume_at: int | None = None) -> None:
    with MetricsLog(directory, resume_at=resume_at) as log:
        for number in range(first, last):
            log.append(row(number))
            log.append_samples([{"round": number, "sample_id": f"s{number}"}])
            log.append_reliability(reliability(number))
            log.append_evaluation(evaluation(number + 1))


def test_rows_come_back_as_written(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append(row(0))
        log.append(row(1))
        assert log.rows() == [row(0), row(1)]


def test_a_resumed_run_writes_the_same_files_as_an_uninterrupted_one(tmp_path):
    play(tmp_path / "whole", 0, 6)
    play(tmp_path / "cut", 0, 5)
    play(tmp_path / "cut", 3, 6, resume_at=3)
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert pq.read_table(tmp_path / "cut/reliability.parquet").equals(
        pq.read_table(tmp_path / "whole/reliability.parquet")
    )


def test_tensorboard_shows_each_round_once_after_a_resume(tmp_path):
    play(tmp_path, 0, 5)
    play(tmp_path, 3, 6, resume_at=3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("learner/kl")] == [0, 1, 2, 3, 4, 5]
    assert "heldout/pass_at_1" in events.Tags()["scalars"]


def test_a_line_torn_by_a_crash_is_dropped_when_the_run_goes_on(tmp_path):
    play(tmp_path, 0, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "rew')
    assert [item["round"] for item in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1]
    with MetricsLog(tmp_path, resume_at=2) as log:
        log.append(row(2))
        assert [item["round"] for item in log.rows()] == [0, 1, 2]


def test_a_round_is_not_written_twice_by_mistake(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append(row(0))
        with pytest.raises(DataError, match="resume_at=0"):
            log.append(row(0))


def test_an_undefined_value_is_null(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append({"round": 0, "aggregation": {"consensus_auc": float("nan")}})
        assert log.rows()[0]["aggregation"]["consensus_auc"] is None


@pytest.mark.parametrize(
    "bad",
    [
        {"learner": {"loss": float("nan")}},
        {"reward": {"mean": np.float32("nan")}},
        {"seconds": {"learn": float("inf")}},
    ],
)
def test_a_diverged_value_is_refused_by_name_and_nothing_is_written(tmp_path, bad):
    with MetricsLog(tmp_path) as log:
        with pytest.raises(DataError, match="diverged") as caught:
            log.append({"round": 0, **bad})
        assert caught.value.field in ("learner/loss", "reward/mean", "seconds/learn")
        assert log.rows() == []


def test_numpy_scalars_become_plain_numbers_and_tensors_are_refused(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append({"round": np.int64(0), "learner": {"kl": np.float32(0.5)}})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"round": 0, "learner": {"kl": 0.5}}
        with pytest.raises(DataError, match=r"Tensor.*item"):
            log.append({"round": 1, "learner": {"kl": torch.tensor(0.5)}})


def test_a_row_without_a_round_is_refused(tmp_path):
    with MetricsLog(tmp_path) as log, pytest.raises(DataError, match="integer round"):
        log.append({"reward": {"mean": 0.5}})


def test_reliability_columns_that_are_not_known_are_null_and_the_identity_is_required(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.append_reliability(reliability(0))
        table = pq.read_table(tmp_path / "reliability.parquet")
        assert table.schema.equals(RELIABILITY_SCHEMA)
        assert table["specificity"].null_count == 2
        with pytest.raises(DataError, match="annotator_id"):
            log.append_reliability(pa.table({"round": [1]}))


def test_a_row_that_is_not_json_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\nnonsense\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, row 2"):
        read_jsonl(tmp_path / "metrics.jsonl")
