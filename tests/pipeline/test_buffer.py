"""The buffer's promise: whatever the order in which people finish, nothing too old is learnt from, and nobody waits
for ever."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlhf_ray.pipeline.buffer import Buffer


def begin(buffer: Buffer, version: int, first: int, update: int | None = None, last: int = 1000) -> int:
    """Begin as many groups as there is room for; the next group's number."""
    for _ in range(buffer.room(version, version if update is None else update, last)):
        buffer.begin(first, version)
        first += 1
    return first


def play(batch: int, staleness: int, above: str, seed: int, updates: int = 25) -> tuple[Buffer, list[list[int]], int]:
    """A run in which groups become ready in an order of chance: ages of what was learnt from, by update, and how many
    groups were begun."""
    rng = random.Random(seed)
    buffer, ages, number = Buffer(batch, staleness, above), [], 0
    versions: dict[int, int] = {}
    slow = rng.random()  # how often the last one that is waited for is the oldest
    for update in range(updates):
        steps = 0
        while True:
            before, number = number, begin(buffer, update, number, last=updates)
            versions |= dict.fromkeys(range(before, number), update)
            taken = buffer.take(update)
            if taken is not None:
                break
            waiting = buffer.waiting()
            assert waiting, "nothing is waited for, and there is no batch"
            buffer.ready([waiting[-1] if rng.random() < slow else rng.choice(waiting)])
            steps += 1
            assert steps <= (staleness + 2) * batch * 2
        ages.append([update - versions[group] for group in taken])
        before, number = number, begin(buffer, update, number, update + 1, updates)  # while the learner learns
        versions |= dict.fromkeys(range(before, number), update)
    return buffer, ages, number


@given(
    batch=st.integers(1, 6), staleness=st.integers(0, 5), above=st.sampled_from(["wait", "drop"]), seed=st.integers(0)
)
def test_nothing_older_than_the_bound_is_learnt_from_and_every_update_comes(batch, staleness, above, seed):
    _, ages, _ = play(batch, staleness, above, seed)
    assert all(len(one) == batch and max(one) <= staleness for one in ages)


@given(batch=st.integers(1, 6), staleness=st.integers(0, 5), seed=st.integers(0))
def test_who_waits_drops_nothing_and_learns_from_all_that_was_begun(batch, staleness, seed):
    buffer, ages, begun = play(batch, staleness, "wait", seed)
    assert buffer.dropped == []
    assert begun == sum(map(len, ages))
    assert buffer.open() == []


@given(batch=st.integers(1, 6), staleness=st.integers(0, 5), seed=st.integers(0))
def test_every_group_is_learnt_from_or_dropped_and_counted(batch, staleness, seed):
    buffer, ages, begun = play(batch, staleness, "drop", seed)
    assert begun == sum(map(len, ages)) + len(buffer.dropped) + len(buffer.open())


@pytest.mark.parametrize("above", ["wait", "drop"])
def test_without_staleness_a_batch_is_what_was_begun_since_the_last_update(above):
    buffer = Buffer(3, 0, above)
    assert begin(buffer, 0, 0) == 3
    buffer.ready([2, 0])
    assert buffer.take(0) is None
    buffer.ready([1])
    assert buffer.take(0) == [0, 1, 2]
    assert begin(buffer, 1, 3) == 6


def test_the_learner_does_not_wait_for_a_group_that_is_not_due():
    buffer = Buffer(2, 1)
    begin(buffer, 0, 0)
    buffer.ready([1, 3])
    assert buffer.take(0) == [1, 3]


def test_the_learner_waits_for_a_group_that_is_due_and_takes_it_first():
    buffer = Buffer(2, 1)
    begin(buffer, 0, 0)
    buffer.ready([1, 3])
    buffer.take(0)
    begin(buffer, 1, 4)
    buffer.ready([4, 5])
    assert buffer.take(1) is None  # groups 0 and 2 are due
    buffer.ready([0, 2])
    assert buffer.take(1) == [0, 2]


def test_what_is_overdue_is_dropped_where_the_learner_does_not_wait():
    buffer = Buffer(2, 1, "drop")
    begin(buffer, 0, 0)
    buffer.ready([1, 3])
    buffer.take(0)
    begin(buffer, 1, 4)
    buffer.ready([4, 5])
    assert buffer.take(1) == [4, 5]
    assert buffer.dropped == [0, 2]


def test_nothing_is_begun_that_no_update_is_left_for():
    assert Buffer(4, 3).room(version=5, update=5, last=7) == 8
    assert Buffer(4, 3).room(version=5, update=5, last=5) == 0


def test_while_the_learner_learns_no_more_is_begun_than_can_be_learnt_from_in_time():
    assert Buffer(4, 2).room(version=5, update=6, last=100) == 8
    assert Buffer(4, 0).room(version=5, update=6, last=100) == 0


def test_a_review_of_a_dropped_group_changes_nothing():
    buffer = Buffer(1, 0, "drop")
    buffer.ready([7])
    assert buffer.open() == []
