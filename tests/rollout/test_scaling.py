"""How many replicas are wanted: properties that hold whatever people do."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crlhf_ray.rollout.scaling import Demand, Scaling, ScalingSettings

SETTINGS = ScalingSettings(min_replicas=0, max_replicas=8)
TICK = 10.0

demands = st.builds(
    Demand,
    per_minute=st.floats(0, 50),
    last_review=st.just(0.0),
    queued=st.integers(0, 40) | st.just(0),
    room=st.integers(0, 60) | st.just(0),
    speed=st.none() | st.floats(0.1, 10),
)
#: What is seen, and for how many ticks.
phases = st.lists(st.tuples(demands, st.integers(1, 60)), min_size=1, max_size=12)


def run(seen, scaling, now=0.0):
    """(time, demand, wanted) of every tick; reviews go on where the rate is above 0."""
    last, told = now, []
    for demand, ticks in seen:
        for _ in range(ticks):
            now += TICK
            last = now if demand.per_minute else last
            at = Demand(demand.per_minute, last, demand.queued, demand.room, demand.speed)
            told.append((now, at, scaling.decide(at, now)))
    return told


@given(phases)
def test_never_outside_the_minimum_and_the_maximum(seen):
    scaling = Scaling(ScalingSettings(min_replicas=2, max_replicas=5))
    assert all(2 <= wanted <= 5 for _, _, wanted in run(seen, scaling))


@given(phases)
def test_changes_are_never_closer_than_the_settings_say(seen):
    told = run(seen, Scaling(SETTINGS))
    changes = [
        (now, wanted - before)
        for (now, _, wanted), before in zip(told, [0, *(w for _, _, w in told[:-1])], strict=True)
        if wanted != before
    ]
    for (earlier, _), (later, step) in pairwise(changes):
        assert later - earlier >= (SETTINGS.scale_up_seconds if step > 0 else SETTINGS.scale_down_seconds)
    falls = [now for now, step in changes if step < 0]
    assert all(sum(now <= fall < now + 3600 for fall in falls) <= 12 for now in falls)  # an hour has 12 waits


@given(phases)
def test_an_empty_queue_calls_all_replicas_before_one_could_have_started(seen):
    since = None
    for now, demand, wanted in run(seen, Scaling(SETTINGS)):
        if demand.queued or not demand.room:
            since = None
            continue
        since = now if since is None else since
        assert wanted >= 1 or now - since < SETTINGS.scale_up_seconds
        if now - since >= SETTINGS.start_seconds:
            assert wanted == SETTINGS.max_replicas


@given(phases)
def test_nobody_reviewing_ends_at_zero_within_the_silence_and_two_waits(seen):
    scaling = Scaling(SETTINGS)
    now = run(seen, scaling)[-1][0]
    silence = SETTINGS.silence_seconds + 2 * SETTINGS.scale_down_seconds + 3 * TICK
    quiet = Demand(per_minute=0.0, last_review=now, queued=3, room=5, speed=1.0)
    assert run([(quiet, int(silence / TICK))], scaling, now)[-1][2] == 0


def test_as_many_as_people_review_and_no_more_than_there_is_to_draw():
    steady = Demand(per_minute=6.0, last_review=0.0, queued=24, room=100, speed=2.0)
    assert Scaling(SETTINGS).decide(steady, 1.0) == 3
    bounded = Demand(per_minute=6.0, last_review=0.0, queued=24, room=4, speed=2.0)
    assert Scaling(SETTINGS).decide(bounded, 1.0) == 1


def test_nothing_to_draw_needs_no_replica():
    assert Scaling(SETTINGS).decide(Demand(9.0, 0.0, queued=0, room=0, speed=1.0), 1.0) == 0


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="min_replicas=3 is above max_replicas=2"):
        ScalingSettings(min_replicas=3, max_replicas=2)
    with pytest.raises(ValidationError, match="people would wait for the rule"):
        ScalingSettings(start_seconds=10, scale_up_seconds=30)
