"""The annotation log: durable, idempotent by event id, and corrected by newer events."""

import multiprocessing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.log import AnnotationLog

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(event_id, item="i1", line=0, annotator="a1", label=1, after=0):
    return {
        "event_id": event_id,
        "item_id": item,
        "line": line,
        "annotator_id": annotator,
        "label": label,
        "confidence": 0.5,
        "milliseconds": 1000,
        "created_at": NOON + timedelta(seconds=after),
        "source": "human",
    }


def table(*events):
    return pa.Table.from_pylist(list(events), schema=ANNOTATION_SCHEMA)


def test_what_was_appended_is_read_back_in_order(tmp_path):
    log = AnnotationLog(tmp_path)
    assert log.append(table(event("e1"), event("e2", line=1))) == 2
    assert log.append(table(event("e3", line=2))) == 1
    assert log.read().equals(table(event("e1"), event("e2", line=1), event("e3", line=2)))
    assert len(log) == 3


def test_an_empty_log_reads_as_an_empty_table(tmp_path):
    assert AnnotationLog(tmp_path).read().equals(ANNOTATION_SCHEMA.empty_table())


def test_an_event_sent_again_is_stored_once_even_after_a_restart(tmp_path):
    AnnotationLog(tmp_path).append(table(event("e1"), event("e2", line=1)))
    log = AnnotationLog(tmp_path)
    assert log.append(table(event("e2", line=1, after=60), event("e3", line=2), event("e3", line=2))) == 1
    assert log.read()["event_id"].to_pylist() == ["e1", "e2", "e3"]


def test_an_event_id_that_says_something_else_is_refused_and_nothing_stored(tmp_path):
    log = AnnotationLog(tmp_path)
    log.append(table(event("e1", label=1)))
    with pytest.raises(DataError, match=r"row 1.*'e1'.*event_id of its own"):
        log.append(table(event("e2", line=1), event("e1", label=-1)))
    with pytest.raises(DataError, match="'e5'"):
        log.append(table(event("e5", label=1), event("e5", label=-1)))
    assert len(log) == 1


def test_a_bad_row_is_refused_with_its_place_and_nothing_stored(tmp_path):
    log = AnnotationLog(tmp_path)
    with pytest.raises(DataError, match=r"row 1, field 'label'.*2 cannot be stored"):
        log.append(table(event("e1"), event("e2", label=2)))
    assert len(log) == 0


def test_a_cursor_gives_only_what_is_new(tmp_path):
    log = AnnotationLog(tmp_path)
    log.append(table(event("e1")))
    ((_, cursor),) = log.since(0)
    log.append(table(event("e2", line=1)))
    ((new, cursor),) = log.since(cursor)
    assert new["event_id"].to_pylist() == ["e2"]
    assert list(log.since(cursor)) == []


def test_the_log_is_read_append_by_append_as_it_was_written(tmp_path):
    log = AnnotationLog(tmp_path)
    tables = [table(event("e1"), event("e2", line=1)), table(event("e3", line=2))]
    for one in tables:
        log.append(one)
    for reader in (log, AnnotationLog(tmp_path)):
        assert [(one.equals(tables[n]), cursor) for n, (one, cursor) in enumerate(reader.since(0))] == [
            (True, 1),
            (True, 2),
        ]


@pytest.mark.parametrize("place", [40, -400, -200, -20])
def test_damage_of_the_disk_is_an_error_that_names_the_file(tmp_path, place):
    log = AnnotationLog(tmp_path)
    log.append(table(*(event(f"e{n}", line=n) for n in range(50))))
    file = tmp_path / "0000000000.parquet"
    content = bytearray(file.read_bytes())
    content[place : place + 8 if place != -20 else None] = b"\xff" * (8 if place != -20 else 20)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"0000000000\.parquet: the disk damaged"):
        AnnotationLog(tmp_path).read()


def test_a_half_written_file_is_no_part_of_the_log(tmp_path):
    log = AnnotationLog(tmp_path)
    log.append(table(event("e1")))
    (tmp_path / ".crashed.tmp").write_bytes(b"PAR1 half")
    assert AnnotationLog(tmp_path).append(table(event("e2", line=1))) == 1
    assert len(AnnotationLog(tmp_path)) == 2


def _append_many(directory, name, start):
    start.wait()
    log = AnnotationLog(directory)
    for i in range(15):
        log.append(table(event(f"{name}-{i}", annotator=name), event(f"shared-{i}", annotator="shared")))


def test_several_processes_append_to_one_log_without_loss_or_repetition(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    writers = [context.Process(target=_append_many, args=(tmp_path, name, start)) for name in "abc"]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ids = AnnotationLog(tmp_path).read()["event_id"].to_pylist()
    assert sorted(ids) == sorted([f"{n}-{i}" for n in ("a", "b", "c", "shared") for i in range(15)])


def test_a_log_that_was_cut_goes_on_from_there(tmp_path):
    log = AnnotationLog(tmp_path)
    for name in ("e1", "e2", "e3"):
        log.append(table(event(name)))
    log.cut(1)
    assert log.read()["event_id"].to_pylist() == ["e1"]
    assert log.append(table(event("e3", label=-1))) == 1  # it may say something else now
    assert AnnotationLog(tmp_path).read()["event_id"].to_pylist() == ["e1", "e3"]
    assert len(log) == 2
