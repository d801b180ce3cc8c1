"""Two classes under whatever names, with whatever gold, in memory and by map-reduce."""

import tempfile

import pandas as pd
import pytest

from crlhf_ray.aggregation.batch import aggregate
from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.errors import DataError

PAIRS = [("no", "yes"), (1, 2), ("bad", "good")]
TRUTH = [1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 0]


@pytest.fixture(scope="module")
def ray_data():
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        yield
        ray.shutdown()


def votes(pair):
    """Four people, of whom the last is wrong on every third task."""
    return pd.DataFrame(
        [
            (f"t{task}", f"w{worker}", pair[1 - truth if worker == 3 and task % 3 == 0 else truth])
            for task, truth in enumerate(TRUTH)
            for worker in range(4)
        ],
        columns=["task", "worker", "label"],
    )


def gold_file(folder, pair, tasks):
    path = folder / "gold.csv"
    path.write_text("task,label\n" + "".join(f"t{task},{pair[TRUTH[task % len(TRUTH)]]}\n" for task in tasks))
    return path


GOLDS = {"both classes": range(6), "one class": [1, 2, 5]}


@pytest.mark.parametrize("tasks", GOLDS.values(), ids=GOLDS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_files_of_any_two_classes_are_answered(pair, tasks, tmp_path):
    votes(pair).to_csv(tmp_path / "v.csv", index=False)
    answer = aggregate([tmp_path / "v.csv"], gold_file(tmp_path, pair, tasks)).consensus.set_index("task")["label"]
    assert answer.to_dict() == {f"t{task}": pair[truth] for task, truth in enumerate(TRUTH)}


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_gold_on_tasks_that_nobody_voted_on_is_an_error_whatever_the_classes(pair, tmp_path):
    votes(pair).to_csv(tmp_path / "v.csv", index=False)
    with pytest.raises(DataError, match=r"gold.csv, row 1, field 'task': nobody voted on task 't12'"):
        aggregate([tmp_path / "v.csv"], gold_file(tmp_path, pair, [12, 13]))


@pytest.mark.engine
@pytest.mark.parametrize("tasks", GOLDS.values(), ids=GOLDS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_large_files_of_any_two_classes_are_answered(pair, tasks, ray_data, tmp_path):
    votes(pair).to_parquet(tmp_path / "v.parquet")
    found = aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", gold_file(tmp_path, pair, tasks))
    answer = pd.read_parquet(found.consensus).set_index("task")["label"]
    assert answer.to_dict() == {f"t{task}": pair[truth] for task, truth in enumerate(TRUTH)}


@pytest.mark.engine
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_large_files_with_gold_on_other_tasks_are_an_error_whatever_the_classes(pair, ray_data, tmp_path):
    votes(pair).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"gold.csv, row 1, field 'task': nobody voted on task 't12'"):
        aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", gold_file(tmp_path, pair, [12, 13]))


@pytest.mark.engine
@pytest.mark.parametrize("pair", [(-1, 1), *PAIRS], ids=str)
def test_large_files_sorted_by_label_lose_no_vote(pair, ray_data, tmp_path):
    table = votes(pair).sort_values("label", key=lambda label: label.map(pair.index))
    table.astype({"label": "category"}).to_parquet(tmp_path / "v.parquet", row_group_size=5)
    found = aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out")
    assert (found.report.used, found.report.abstained, found.report.rejected) == (48, 0, 0)
    answer = pd.read_parquet(found.consensus).set_index("task")["label"]
    assert answer.to_dict() == {f"t{task}": pair[truth] for task, truth in enumerate(TRUTH)}


@pytest.mark.engine
def test_a_second_run_into_the_same_folder_leaves_nothing_of_the_first(ray_data, tmp_path):
    votes((0, 1)).to_parquet(tmp_path / "v.parquet")
    aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", part_votes=12)
    votes((0, 1)).iloc[:8].to_parquet(tmp_path / "v.parquet")
    found = aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", part_votes=12)
    assert sorted(pd.read_parquet(found.consensus)["task"]) == ["t0", "t1"]


@pytest.mark.engine
def test_bytes_in_a_large_file_that_are_no_text_are_an_error_at_their_row(ray_data, tmp_path):
    table = votes((0, 1)).assign(task=[b"a"] * 47 + [b"\xff"])
    table.to_parquet(tmp_path / "v.parquet", row_group_size=20)
    with pytest.raises(DataError, match=r"v.parquet, row 48, field 'task': b'.xff' is not UTF-8 text"):
        aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out")
