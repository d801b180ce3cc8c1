"""Snapshots: whole or not there, owned by one process, and never silently wrong."""

import numpy as np
import pytest

from crlhf_ray.aggregation.snapshots import Snapshots, go_back
from crlhf_ray.errors import DataError, ResourceError


def test_the_newest_snapshot_counts_and_a_half_written_one_does_not(tmp_path):
    owner = Snapshots(tmp_path)
    assert owner.newest() is None
    owner.write({"x": np.array([1])})
    owner.write({"x": np.array([2])})
    owner.close()
    (tmp_path / "snapshot-3.part").write_bytes(b"half")
    again = Snapshots(tmp_path)
    assert again.newest()["x"] == [2]
    assert [file.name for file in tmp_path.glob("snapshot-*")] == ["snapshot-2.npz"]
    again.close()


def test_a_second_process_on_the_same_folder_is_refused(tmp_path):
    owner = Snapshots(tmp_path)
    with pytest.raises(ResourceError, match="in use by another process"):
        Snapshots(tmp_path, lock_seconds=0.1)
    owner.close()


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.98])
def test_damage_of_the_disk_is_an_error_that_names_the_file(tmp_path, place):
    owner = Snapshots(tmp_path)
    path = owner.write({"position": np.array([7, 7]), "x": np.arange(1000)})
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"snapshot-1\.npz: the disk damaged"):
        owner.newest()
    owner.close()


def test_a_checkpoint_without_the_crowds_state_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        go_back(tmp_path / "crowd", tmp_path / "gone.npz")
