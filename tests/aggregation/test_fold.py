"""The consensus is a fold over a ledger: its cursor, what it takes in twice, and what a snapshot of it is worth."""

import numpy as np
import pytest

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from tests.aggregation.tables import annotations, gold, keeper

ITEMS = [f"i{n}" for n in range(12)]


def page(number, size=40):
    """What a ledger holds between the cursors ``number`` and ``number + 1``."""
    rng = np.random.default_rng(number)
    rows = [(ITEMS[rng.integers(12)], int(rng.integers(4)), f"a{rng.integers(6)}", int(rng.integers(-1, 2)))
            for _ in range(size)]  # fmt: skip
    return annotations(rows, start=number * size)


def folded(folder, pages):
    state = Aggregator(folder)
    for number in pages:
        assert state.fold(page(number), number, number + 1) == number + 1
    return state


def digest_of(state):
    found = state.digest()
    state.close()
    return found


def test_a_part_of_the_ledger_that_was_folded_already_changes_nothing(tmp_path):
    state = folded(tmp_path, range(3))
    before = state.digest()
    assert state.fold(page(1), 1, 2) == 3
    assert state.fold(page(2), 2, 3) == 3
    assert state.digest() == before
    state.close()


def test_a_part_with_something_missing_before_it_is_not_folded_and_the_answer_says_from_where_on(tmp_path):
    state = folded(tmp_path, range(2))
    before = state.digest()
    assert state.fold(page(3), 3, 4) == 2 == state.position()
    assert state.digest() == before
    assert [state.fold(page(n), n, n + 1) for n in (2, 3)] == [3, 4]
    state.close()


def test_a_part_without_marks_moves_the_cursor(tmp_path):
    state = folded(tmp_path, range(1))
    assert state.fold(page(0).slice(0, 0), 1, 5) == 5 == state.position()
    state.close()


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_a_snapshot_and_the_rest_of_the_ledger_equal_folding_everything_again(tmp_path, kept):
    whole = digest_of(folded(tmp_path / "whole", range(5)))
    first = folded(tmp_path / "cut", range(kept))
    first.snapshot()
    for number in range(kept, 5):  # folded, and lost with the process
        first.fold(page(number), number, number + 1)
    first.close()
    second = Aggregator(tmp_path / "cut")
    assert second.position() == kept
    for number in range(kept, 5):
        second.fold(page(number), number, number + 1)
    assert digest_of(second) == whole


def test_with_a_log_of_its_own_it_folds_by_itself_what_came_after_the_snapshot(tmp_path):
    settings = AggregationSettings(snapshot_events=100, decay=0.98)
    first = keeper(tmp_path, settings)
    for number in range(7):  # a snapshot after 120 and after 240 marks
        first.ingest(page(number))
    digest = digest_of(first)
    (snapshot,) = tmp_path.glob("snapshot-*.npz")
    assert digest_of(keeper(tmp_path, settings)) == digest
    snapshot.unlink()
    assert digest_of(keeper(tmp_path, settings)) == digest


def test_marks_stay_when_the_process_ends_between_the_log_and_the_fold(tmp_path):
    whole = keeper(tmp_path / "whole")
    whole.ingest(page(0))
    first = keeper(tmp_path / "cut")
    first._ledger.append(page(0))
    first.close()
    second = keeper(tmp_path / "cut")
    assert second.ingest(page(0)) == 0
    assert digest_of(second) == digest_of(whole)


def test_known_truth_is_there_after_a_restart(tmp_path):
    first = folded(tmp_path, range(1))
    first.add_gold(gold([("i1", 0, -1)]))
    first.close()
    second = Aggregator(tmp_path)
    assert second.position() == 1
    assert second.consensus(["i1"]).to_pylist()[0]["p_correct"] == 0.0
    second.close()


def test_known_truth_whose_writing_failed_is_written_when_it_is_told_again(tmp_path, monkeypatch):
    first = Aggregator(tmp_path)

    def full(arrays):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(first._snapshots, "write", full)
        with pytest.raises(OSError):
            first.add_gold(gold([("i1", 0, -1)]))
    assert first.add_gold(gold([("i1", 0, -1)])) == 0
    first.close()
    second = Aggregator(tmp_path)
    assert second.stats()["gold"] == 1
    second.close()
