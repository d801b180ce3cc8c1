"""Files in, consensus out; every row is used or reported."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crlhf_ray.aggregation.batch import aggregate
from crlhf_ray.aggregation.files import LONGEST_ROW
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.errors import ConfigError, DataError
from tests.aggregation.tables import crowd


@pytest.fixture(scope="module")
def votes():
    return crowd(np.random.default_rng(0), np.tile([1, 1, 0], 60), np.full(7, 0.8), np.full(7, 0.7), density=0.6)


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.csv"
    pd.DataFrame({"task": range(30), "label": np.tile([1, 1, 0], 10)}).to_csv(path, index=False)
    return path


def test_csv_parquet_and_jsonl_give_the_same_consensus(votes, gold, tmp_path):
    votes.to_csv(tmp_path / "v.csv", index=False)
    votes.to_parquet(tmp_path / "v.parquet")
    votes.to_json(tmp_path / "v.jsonl", orient="records", lines=True)
    results = [aggregate([tmp_path / f"v.{kind}"], gold).consensus for kind in ("csv", "parquet", "jsonl")]
    pd.testing.assert_frame_equal(results[0], results[1])
    pd.testing.assert_frame_equal(results[0], results[2])
    assert results[0].columns.tolist() == ["task", "label", "probability", "p_0", "p_1", "labels", "tie", "bits"]


@pytest.mark.parametrize(
    "estimator", ["hierarchical", "two_coin", "one_coin", "majority", "dawid_skene", "logistic_l1"]
)
def test_every_estimator_can_be_asked_for_by_name(estimator, votes, gold, tmp_path):
    votes.to_csv(tmp_path / "v.csv", index=False)
    result = aggregate([tmp_path / "v.csv"], gold, estimator=estimator)
    assert result.temperature is not None
    assert len(result.reliability) == 7


def test_every_unusable_row_is_reported_with_file_row_and_remedy(gold, tmp_path):
    path = tmp_path / "v.csv"
    path.write_text(
        "task,worker,label,weight\n"
        "1,a,1,1\n"
        "1,b,0,1\n"
        ",a,1,1\n"  # row 3: no task
        "2,,1,1\n"  # row 4: no worker
        "2,a,7,1\n"  # row 5: not a class
        "2,b,1,2.5\n"  # row 6: weight
        "1,a,0,1\n"  # row 7: second vote
        "3,a,,1\n"  # row 8: abstention
        "4,a,1,1,surplus\n"  # row 9: too many fields
        "4,b,1,1\n"
    )
    result = aggregate([path], gold, classes=(0, 1))
    assert {(r.row, r.field) for r in result.report.rows} == {
        (3, "task"),
        (4, "worker"),
        (5, "label"),
        (6, "weight"),
        (7, "worker"),
        (9, "row"),
    }
    assert all(r.file == str(path) and r.remedy for r in result.report.rows)
    report = result.report
    assert (report.read, report.used, report.abstained, report.rejected) == (10, 4, 1, 6)
    report.write(tmp_path / "rejected.jsonl")
    first, *rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert first["rejected"] == 6 == len(rows)
    assert "10 rows read, 4 used (1 abstained), 6 rejected" in str(report)


def test_lines_that_are_no_json_are_reported(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_text(
        '{"task": 1, "worker": "a", "label": 1}\n{"task": 1, "wor\n[1, 2]\n{"task": 1, "worker": "b", "label": 0}\n'
    )
    report = aggregate([path]).report
    assert [(r.row, r.field) for r in report.rows] == [(2, "row"), (3, "row")]


def test_garbage_is_an_error_that_names_the_file(tmp_path):
    for name in ("v.csv", "v.parquet"):
        (tmp_path / name).write_bytes(os.urandom(4096))
        with pytest.raises(DataError, match=name):
            aggregate([tmp_path / name])
    (tmp_path / "v.txt").touch()
    with pytest.raises(DataError, match="suffix"):
        aggregate([tmp_path / "v.txt"])
    with pytest.raises(DataError, match="no such file"):
        aggregate([tmp_path / "missing.csv"])


@pytest.mark.parametrize("name", ["v.csv", "v.jsonl"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(3 * LONGEST_ROW))
    with pytest.raises(DataError, match=rf"{name}.*is longer than"):
        aggregate([tmp_path / name])


def test_gold_that_contradicts_itself_names_both_rows(votes, tmp_path):
    votes.to_csv(tmp_path / "v.csv", index=False)
    (tmp_path / "g.csv").write_text("task,label\n1,1\n2,0\n1,0\n")
    with pytest.raises(
        DataError, match=r"g.csv, row 3, field 'label': gold contradicts itself: task '1' is 1 in row 1"
    ):
        aggregate([tmp_path / "v.csv"], tmp_path / "g.csv")


def test_a_missing_column_lists_what_there_is(tmp_path):
    (tmp_path / "v.csv").write_text("item,worker,label\n1,a,1\n")
    with pytest.raises(DataError, match="no column 'task'"):
        aggregate([tmp_path / "v.csv"])


def test_an_unknown_estimator_lists_those_there_are(votes, tmp_path):
    votes.to_csv(tmp_path / "v.csv", index=False)
    with pytest.raises(ConfigError, match="there are hierarchical"):
        aggregate([tmp_path / "v.csv"], estimator="magic")


def test_the_report_of_endless_garbage_stays_small(tmp_path):
    pd.DataFrame({"task": ["t"] * 5000, "worker": [None] * 5000, "label": [1] * 5000}).to_parquet(
        tmp_path / "v.parquet"
    )
    with pytest.raises(DataError, match="no usable vote among 5000 rows"):
        aggregate([tmp_path / "v.parquet"])
    good = pd.DataFrame({"task": ["t"], "worker": ["w"], "label": [1]})
    good.to_parquet(tmp_path / "good.parquet")
    report = aggregate([tmp_path / "v.parquet", tmp_path / "good.parquet"], classes=(0, 1)).report
    assert (report.rejected, len(report.rows)) == (5000, 1000)


@pytest.mark.engine
def test_map_reduce_says_what_the_estimator_in_memory_says(votes, gold, tmp_path):
    import ray

    bad = pd.DataFrame({"task": ["1", "2"], "worker": [None, "w0"], "label": [1, 9]})
    table = pd.concat([votes.astype({"task": str}), bad, votes[:1].astype({"task": str})], ignore_index=True)
    pq.write_table(pa.Table.from_pandas(table), tmp_path / "v.parquet", row_group_size=200)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            result = aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", gold, classes=(0, 1), part_votes=200)
        finally:
            ray.shutdown()
    answer = pd.read_parquet(result.consensus).set_index("task")
    truth = pd.read_csv(gold, dtype={"task": str}).set_index("task")["label"]
    memory = Hierarchical(trusts=(1.0,), tol=1e-6).fit(votes.astype({"task": str}), truth)
    assert np.abs(memory.probas_[1].loc[answer.index] - answer["p_1"]).max() < 0.02
    assert {(Path(r.file).name, r.row, r.field) for r in result.report.rows} == {
        ("v.parquet", len(votes) + 1, "worker"),
        ("v.parquet", len(votes) + 2, "label"),
        ("v.parquet", len(votes) + 3, "worker"),
    }
    assert result.report.used == len(votes) == result.reliability["labels"].sum()
