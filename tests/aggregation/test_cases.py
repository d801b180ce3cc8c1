"""Files in the shapes of common exports, each read as the person who has it would expect."""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from crlhf_ray.aggregation.batch import aggregate
from crlhf_ray.aggregation.command import aggregate_files
from crlhf_ray.aggregation.files import Columns, read_chunks
from crlhf_ray.aggregation.rejections import RowReport, clean
from crlhf_ray.errors import ConfigError, DataError

CASES = Path(__file__).parent / "cases"


def read(name, columns=None, folder=CASES):
    """The votes in a file as (task, worker, label), and the report."""
    report = RowReport()
    path = folder / name
    parts = [clean(c, rows, str(path), report) for c, rows in read_chunks(path, report, columns or Columns())]
    table = pd.concat(parts)
    return list(table[["task", "worker", "label"]].itertuples(index=False, name=None)), report


def test_label_studio_json_leaves_out_cancelled_annotations():
    votes, report = read("label_studio.json")
    assert votes[:2] == [("1", "1", "good"), ("1", "2", "bad")]
    assert "3" not in {worker for _, worker, _ in votes}
    assert "1 cancelled annotations left out" in str(report)


def test_label_studio_with_several_controls_names_them(tmp_path):
    entry = {"type": "choices", "value": {"choices": ["x"]}}
    result = [entry | {"from_name": "tone"}, entry | {"from_name": "topic"}]
    task = {"id": 1, "annotations": [{"completed_by": {"id": 4, "email": "ann@example.org"}, "result": result}]}
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    with pytest.raises(DataError, match=r"2 controls that could be the label \(there are: tone, topic\).*--label"):
        read("ls.json", folder=tmp_path)
    assert read("ls.json", Columns(label="topic"), tmp_path)[0] == [("1", "ann@example.org", "x")]


def test_label_studio_csv_is_read_by_the_names_of_its_columns():
    votes, _ = read("label_studio.csv", Columns(task="id", worker="annotator", label="tone"))
    assert votes == [("1", "1", "good"), ("1", "2", "bad")]


def test_argilla_records_leave_out_discarded_responses(tmp_path):
    given = [{"value": "yes", "user_id": "u1"}, {"value": "no", "user_id": "u2", "status": "discarded"}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "r1", "fields": {"text": "t"}, "responses": {"ok": given}}]))
    votes, report = read("a.json", folder=tmp_path)
    assert votes == [("r1", "u1", "yes")]
    assert "1 draft or discarded" in str(report)


def test_peerannot_answers_are_read():
    assert read("peerannot_answers.json")[0] == [("0", "1", 0), ("0", "2", 1), ("1", "1", 0)]


TOLOKA = [("1.png", "w1", "cat"), ("1.png", "w2", "dog"), ("2.png", "w1", "cat")]


@pytest.mark.parametrize("names", [{}, {"label": "result"}, {"task": "INPUT:image", "label": "OUTPUT:result"}], ids=str)
def test_toloka_assignments_are_read_with_and_without_names(names):
    votes, report = read("toloka.tsv", Columns(**names))
    assert votes == TOLOKA
    assert "separated by tabs" in str(report)


def test_one_column_a_worker_is_read_with_wide_and_without_it_the_error_says_so():
    with pytest.raises(DataError, match=r"no column 'task'.*--task, or give --wide if each worker has a column"):
        read("wide.csv")
    votes, report = read("wide.csv", Columns(wide=True))
    assert votes == [
        ("1", "ann", "good"), ("1", "ben", "bad"), ("2", "ann", "good"), ("2", "ben", "good"), ("2", "cleo", "bad"),
        ("3", "ben", "bad"), ("3", "cleo", "bad"),
    ]  # fmt: skip
    assert report.read == len(votes)


def test_semicolons_a_byte_order_mark_and_decimal_commas_are_read_and_the_separator_named():
    votes, report = read("semicolon_excel.csv")
    assert votes == [("1", "a", 1), ("1", "b", 0), ("2", "a", 1)]
    (chunk, rows), *_ = read_chunks(CASES / "semicolon_excel.csv", RowReport())
    assert clean(chunk, rows, "f", RowReport())["weight"].tolist() == [0.5, 1, 0.25]
    assert "separated by ';'" in str(report)


@pytest.mark.parametrize("name", ["capitals.csv", "spaces.csv"])
def test_capitals_and_spaces_in_the_header_do_not_matter(name):
    assert read(name)[0] == [("1", "a", 1), ("1", "b", 0)]


def test_a_worker_is_one_person_whether_written_1_or_1_0():
    found = aggregate([CASES / "ids_as_floats_1.csv", CASES / "ids_as_floats_2.csv"])
    assert sorted(found.reliability["worker"]) == ["1", "2"]
    assert sorted(found.consensus["task"]) == ["1", "2", "3"]
    assert "1.0 is read as 1" in str(found.report)


def test_only_an_empty_field_is_missing():
    votes, report = read("named_na.csv")
    assert votes == [
        ("NA", "ann", "yes"), ("NA", "ben", "yes"), ("2", "null", "no"), ("2", "ann", "no"), ("3", "ann", "N/A"),
        ("3", "ben", "None"),
    ]  # fmt: skip
    assert report.rejected == 0
    assert "read as classes: 'N/A', 'None'; leave the field empty" in str(aggregate([CASES / "named_na.csv"]).report)


def test_line_breaks_inside_quotes_belong_to_the_field():
    assert read("line_breaks.csv")[0] == [("hello\nworld", "a", 1), ("hello\nworld", "b", 0), ("2", "a", 1)]


def test_a_large_file_with_line_breaks_in_another_column_is_read(tmp_path):
    text = "x\n" * 5000
    lines = "".join(f'{i % 900},w{i},{i % 2},"{text}"\n' for i in range(1900))
    (tmp_path / "v.csv").write_text("task,worker,label,comment\n" + lines)
    votes, report = read("v.csv", folder=tmp_path)
    assert (len(votes), report.rejected) == (1900, 0)


def test_a_vote_without_a_time_counts_unless_the_worker_votes_twice(tmp_path):
    votes, report = read("empty_time.csv")
    assert (len(votes), report.rejected) == (3, 0)
    (tmp_path / "v.csv").write_text((CASES / "empty_time.csv").read_text() + "1,b,1,2024-03-01T10:00:00Z\n")
    consensus = aggregate([tmp_path / "v.csv"], estimator="majority").consensus.set_index("task")
    assert consensus.loc["1", "p_1"] > 0.5  # of b's two votes the one with a time


def test_a_vote_without_a_weight_counts_in_full(tmp_path):
    (tmp_path / "v.csv").write_text("task,worker,label,weight\n1,a,1,\n1,b,0,0.5\n")
    assert aggregate([tmp_path / "v.csv"], estimator="majority").consensus["label"].tolist() == [1]


def test_classes_that_differ_by_case_are_named_in_pairs():
    text = str(aggregate([CASES / "case_of_classes.csv"]).report)
    assert "differ only by case or Unicode form: 'YES' and 'yes'; 'No' and 'no'" in text


def test_classes_that_differ_by_unicode_form_are_told_apart_in_print(tmp_path):
    (tmp_path / "v.csv").write_text("task,worker,label\n1,a,caf\u00e9\n1,b,cafe\u0301\n2,a,tea\n")
    text = str(aggregate([tmp_path / "v.csv"]).report)
    assert r"differ only by case or Unicode form: 'cafe\u0301' and 'caf\xe9'" in text


def test_gzip_is_read(tmp_path):
    (tmp_path / "v.csv.gz").write_bytes(gzip.compress((CASES / "capitals.csv").read_bytes()))
    assert read("v.csv.gz", folder=tmp_path)[0] == [("1", "a", 1), ("1", "b", 0)]
    (tmp_path / "bad.csv.gz").write_bytes(b"task,worker,label\n")
    with pytest.raises(DataError, match=r"bad.csv.gz: cannot be read as gzip"):
        read("bad.csv.gz", folder=tmp_path)


@pytest.mark.parametrize("name", ["capitals.csv", "toloka.tsv", "peerannot_answers.json", "label_studio.json"])
def test_standard_input_is_read_in_any_format(name, monkeypatch):
    wanted = read(name)[0]
    for data in ((CASES / name).read_bytes(), gzip.compress((CASES / name).read_bytes())):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert read("-", folder=Path())[0] == wanted


def test_a_task_whose_votes_were_all_left_out_is_counted(tmp_path):
    (tmp_path / "v.csv").write_text("task,worker,label,weight\n1,a,1,1\n2,a,0,1\n3,a,1,7\n")
    found = aggregate([tmp_path / "v.csv"])
    assert found.consensus["task"].tolist() == ["1", "2"]
    assert "1 tasks have no usable vote and are not in the consensus: 3" in str(found.report)


def test_a_tie_is_marked_and_gold_without_votes_is_not_in_the_consensus(tmp_path):
    (tmp_path / "v.csv").write_text("task,worker,label\n1,a,1\n1,b,0\n2,a,1\n2,b,1\n")
    (tmp_path / "g.csv").write_text("task,label\n2,1\n9,0\n")
    consensus = aggregate([tmp_path / "v.csv"], tmp_path / "g.csv", estimator="majority").consensus
    assert consensus[["task", "label", "tie"]].to_numpy().tolist() == [["1", 1, True], ["2", 1, False]]


def test_votes_are_counted_by_label_after_second_votes_are_gone(tmp_path):
    (tmp_path / "v.csv").write_text("task,worker,label\n1,a,1\n1,a,1\n1,b,0\n")
    assert "labels: 1 (1 votes), 0 (1 votes)" in str(aggregate([tmp_path / "v.csv"]).report)


def test_what_was_rejected_is_json_also_where_a_value_is_not_a_number(tmp_path):
    pd.DataFrame({"task": ["1", "2"], "worker": "a", "label": [1, 0], "weight": [float("inf"), 1.0]}).to_parquet(
        tmp_path / "v.parquet"
    )
    aggregate([tmp_path / "v.parquet"]).report.write(tmp_path / "r.jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert rows[1]["problem"] == "inf"


def test_big_refuses_what_it_would_not_do(tmp_path):
    for estimator, columns in (("one_coin", Columns()), ("hierarchical", Columns(wide=True))):
        with pytest.raises(ConfigError, match=r"--big has the hierarchical estimator only.*leave out --big or --"):
            aggregate_files([tmp_path], None, tmp_path, estimator, True, Console(), columns=columns)


def test_the_summary_fits_80_columns_and_shows_the_least_reliable_first(tmp_path):
    votes = pd.DataFrame(
        [(t, f"w{w}", (t + (w == 3)) % 5) for t in range(40) for w in range(4)], columns=["task", "worker", "label"]
    )
    votes.to_csv(tmp_path / "v.csv", index=False)
    console = Console(width=80, record=True, file=io.StringIO())
    aggregate_files([tmp_path / "v.csv"], None, tmp_path / "out", "hierarchical", False, console)
    text = console.export_text()
    assert "40 tasks, 0 of which are ties; Krippendorff's alpha 0.38" in text
    assert "Probabilities are not calibrated" in text
    assert "…" not in text
    assert text.index("w3") < text.index("w0")


def test_long_names_of_workers_and_classes_keep_both_ends_on_80_columns(tmp_path):
    names = [f"a class with a long name {i}" for i in range(6)]
    rows = [(t, f"somebody-with-a-long-name-{w}", names[(t + (w == 3) * t) % 6]) for t in range(60) for w in range(4)]
    pd.DataFrame(rows, columns=["task", "worker", "label"]).to_csv(tmp_path / "v.csv", index=False)
    console = Console(width=80, record=True, file=io.StringIO())
    aggregate_files([tmp_path / "v.csv"], None, tmp_path / "out", "hierarchical", False, console)
    text = console.export_text()
    assert all(f"somebod…g-name-{w}" in text for w in range(4))
    assert max(map(len, text.splitlines())) <= 80


def test_the_summary_says_whom_to_trust_whom_to_drop_and_what_to_ask_again(tmp_path):
    rows = [(t, f"w{w}", 1 if w == 4 else t % 2) for t in range(60) for w in range(5)]
    rows += [("hard", "w0", 1), ("hard", "w1", 0), ("new", "w0", 1)]
    pd.DataFrame(rows, columns=["task", "worker", "label"]).to_csv(tmp_path / "v.csv", index=False)
    consoles = [Console(width=80, record=True, file=io.StringIO()) for _ in range(2)]
    for console, as_json in zip(consoles, (False, True), strict=True):
        aggregate_files([tmp_path / "v.csv"], None, tmp_path, "hierarchical", False, console, as_json=as_json)
    text = consoles[0].export_text()
    assert "4 to trust, 1 to drop (w4), 0 undecided" in text
    assert "expected to tell): hard (0." in " ".join(text.split())
    found = json.loads(consoles[1].export_text())
    assert {w["worker"]: w["advice"] for w in found["workers"]} == dict.fromkeys(["w0", "w1", "w2", "w3"], "trust") | {
        "w4": "drop"
    }
    assert [task["task"] for task in found["ask_again"][:2]] == ["hard", "new"]
    written = pd.read_csv(tmp_path / "consensus.csv").set_index("task")["bits"]
    assert found["ask_again"][0]["bits"] == pytest.approx(written["hard"])


def test_majority_vote_has_no_advice_on_anybody(tmp_path):
    found = aggregate([CASES / "empty_time.csv"], estimator="majority")
    assert "advice" not in found.reliability
    console = Console(width=80, record=True, file=io.StringIO())
    aggregate_files([CASES / "empty_time.csv"], None, tmp_path, "majority", False, console)
    assert "to trust" not in console.export_text()


def test_json_has_the_summary(tmp_path):
    console = Console(record=True, file=io.StringIO())
    aggregate_files([CASES / "empty_time.csv"], None, tmp_path, "majority", False, console, as_json=True)
    found = json.loads(console.export_text())
    assert (found["tasks"], found["used"], found["calibrated"], len(found["workers"])) == (2, 3, False, 2)
