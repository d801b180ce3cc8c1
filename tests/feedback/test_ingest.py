"""Ingestion from Parquet, JSONL and SQL as a Ray Dataset, on a real local Ray."""

import json
import sqlite3
from datetime import datetime
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback import ingest
from crlhf_ray.feedback.ingest import SqlSource, read_annotations
from crlhf_ray.feedback.log import AnnotationLog

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]


def row(number, **changes):
    return {
        "event_id": f"e{number}",
        "item_id": "i1",
        "line": number,
        "annotator_id": "a1",
        "label": 1,
        "confidence": 0.5,
        "milliseconds": None,
        "created_at": "2026-01-31T12:00:00Z",
        "source": "human",
        **changes,
    }


def write_jsonl(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def as_table(rows):
    return pa.Table.from_pylist(
        [{**r, "created_at": datetime.fromisoformat(r["created_at"])} for r in rows], schema=ANNOTATION_SCHEMA
    )


def ids(dataset):
    return [r["event_id"] for r in dataset.take_all()]


def problems(report):
    return [(r["file"].rsplit("/")[-1], r["row"], r["field"]) for r in report.rows.take_all()]


def test_a_log_is_read_back_as_it_was_written(tmp_path):
    log = AnnotationLog(tmp_path)
    log.append(as_table([row(0), row(1)]))
    log.append(as_table([row(2)]))
    dataset, report = read_annotations(tmp_path)
    assert pa.concat_tables(dataset.iter_batches(batch_format="pyarrow", batch_size=None)).equals(log.read())
    assert (report.accepted, report.count) == (3, 0)


def test_jsonl_rows_that_cannot_be_used_are_reported_with_file_and_row(tmp_path):
    rows = [
        row(0),
        "not json",
        "",
        row(1, label="good"),
        row(2, confidense=1),
        "[1]",
        row(3),
        row(4, confidence=float("nan")),
    ]
    dataset, report = read_annotations(write_jsonl(tmp_path / "votes.jsonl", rows))
    assert ids(dataset) == ["e0", "e3"]
    assert problems(report) == [
        ("votes.jsonl", 1, "(line)"),
        ("votes.jsonl", 3, "label"),
        ("votes.jsonl", 4, "confidense"),
        ("votes.jsonl", 5, "(line)"),
        ("votes.jsonl", 7, "confidence"),
    ]
    assert (report.accepted, report.count) == (2, 5)
    assert "5 rows left out" in str(report)


def test_a_folder_may_mix_formats_and_the_first_of_repeated_events_stands(tmp_path):
    pq.write_table(as_table([row(0), row(1)]), tmp_path / "a.parquet")
    write_jsonl(tmp_path / "b.jsonl", [row(1), row(2), row(0, label=-1), row(2)])
    dataset, report = read_annotations(tmp_path)
    assert ids(dataset) == ["e0", "e1", "e2"]
    assert [r["label"] for r in dataset.take_all()] == [1, 1, 1]
    assert problems(report) == [("b.jsonl", 0, "event_id"), ("b.jsonl", 2, "event_id"), ("b.jsonl", 3, "event_id")]
    assert (report.count, report.repeats) == (3, 2)
    remedies = [r["remedy"] for r in report.rows.take_all()]
    assert "counts once" in remedies[0]
    assert "event_id of its own" in remedies[1]


def test_many_buckets_give_the_same_as_one(tmp_path, monkeypatch):
    for name in "abc":
        write_jsonl(tmp_path / f"{name}.jsonl", [row(n, label=2 if n % 7 == 0 else 1) for n in range(50)])
    one, report = read_annotations(tmp_path)
    monkeypatch.setattr(ingest, "_BUCKET_BYTES", 4000)
    many, other = read_annotations(tmp_path)
    assert sorted(ids(many)) == sorted(ids(one))
    assert many.num_blocks() > 1
    assert (other.accepted, other.count, other.repeats) == (report.accepted, report.count, report.repeats)
    assert sorted(problems(other)) == sorted(problems(report))


def make_database(path):
    connection = sqlite3.connect(path)
    connection.execute("create table votes (id, item, line, who, label, at, confidence)")
    rows = [
        ("e0", "i1", 0, "a1", 1, "2026-01-31 12:00:00", 0.5),
        ("e1", "i1", 1, "a1", "good", "2026-01-31 12:00:00", None),
        ("e2", "i1", 2, "a1", -1, "2026-01-31 12:00:00", None),
    ]
    connection.executemany("insert into votes values (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


QUERY = (
    "select id as event_id, item as item_id, line, who as annotator_id, label, confidence, "
    "at || 'Z' as created_at, 'human' as source from votes order by id"
)


@pytest.mark.parametrize("by_url", [True, False], ids=["sqlalchemy", "db-api"])
def test_a_database_is_read_by_url_or_connection(tmp_path, by_url):
    file = tmp_path / "votes.db"
    make_database(file)
    database = f"sqlite:///{file}" if by_url else partial(sqlite3.connect, file)
    dataset, report = read_annotations(SqlSource(QUERY, database))
    assert ids(dataset) == ["e0", "e2"]
    assert problems(report) == [("query", 1, "label")]


def test_a_query_with_wrong_columns_is_an_error_that_says_which(tmp_path):
    file = tmp_path / "votes.db"
    make_database(file)
    with pytest.raises(DataError, match=r"query, field 'id'"):
        read_annotations(SqlSource("select id from votes", f"sqlite:///{file}"))


def test_the_report_is_written_as_jsonl_and_parquet(tmp_path):
    _, report = read_annotations(write_jsonl(tmp_path / "votes.jsonl", [row(0, label=7), row(1)]))
    report.write(tmp_path / "jsonl")
    report.write(tmp_path / "parquet", "parquet")
    (line,) = [line for f in (tmp_path / "jsonl").iterdir() for line in f.read_text().splitlines()]
    (record,) = pq.read_table(tmp_path / "parquet").to_pylist()
    assert json.loads(line) == record
    assert record["value"] == "7"


def test_nothing_to_read_is_an_empty_data_set(tmp_path):
    dataset, report = read_annotations(tmp_path)
    assert (dataset.count(), report.accepted, report.count) == (0, 0, 0)
    dataset, report = read_annotations(write_jsonl(tmp_path / "none.jsonl", []))
    assert (dataset.count(), report.accepted, report.count) == (0, 0, 0)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.parquet"):
        read_annotations(tmp_path / "nowhere.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"broken\.parquet: this is no Parquet file"):
        read_annotations(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"event_id": ["e1"]}), tmp_path / "narrow.parquet")
    with pytest.raises(DataError, match=r"narrow\.parquet, field 'item_id'"):
        read_annotations(tmp_path / "narrow.parquet")
