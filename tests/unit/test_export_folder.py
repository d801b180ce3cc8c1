"""Where an export goes, and what it says of the machine that it was made on."""

from __future__ import annotations

import stat

import pytest

from crlhf_ray.errors import ConfigError
from crlhf_ray.export import MADE_HERE, _exchange, _ours, _replacing
from crlhf_ray.policy.export import check_size
from crlhf_ray.report.card import counted, without_place


def test_an_export_takes_the_place_of_an_older_one_and_of_nothing_else(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / MADE_HERE).write_text('{"kind": "model"}')
    (old / "left.over").write_text("")
    beside = tmp_path / "model.partial"
    beside.mkdir()
    with _replacing(_ours(old, "model")) as scratch:
        (scratch / MADE_HERE).write_text("{}")
    assert [file.name for file in old.iterdir()] == [MADE_HERE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.partial"]


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="already contains something else"):
        _ours(tmp_path, "model")
    for folder in ("mine.txt", "mine.txt/below"):
        with pytest.raises(ConfigError, match=r"mine\.txt is a file"):
            _ours(tmp_path / folder, "model")


def test_a_data_set_does_not_take_the_place_of_a_model(tmp_path):
    (tmp_path / MADE_HERE).write_text('{"kind": "model"}')
    with pytest.raises(ConfigError, match="an export of another kind"):
        _ours(tmp_path, "feedback")


def test_an_export_that_fails_leaves_nothing_and_the_older_one_as_it_was(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / MADE_HERE).write_text("old")

    def fail():
        with _replacing(old) as scratch:
            (scratch / MADE_HERE).write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (old / MADE_HERE).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_older_export_stays_until_the_new_one_has_taken_its_place(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / MADE_HERE).write_text("old")
    with pytest.raises(FileNotFoundError):
        _exchange(tmp_path / "is-gone", old)
    assert (old / MADE_HERE).read_text() == "old"


@pytest.mark.parametrize("size", ["5GB", "500MB"])
def test_a_shard_size_is_a_number_of_bytes(size):
    check_size(size)


@pytest.mark.parametrize("size", ["", "large", "5 apples", "0GB", "-1GB"])
def test_any_other_shard_size_is_refused(size):
    with pytest.raises(ConfigError, match="--shard-size"):
        check_size(size)


def test_others_may_read_what_was_exported(tmp_path):
    with _replacing(tmp_path / "model") as scratch:
        (scratch / "weights").touch(mode=0o600)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model", tmp_path / "model" / "weights")]
    assert [mode & 0o444 for mode in modes] == [0o444, 0o444]


def test_paths_of_this_machine_are_left_out(tmp_path):
    (tmp_path / "own.jsonl").write_text("")
    assert without_place(str(tmp_path / "own.jsonl")) == "own.jsonl"
    assert without_place(f"mbpp:{tmp_path}") == f"mbpp:{tmp_path.name}"
    assert without_place("Qwen/Qwen2.5-Coder-1.5B") == "Qwen/Qwen2.5-Coder-1.5B"
    assert without_place("compose:3:200") == "compose:3:200"


def test_one_is_not_many():
    assert (counted(1, "round"), counted(1200, "mark")) == ("1 round", "1,200 marks")
