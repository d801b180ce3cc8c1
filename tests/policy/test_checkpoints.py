import pytest

from crlhf_ray.errors import DataError
from crlhf_ray.policy.checkpoints import BEST, latest_tag, named_tag, point, prune, publish, recover, temporary_tag


def write(directory, step):
    (directory / temporary_tag(step)).mkdir(parents=True)
    (directory / temporary_tag(step) / "part").write_text(str(step))


def test_latest_names_the_newest_whole_checkpoint(tmp_path):
    for step in (1, 2):
        write(tmp_path, step)
        publish(tmp_path, step, {})
    assert (tmp_path / latest_tag(tmp_path) / "part").read_text() == "2"


def test_a_save_that_died_half_way_leaves_the_checkpoint_before(tmp_path):
    write(tmp_path, 1)
    publish(tmp_path, 1, {})
    write(tmp_path, 2)
    assert (tmp_path / latest_tag(tmp_path) / "part").read_text() == "1"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished checkpoint"):
        latest_tag(tmp_path)


def test_pruning_keeps_the_newest_and_clears_unfinished_ones(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
        publish(tmp_path, step, {})
    write(tmp_path, 4)
    prune(tmp_path, kept=2)
    assert sorted(path.name for path in tmp_path.glob("*-*")) == ["step-00000002", "step-00000003"]


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
        publish(tmp_path, step, {})
        if step == 1:
            point(tmp_path, BEST, "step-00000001")
        prune(tmp_path, kept=1)
    assert named_tag(tmp_path, BEST) == "step-00000001"
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000003"]


def test_a_pointer_to_anything_but_a_checkpoint_is_refused(tmp_path):
    write(tmp_path, 1)
    publish(tmp_path, 1, {})
    (tmp_path / "latest").write_text("")
    with pytest.raises(DataError, match=r"it names '', which is not there; kept are: step-00000001"):
        latest_tag(tmp_path)


def two(tmp_path):
    for step in (1, 2):
        write(tmp_path, step)
        publish(tmp_path, step, {})
    return tmp_path


def test_whole_checkpoints_need_no_recovery(tmp_path):
    assert recover(tmp_path) is None
    assert recover(two(tmp_path)) is None
    assert latest_tag(tmp_path) == "step-00000002"


def test_a_truncated_checkpoint_falls_back_to_the_one_before_by_name(tmp_path):
    (two(tmp_path) / "step-00000002" / "part").write_text("")
    assert "part has 0 of 1 bytes. Going on from step-00000001" in recover(tmp_path)
    assert latest_tag(tmp_path) == "step-00000001"


@pytest.mark.parametrize("text", ["", "\x00\x00", "step-00000009"], ids=["empty", "garbled", "gone"])
def test_a_pointer_that_names_nothing_falls_back_to_the_newest_whole_checkpoint(tmp_path, text):
    (two(tmp_path) / "latest").write_text(text)
    assert "Going on from step-00000002" in recover(tmp_path)
    assert latest_tag(tmp_path) == "step-00000002"


def test_where_no_checkpoint_is_whole_the_run_says_so(tmp_path):
    for checkpoint in two(tmp_path).glob("step-*"):
        (checkpoint / "part").unlink()
    with pytest.raises(DataError, match=r"part has 0 of 1 bytes, and no other checkpoint is whole"):
        recover(tmp_path)
