"""The journal's log after a crash and after damage: nothing that was acknowledged goes unnoticed."""

import struct
import zlib

import pyarrow as pa
import pytest

from crlhf_ray.aggregation.journal import Journal
from crlhf_ray.errors import DataError

HEADER = 24


def written(folder, records=3):
    """A log of so many records; returns its content and where each record starts."""
    journal = Journal(folder)
    list(journal.replay())
    starts = []
    for i in range(records):
        starts.append((folder / "log-0").stat().st_size)
        journal.append(1, pa.table({"name": [f"event {i} CRJ2 CRLJ"]}))
    journal.close()
    return (folder / "log-0").read_bytes(), starts


def replayed(folder):
    journal = Journal(folder)
    try:
        return [table["name"][0].as_py()[:7] for _, table in journal.replay()]
    finally:
        journal.close()


def in_the_old_format(content, starts):
    old = b""
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        payload = content[start + HEADER : end]
        old += struct.pack("<4sIQI", b"CRLJ", 1, len(payload), zlib.crc32(payload)) + payload
    return old


@pytest.mark.parametrize("record", [0, 1, 2])
def test_no_flipped_bit_of_a_header_goes_unnoticed_and_none_changes_the_file(tmp_path, record):
    content, starts = written(tmp_path)
    log = tmp_path / "log-0"
    for bit in range(8 * HEADER):
        damaged = bytearray(content)
        damaged[starts[record] + bit // 8] ^= 1 << bit % 8
        log.write_bytes(damaged)
        with pytest.raises(DataError, match="restore the folder from a backup"):
            replayed(tmp_path)
        assert log.read_bytes() == damaged
    log.write_bytes(content)
    assert replayed(tmp_path) == ["event 0", "event 1", "event 2"]


@pytest.mark.parametrize("record", [0, 2])
def test_no_flipped_bit_of_an_old_logs_length_goes_unnoticed(tmp_path, record):
    content = in_the_old_format(*written(tmp_path))
    start = len(content) // 3 * record
    for bit in range(64):
        damaged = bytearray(content)
        damaged[start + 8 + bit // 8] ^= 1 << bit % 8
        (tmp_path / "log-0").write_bytes(damaged)
        with pytest.raises(DataError, match="restore the folder from a backup"):
            replayed(tmp_path)


def test_logs_of_older_versions_are_read_and_written_on(tmp_path):
    content, starts = written(tmp_path)
    (tmp_path / "log-0").write_bytes(in_the_old_format(content, starts))
    journal = Journal(tmp_path)
    assert len(list(journal.replay())) == 3
    journal.append(1, pa.table({"name": ["event 3"]}))
    journal.close()
    assert replayed(tmp_path) == ["event 0", "event 1", "event 2", "event 3"]


def test_wherever_a_crash_cut_the_last_record_it_is_dropped_and_kept_beside(tmp_path):
    content, starts = written(tmp_path)
    for end in range(starts[2] + 1, len(content)):
        (tmp_path / "log-0").write_bytes(content[:end])
        assert replayed(tmp_path) == ["event 0", "event 1"]
        assert (tmp_path / "log-0").read_bytes() == content[: starts[2]]
        (kept,) = tmp_path.glob("cut-*")
        assert kept.read_bytes() == content[starts[2] : end]
        kept.unlink()
        assert replayed(tmp_path) == ["event 0", "event 1"]
