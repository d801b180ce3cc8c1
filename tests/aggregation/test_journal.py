"""The journal's log after a crash and after damage: nothing that was acknowledged goes unnoticed."""

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
        journal.append(1, pa.table({"name": [f"event {i} CRJ2"]}))
    journal.close()
    return (folder / "log-0").read_bytes(), starts


def replayed(folder):
    journal = Journal(folder)
    try:
        return [table["name"][0].as_py()[:7] for _, table in journal.replay()]
    finally:
        journal.close()


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
