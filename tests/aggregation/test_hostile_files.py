"""Files as people have them: every one gives an answer whose rows add up, or an error with file, row and remedy."""

import datetime as dt
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from crlhf_ray.aggregation.batch import aggregate
from crlhf_ray.aggregation.command import aggregate_files
from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.errors import DataError

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 2, 40)
VOTES = pd.DataFrame(
    [
        (f"t{task}", f"w{worker}", int(truth if RNG.random() < skill else 1 - truth))
        for task, truth in enumerate(TRUTH)
        for worker, skill in enumerate((0.9, 0.8, 0.7, 0.6, 0.55))
    ],
    columns=["task", "worker", "label"],
)
TEXT = VOTES.to_csv(index=False)
GOLD = "task,label\n" + "".join(f"t{i},{TRUTH[i]}\n" for i in range(10))


def files(folder, votes=TEXT, gold=GOLD, suffix=".csv"):
    for name, content in (("votes" + suffix, votes), ("gold.csv", gold)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [folder / ("votes" + suffix)], folder / "gold.csv"


def seventh(line):
    """The good file with this line as its seventh row of data."""
    lines = TEXT.splitlines()
    return "\n".join([*lines[:7], line, *lines[8:]]) + "\n"


@pytest.mark.parametrize(
    "votes",
    [
        "\ufeff" + TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        "\n" + TEXT,
        VOTES[["label", "worker", "task"]].to_csv(index=False),
        VOTES.assign(comment="x")[["comment", "label", "worker", "task"]].to_csv(index=False),
        VOTES.astype({"label": float}).to_csv(index=False),
        VOTES.astype({"label": bool}).to_csv(index=False),
    ],
    ids=["byte order mark", "CRLF", "CR", "blank line", "other order", "other columns", "floats", "True and False"],
)
def test_the_same_votes_written_otherwise_give_the_same_answer(votes, tmp_path):
    plain = aggregate(*files(tmp_path)).consensus
    pd.testing.assert_frame_equal(plain, aggregate(*files(tmp_path, votes)).consensus)


@pytest.mark.parametrize(
    "types",
    [
        {"label": "float32"},
        {"label": bool},
        {"label": str, "worker": "category", "task": "category"},
        {"label": "Int64"},
        {"task": bytes, "label": "int8"},
    ],
    ids=str,
)
def test_the_same_votes_as_parquet_of_other_types_give_the_same_answer(types, tmp_path):
    plain = aggregate(*files(tmp_path)).consensus
    table = VOTES.assign(task=VOTES.task.str.encode("utf-8")) if types.pop("task", None) is bytes else VOTES
    table.astype(types).to_parquet(tmp_path / "votes.parquet")
    pd.testing.assert_frame_equal(plain, aggregate([tmp_path / "votes.parquet"], tmp_path / "gold.csv").consensus)


def test_whole_numbers_name_the_same_task_in_every_format(tmp_path):
    numbered = VOTES.assign(task=VOTES.task.str[1:].astype(int))
    paths, gold = files(tmp_path, numbered.to_csv(index=False), GOLD.replace("t", "").replace("ask", "task"))
    plain = aggregate(paths, gold).consensus
    numbered.astype({"task": float}).to_parquet(tmp_path / "votes.parquet")
    pd.testing.assert_frame_equal(plain, aggregate([tmp_path / "votes.parquet"], gold).consensus)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("column", ["task", "worker"])
def test_large_numbers_beside_a_null_name_what_they_name(column, suffix, tmp_path):
    ids = (VOTES[column].str[1:].astype("Int64") + 900719925474099300).astype(object)
    table = VOTES.assign(**{column: ids})
    table.loc[len(table)] = [*(None if name == column else "x" for name in ("task", "worker")), 1]
    path = tmp_path / f"v{suffix}"
    if suffix == ".parquet":
        table.astype({column: "Int64"}).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
    found = aggregate([path])
    assert (found.report.used, found.report.rejected) == (200, 1)
    named = (found.consensus if column == "task" else found.reliability)[column]
    assert set(named) == set(map(str, ids))


@pytest.mark.parametrize(
    "votes, message",
    [
        ("", r"votes.csv: is empty; give a header line"),
        ("\n\n", r"is empty"),
        ("task,worker,label\n", r"no usable vote among 0 rows; give a row a vote"),
        (TEXT.replace("worker", "annotator", 1), r"no column 'worker' \(its columns: task, annotator, label\)"),
        (TEXT.replace("label", "answer", 1), r"no column 'label' \(its columns: task, w.*, answer\); .* --label"),
        (TEXT.replace("worker", "label", 1), r"several columns 'label'"),
        ("task,worker,label,label\nt0,w0,1,0\n", r"several columns 'label'; rename all but the one meant"),
        (TEXT.replace("w1", "wé").encode("latin-1"), r"votes.csv, row 2: is not UTF-8 text; save the file as UTF-8"),
        (TEXT.encode("utf-16"), r"row 0: is not UTF-8 text"),
        (np.random.default_rng(1).bytes(1_000_000), r"votes.csv"),
        (seventh('t1,"w1,1'), r"votes.csv, row 7: has a quote \(\"\) that is not closed"),
    ],
    ids=str,
)  # fmt: skip
def test_votes_that_cannot_be_used_are_an_error_with_a_remedy(votes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        aggregate(*files(tmp_path, votes))


@pytest.mark.parametrize(
    "gold, message",
    [
        ("", r"gold.csv: is empty"),
        ("task,label\n", r"gold.csv: it contains no gold; give a row for each known task, or leave the file out"),
        (GOLD.replace("label", "truth", 1), r"gold.csv: it has no column 'label' \(its columns: task, truth\)"),
        (GOLD + "t20,\n", r"gold.csv, row 11, field 'label': is missing; gold must be sure"),
        (GOLD + "t20\n", r"gold.csv, row 11.*has 1 fields, the header 2; fix this row"),
        (GOLD + "t20,7\n", r"gold.csv, row 11, field 'label': 7 is a label that no vote has.*--class"),
        (GOLD + "t20,yes\n", r"gold.csv, row 11, field 'label': 'yes' is a label that no vote has"),
        (GOLD.replace(",0\n", ",-1\n"), r"gold.csv, row \d+, field 'label': -1 is a label that no vote has"),
        (GOLD.replace("\nt", "\nzz"), r"gold.csv, row 1, field 'task': nobody voted on task 'zz0'.*as the votes do"),
        (GOLD.replace("t3", "té").encode("latin-1"), r"gold.csv, row 4: is not UTF-8 text"),
        (GOLD + f"t3,{1 - TRUTH[3]}\n", r"gold.csv, row 11, field 'label': gold contradicts itself: task 't3'"),
    ],
    ids=str,
)  # fmt: skip
def test_gold_that_cannot_be_used_is_an_error_with_file_row_and_remedy(gold, message, tmp_path):
    with pytest.raises(DataError, match=message):
        aggregate(*files(tmp_path, gold=gold))


@pytest.mark.parametrize(
    "line, field, remedy",
    [
        ("t1,w1,maybe", "label", "give one of [0, 1]"),
        ("t1,w1,5", "label", "give one of [0, 1]"),
        ("t1,w1,-1", "label", "give one of [0, 1]"),
        ("t1,w1,inf", "label", "give one of [0, 1]"),
        (TEXT.splitlines()[6], "worker", "keep one vote a worker and task (the first was used)"),
        (",w1,1", "task", "fill it in or drop the row"),
        ("t1,,1", "worker", "fill it in or drop the row"),
        ("t1,w1,1,9", "row", "fix this row"),
        ("t1,w1", "row", "fix this row"),
    ],
)
def test_one_bad_row_is_counted_and_named_and_all_others_are_used(line, field, remedy, tmp_path):
    report = aggregate(*files(tmp_path, seventh(line))).report
    assert (report.read, report.used, report.rejected) == (200, 199, 1)
    assert [(r.row, r.field, r.remedy) for r in report.rows] == [(7, field, remedy)]


def test_the_row_named_is_the_one_behind_blank_and_broken_lines_too(tmp_path):
    lines = seventh("t1,w1,maybe").splitlines()
    report = aggregate(*files(tmp_path, "\n".join([*lines[:3], "a,b", *lines[3:]]))).report
    assert [(r.row, r.field) for r in report.rows] == [(3, "row"), (8, "label")]


def test_without_gold_the_labels_found_are_said(tmp_path):
    paths, _ = files(tmp_path, seventh("t1,w1,5"))
    result = aggregate(paths)
    assert "5 (1 votes)" in str(result.report)
    assert "p_5" in result.consensus


def test_text_among_numbers_is_an_error_at_its_row_and_naming_the_classes_rejects_it(tmp_path):
    paths, _ = files(tmp_path, seventh("t1,w1,maybe"))
    with pytest.raises(DataError, match=r"votes.csv, row 7, field 'label': 'maybe' stands among other.*--class"):
        aggregate(paths)
    assert aggregate(paths, classes=(0, 1)).report.rejected == 1


def test_many_labels_that_gold_does_not_have_are_an_error_and_not_thrown_away(tmp_path):
    many = VOTES.assign(label=VOTES.label.where(np.arange(200) % 4 > 0, -1))
    with pytest.raises(
        DataError, match=r"row 1, field 'label': -1 is not among the truths in .*25% of the votes.*--class"
    ):
        aggregate(*files(tmp_path, many.to_csv(index=False)))


def test_nought_between_minus_one_and_one_is_an_abstention(tmp_path):
    signs = VOTES.assign(label=(2 * VOTES.label - 1).where(np.arange(200) % 4 > 0, 0))
    gold = pd.DataFrame({"task": [f"t{i}" for i in range(10)], "label": 2 * TRUTH[:10] - 1}).to_csv(index=False)
    report = aggregate(*files(tmp_path, signs.to_csv(index=False), gold)).report
    assert (report.used, report.abstained, report.rejected) == (200, 50, 0)


def test_gold_that_nobody_voted_on_is_counted(tmp_path):
    assert "1 of 11 tasks have no vote" in str(aggregate(*files(tmp_path, gold=GOLD + "nowhere,1\n")).report)


@pytest.mark.parametrize("times", [(1, 2), ("2026-01-31 12:00:00", "2026-01-31 12:00:00.5"), ("9", "10")], ids=str)
def test_of_two_votes_the_later_counts_whatever_the_order_of_rows(times, tmp_path):
    twice = pd.concat(
        [VOTES[:20].assign(label=1 - VOTES.label[:20], time=times[0]), VOTES.assign(time=times[1])]
    ).sample(frac=1, random_state=0)
    found = aggregate(*files(tmp_path, twice.to_csv(index=False)))
    plain = aggregate(*files(tmp_path)).consensus.set_index("task")
    pd.testing.assert_frame_equal(plain, found.consensus.set_index("task").loc[plain.index], atol=1e-6)
    assert (found.report.used, found.report.rejected) == (200, 20)
    assert "the latest was used" in str(found.report)


def test_a_time_that_is_none_is_counted(tmp_path):
    timed = VOTES.assign(time=["soon", *range(199)])
    (row,) = aggregate(*files(tmp_path, timed.to_csv(index=False))).report.rows
    assert (row.row, row.field, row.problem) == (1, "time", "soon")


def test_lists_where_values_belong(tmp_path):
    _, gold = files(tmp_path)
    VOTES.assign(label=[[v] for v in VOTES.label]).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v.parquet, field 'label': is of type list<.*; give numbers or text"):
        aggregate([tmp_path / "v.parquet"], gold)
    lines = VOTES.to_json(orient="records", lines=True)
    (tmp_path / "v.jsonl").write_text(lines + '{"task": ["a"], "worker": "b", "label": {}}\n{"task": 1, "label": 1}\n')
    report = aggregate([tmp_path / "v.jsonl"], gold).report
    assert [(r.row, r.field) for r in report.rows] == [(201, "row"), (202, "row")]
    assert (report.used, report.rejected) == (200, 2)


@pytest.mark.parametrize(
    "table, message",
    [
        (None, r"v.parquet: cannot be read as parquet"),
        (VOTES.drop(columns="label"), r"v.parquet: it has no column 'label'"),
        (VOTES.assign(label=[[v] for v in VOTES.label]), r"field 'label': is of type list"),
        (VOTES[:0], r"v.parquet: it contains no label"),
        (VOTES.assign(label="yes"), r"gold.csv, row 1, field 'label': . is a label that no vote has"),
        (VOTES.assign(label=np.arange(200) % 3), r"label': 2 is not among the truths in"),
    ],
    ids=["garbage", "no label", "lists", "no rows", "one word", "three classes"],
)
def test_large_files_are_looked_at_before_work_begins(table, message, tmp_path):
    _, gold = files(tmp_path)
    (tmp_path / "v.parquet").write_bytes(b"garbage" * 1000) if table is None else table.to_parquet(
        tmp_path / "v.parquet"
    )
    with pytest.raises(DataError, match=message):
        aggregate_parquet([tmp_path / "v.parquet"], tmp_path / "out", gold)


@pytest.mark.parametrize("name", ["w\0", "w" * 300_000, "=1+1", "naïve \u202e"], ids=["NUL", "huge", "=", "text"])
def test_names_are_kept_as_they_are(name, tmp_path):
    found = aggregate(*files(tmp_path, TEXT.replace("w1", name))).reliability
    assert name in set(found["worker"])


def test_the_command_writes_what_it_rejected(tmp_path):
    paths, gold = files(tmp_path, seventh("t1,w1,maybe"))
    console = Console(record=True, width=200)
    aggregate_files(paths, gold, tmp_path / "out", "hierarchical", False, console)
    assert "200 rows read, 199 used (0 abstained), 1 rejected" in console.export_text()
    totals, row = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert totals["rejected"] == 1
    assert (row["file"], row["row"], row["problem"]) == (str(paths[0]), 7, "'maybe'")


def test_classes_are_named_as_they_stand_in_the_file(tmp_path):
    paths, gold = files(tmp_path, VOTES.astype({"label": bool}).to_csv(index=False))
    aggregate_files(paths, gold, tmp_path / "out", "two_coin", False, Console(record=True), ["False", "True"])
    assert len(pd.read_csv(tmp_path / "out" / "consensus.csv")) == 40


@pytest.mark.parametrize("read", [aggregate, lambda paths: aggregate_parquet(paths, paths[0].parent / "out")])
def test_one_class_in_all_is_an_error_that_names_the_file(read, tmp_path):
    VOTES.assign(label="yes").to_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v.parquet, field 'label': every label is 'yes'"):
        read([tmp_path / "v.parquet"])


@pytest.mark.parametrize("big", [False, True], ids=["in memory", "big"])
def test_naming_one_class_alone_is_an_error(big, tmp_path):
    paths, gold = files(tmp_path)
    with pytest.raises(DataError, match=r"votes.csv, field 'label': --class names 1; name"):
        aggregate_files(paths, gold, tmp_path / "out", "hierarchical", big, Console(record=True), ["1"])


GOOD_LINE = '{"task": 1, "worker": 3, "label": 1}\n'


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"task": 1, "worker": 2, "label": 1%s}' % ("0" * 400), "a number of 401 digits as label"),
        ('{"task": 1, "worker": 2, "label": 1, "weight": 1%s}' % ("0" * 400), "a number of 401 digits as weight"),
        ('{"task": 1, "worker": 2, "label": 1, "time": 1%s}' % ("0" * 400), "a number of 401 digits as time"),
        ('{"task": 1, "worker": 2, "label": 1%s}' % ("0" * 5000), "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"task": "\\ud800", "worker": 2, "label": 1}', "half of a surrogate pair in task"),
    ],
    ids=["400 digits", "weight", "time", "5000 digits", "brackets", "surrogate"],
)
def test_a_line_of_json_that_no_vote_can_be_is_counted(line, problem, tmp_path):
    (tmp_path / "v.jsonl").write_text(GOOD_LINE + line + "\n")
    report = aggregate([tmp_path / "v.jsonl"]).report
    assert (report.used, report.rejected) == (1, 1)
    assert report.rows[0].row == 2
    assert problem in report.rows[0].problem


def bad_bytes(name):
    columns = {"task": ["a", "b"], "worker": ["v", "w"], "label": ["0", "1"]}
    return pa.table({n: pa.array([v[0].encode(), b"\xff"]) if n == name else pa.array(v) for n, v in columns.items()})


@pytest.mark.parametrize("name", ["task", "worker", "label"])
def test_bytes_in_parquet_that_are_no_text_are_an_error_at_their_row(name, tmp_path):
    pq.write_table(bad_bytes(name), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=rf"v.parquet, row 2, field '{name}': b'.xff' is not UTF-8 text; write it as"):
        aggregate([tmp_path / "v.parquet"])


def test_a_time_far_in_the_future_is_a_time(tmp_path):
    times = pa.array([dt.datetime(2021, 1, 1), dt.datetime(9999, 1, 1), None], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"task": ["a"] * 3, "worker": ["v"] * 3, "label": [0, 1, 0], "time": times}), tmp_path / "v.parquet"
    )
    found = aggregate([tmp_path / "v.parquet"])
    assert found.consensus["label"].tolist() == [1]
    assert dict(found.report.counts).keys() == {
        "worker: keep one vote a worker and task (the latest was used)",
    }


@pytest.mark.parametrize("read", [aggregate, lambda paths: aggregate_parquet(paths, paths[0].parent / "out")])
def test_a_folder_is_no_file_and_free_text_is_no_label(read, tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match=r"folder.parquet: is a folder; name the files in it"):
        read([tmp_path / "folder.parquet"])
    pd.concat([VOTES, VOTES.assign(task=VOTES.task + "x")]).assign(label=range(400)).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v.parquet, field 'label': .* the maximum is 200: is this the label column\?"):
        read([tmp_path / "v.parquet"])


def test_out_that_is_a_file_is_an_error(tmp_path):
    paths, gold = files(tmp_path)
    for out in (gold, gold / "below"):
        with pytest.raises(DataError, match=r"gold.csv.*: --out is a file, or lies below one; name a folder"):
            aggregate_files(paths, gold, out, "hierarchical", False, Console(record=True))
