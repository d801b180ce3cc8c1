"""How many replicas are wanted: properties that hold whatever is to be drawn and reviewed."""

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.rollout.scaling import Autoscaler, Load
from crlhf_ray.rollout.settings import AutoscaleSettings

SETTINGS = AutoscaleSettings(least=0, most=6, grow_seconds=20, shrink_seconds=300)
AT_ONCE = 8

loads = st.builds(Load, st.integers(0, 80) | st.just(0), st.integers(0, 80) | st.just(0))
#: What is seen, at how many looks, and the seconds between two of them.
phases = st.lists(st.tuples(loads, st.integers(1, 80), st.sampled_from([1.0, 7.0, 30.0])), min_size=1, max_size=12)


def watch(seen, scaler):
    """(time, load, replicas wanted, the change or None) of every look."""
    now, looks = 0.0, []
    for load, count, seconds in seen:
        for _ in range(count):
            now += seconds
            change = scaler.decide(load, now)
            looks.append((now, load, scaler.wanted, change))
    return looks


@given(phases)
def test_never_outside_least_and_most(seen):
    settings = SETTINGS.model_copy(update={"least": 2})
    assert all(2 <= wanted <= 6 for _, _, wanted, _ in watch(seen, Autoscaler(settings, AT_ONCE)))


@given(phases)
def test_a_change_is_told_with_its_reason_exactly_when_the_number_changes(seen):
    scaler = Autoscaler(SETTINGS, AT_ONCE)
    before = scaler.wanted
    for _, load, wanted, change in watch(seen, scaler):
        assert (change is None) == (wanted == before)
        if change is not None:
            assert (change.before, change.after) == (before, wanted)
            assert f"{load.to_draw} programs are to be drawn and {load.to_review} are under review" in str(change)
        before = wanted


@given(phases)
def test_it_never_thrashes(seen):
    changes = [(now, change) for now, _, _, change in watch(seen, Autoscaler(SETTINGS, AT_ONCE)) if change]
    for (earlier, _), (later, change) in pairwise(changes):
        if change.after < change.before:
            assert later - earlier >= SETTINGS.shrink_seconds
        elif change.before:
            assert later - earlier >= SETTINGS.grow_seconds
    falls = [now for now, change in changes if change.after < change.before]
    assert all(sum(now <= fall < now + 3600 for fall in falls) <= 3600 / SETTINGS.shrink_seconds for now in falls)


@given(phases)
def test_programs_to_draw_never_wait_without_a_replica(seen):
    assert all(wanted for _, load, wanted, _ in watch(seen, Autoscaler(SETTINGS, AT_ONCE)) if load.to_draw)


@given(phases)
def test_a_need_that_lasts_is_met_when_its_time_is_over(seen):
    scaler = Autoscaler(SETTINGS, AT_ONCE)
    looks = watch(seen, scaler)
    for need, group in groupby(looks, key=lambda look: scaler.need(look[1])):
        lasting = list(group)
        start, (end, _, wanted, _) = lasting[0][0], lasting[-1]
        if end - start >= SETTINGS.shrink_seconds:
            assert wanted >= need, "a rise takes the shorter time"
        if end - start >= 2 * SETTINGS.shrink_seconds + 60:  # what was wanted before may have been met first
            assert wanted == need


@given(phases)
def test_nothing_to_draw_ends_at_none(seen):
    silence = [(Load(0, 12), 80, 30.0)]
    assert watch([*seen, *silence], Autoscaler(SETTINGS, AT_ONCE))[-1][2] == 0


@pytest.mark.parametrize(
    ("load", "wanted"),
    [
        (Load(0), 0),
        (Load(1), 1),
        (Load(8), 1),
        (Load(9), 2),
        (Load(400), 6),
        (Load(40, 40), 1),  # reviewers have as much before them as is to be drawn
        (Load(40, 20), 3),
        (Load(40, 0), 5),
    ],
)
def test_as_many_as_draw_at_a_time_what_reviewers_do_not_have_yet(load, wanted):
    assert Autoscaler(SETTINGS, AT_ONCE).need(load) == wanted


def test_a_rise_takes_the_least_that_was_needed_all_the_time_and_a_fall_the_most():
    scaler = Autoscaler(SETTINGS, AT_ONCE)
    for now, to_draw in ((0, 40), (10, 20), (20, 48)):
        scaler.decide(Load(to_draw), now)
    assert scaler.wanted == 3
    for now, to_draw in ((100, 1), (200, 16), (400, 1)):
        scaler.decide(Load(to_draw), now)
    assert scaler.wanted == 2


def test_a_need_that_comes_and_goes_changes_nothing():
    scaler = Autoscaler(SETTINGS, AT_ONCE)
    for now in range(0, 600, 10):
        scaler.decide(Load(40 if now % 20 else 8), now)
    assert scaler.wanted == 1


def test_settings_that_contradict_each_other_or_leave_nothing_to_scale_are_refused_by_name():
    with pytest.raises(ValidationError, match="least=3 is above most=2"):
        AutoscaleSettings(least=3, most=2)
    with pytest.raises(ValidationError, match=r"leave nothing to scale: .* set rollout\.replicas=2"):
        AutoscaleSettings(least=2, most=2)


def test_a_number_of_replicas_beside_autoscale_is_refused_since_nothing_reads_it():
    assert load_config(changes=["rollout.autoscale.most=4"]).rollout.most_replicas == 4
    with pytest.raises(ConfigError, match=r"replicas=3 has no effect with rollout\.autoscale"):
        load_config(changes=["rollout.autoscale.most=4", "rollout.replicas=3"])
