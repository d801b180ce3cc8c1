"""Splitting requests into tasks and shares, and the life of replicas; pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.rollout.health import Health
from crlhf_ray.rollout.tasks import Drawing, Request, Sampling, sample_seed, tasks_of

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=4)


def requests(*counts):
    return [Request(f"p{k}", (1, 2, 3), ("\ndef ",), n) for k, n in enumerate(counts)]


def tasks(*counts, **kwargs):
    return tasks_of(requests(*counts), SAMPLING, **({"seed": 0, "tag": "r1", "longest_prompt": 8} | kwargs))


def test_sample_ids_name_round_problem_and_number_in_order():
    assert [task.sample_id for task in tasks(2, 1)] == ["r1-p0-0", "r1-p0-1", "r1-p1-0"]
    assert tasks(1, tag="")[0].sample_id == "p0-0"


def test_every_sample_has_a_seed_of_its_own_that_hangs_on_run_seed_and_id_alone():
    assert len({task.seed for task in tasks(8, 8)}) == 16
    assert [task.seed for task in tasks(4)] == [task.seed for task in tasks(4, 4)][:4]
    assert sample_seed(0, "r1-p0-0") == tasks(1)[0].seed != sample_seed(1, "r1-p0-0")
    assert 0 <= sample_seed(7, "x") < 2**63


@pytest.mark.parametrize("prompt", [(), tuple(range(9))])
def test_a_prompt_that_does_not_fit_is_refused_by_name_before_anything_runs(prompt):
    with pytest.raises(ConfigError, match="problem 'long': the prompt has"):
        tasks_of([Request("long", prompt, (), 1)], SAMPLING, seed=0, tag="", longest_prompt=8)


def test_a_problem_requested_twice_is_refused():
    with pytest.raises(ConfigError, match="requested twice"):
        tasks_of(requests(1) * 2, SAMPLING, seed=0, tag="", longest_prompt=8)


@given(counts=st.lists(st.integers(0, 9), max_size=6), replicas=st.integers(1, 7), window=st.integers(1, 20))
def test_what_waits_is_levelled_over_the_replicas_in_order_up_to_their_windows(counts, replicas, window):
    drawing, all_tasks = Drawing(), tasks(*counts)
    drawing.add(all_tasks)
    given = drawing.hand_out([str(k) for k in range(replicas)], window)
    handed = [task for share in given.values() for task in share]
    assert handed + list(drawing.waiting) == all_tasks
    sizes = [len(given.get(str(k), ())) for k in range(replicas)]
    assert max(sizes) <= window
    assert max(sizes) - min(sizes) <= 1
    assert not drawing.waiting or min(sizes) == window


@given(st.lists(st.tuples(st.sampled_from(["add", "hand out", "done", "lost"]), st.integers(0, 2)), max_size=40))
def test_whatever_happens_every_task_waits_is_drawn_or_is_done(events):
    drawing, fresh, done, at = Drawing(), iter(tasks(*[3] * 40)), [], {"0": [], "1": [], "2": []}
    added = 0
    for event, number in events:
        replica = str(number)
        if event == "add":
            drawing.add([next(fresh), next(fresh)])
            added += 2
        elif event == "hand out":
            for one, given in drawing.hand_out(["0", "1", "2"], window=4).items():
                at[one] += given
        elif event == "done" and at[replica]:
            done.append(at[replica].pop(0))
            drawing.done(replica, done[-1].sample_id)
        elif event == "lost":
            first = at[replica]
            drawing.lost(replica)
            assert list(drawing.waiting)[: len(first)] == first, "what was being drawn waits before everything else"
            at[replica] = []
        assert len(drawing) == added - len(done)
        assert drawing.busy() == [one for one in drawing.busy() if at[one]]


def test_a_replica_that_is_done_sooner_draws_more():
    drawing = Drawing()
    drawing.add(tasks(12))
    at = drawing.hand_out(["fast", "slow"], window=3)
    for task in at["fast"]:
        drawing.done("fast", task.sample_id)
    assert len(drawing.hand_out(["fast", "slow"], window=3)["fast"]) == 3


def running(slots):
    """All slots filled and loaded."""
    health = Health(slots)
    for replica in health.fill():
        health.loaded(replica)
    return health


def test_a_new_replica_is_starting_until_it_has_loaded():
    health = Health(2)
    assert health.fill() == ["0", "1"]
    assert (health.starting(), health.alive()) == (["0", "1"], [])
    health.loaded("1")
    assert (health.starting(), health.alive()) == (["0"], ["1"])
    with pytest.raises(EngineError, match="replica 0 is not running"):
        health.synced("0", 1)


def test_a_slot_whose_replica_is_still_starting_is_not_filled_again():
    health = Health(1)
    assert health.fill() == ["0"]
    assert health.fill() == []
    health.died("0", "no node came")
    assert health.fill() == ["0.1"]


def test_a_loaded_replica_is_stale_until_it_holds_the_wanted_version():
    health = running(2)
    assert health.serving(0) == []
    health.synced("0", 3)
    assert health.serving(3) == ["0"]
    assert health.serving(4) == []


def test_the_dead_never_serve_again_and_their_slot_gets_a_new_stale_replica():
    health = running(2)
    health.synced("0", 1)
    health.synced("1", 1)
    health.died("0", "killed")
    assert health.serving(1) == ["1"]
    assert health.fill() == ["0.1"]
    health.loaded("0.1")
    assert health.serving(1) == ["1"]
    with pytest.raises(EngineError, match="replica 0 is not running"):
        health.synced("0", 1)
    health.synced("0.1", 1)
    assert health.serving(1) == ["0.1", "1"]


def test_the_first_reason_of_a_death_is_kept():
    health = running(1)
    health.died("0", "killed")
    health.died("0", "something later")
    assert health.deaths == {"0": "killed"}


def test_empty_slots_go_first_then_what_is_starting_then_what_draws_least():
    health = Health(4)
    health.fill()
    for replica in ("0", "1", "2"):
        health.loaded(replica)
    health.died("0", "killed")

    def load(replica):
        return {"1": 1, "2": 5}.get(replica, 0)

    health.resize(3, load)
    assert (health.alive(), health.starting()) == (["1", "2"], ["3"])
    health.resize(2, load)
    assert (health.alive(), health.starting()) == (["1", "2"], [])
    health.resize(1, load)
    assert health.alive() == ["2"]
    assert "1" not in health


@given(st.lists(st.tuples(st.sampled_from(["resize", "fill", "load", "die"]), st.integers(0, 4)), max_size=40))
def test_whatever_happens_no_id_comes_twice_and_there_are_never_more_than_wanted(events):
    health, born = Health(1), []
    for event, number in events:
        alive = health.alive()
        if event == "resize":
            health.resize(number)
        elif event == "fill":
            born += health.fill()
            assert len(health.alive()) + len(health.starting()) == health.slots
        elif event == "load":
            for replica in health.starting()[:number]:
                health.loaded(replica)
        elif number < len(alive):
            health.died(alive[number], "why")
        assert len(health.alive()) + len(health.starting()) <= health.slots
    assert len(set(born)) == len(born)


@given(st.lists(st.tuples(st.sampled_from(["fill", "load", "die", "sync"]), st.integers(0, 2)), max_size=30))
def test_whatever_happens_only_synced_replicas_that_never_died_serve(events):
    health, synced, dead = Health(3), set(), set()
    for event, slot in events:
        alive = health.alive()
        if event == "fill":
            health.fill()
        elif event == "load":
            for replica in health.starting()[:1]:
                health.loaded(replica)
        elif slot < len(alive):
            replica = alive[slot]
            if event == "die":
                health.died(replica, "why")
                dead.add(replica)
            else:
                health.synced(replica, 1)
                synced.add(replica)
        assert set(health.serving(1)) == synced - dead
