"""A pool that grows and shrinks while tasks are open: the fleet on Ray, with replicas that draw without an engine."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import Counter, deque

import numpy as np
import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from crlhf_ray.errors import EngineError, ResourceError
from crlhf_ray.policy.settings import ModelSettings
from crlhf_ray.rollout import members
from crlhf_ray.rollout.fleet import Fleet, Request, RolloutSettings
from crlhf_ray.rollout.sample import Sample

pytestmark = pytest.mark.engine

# Ray's workers do not have the tests on their path, so this module's classes travel by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Drawer:
    """A `Replica` without an engine: it draws a few hundred tasks a second, and its weights are a version alone."""

    def __init__(self, replica_id, settings, model, log_file=None):
        self.replica_id, self.version, self._more = replica_id, None, deque()

    def pid(self):
        return os.getpid()

    def adopt_base(self):
        self.version = 0

    def open_transfer(self):
        return self.replica_id

    def join(self):
        pass

    def receive(self, version):
        self.version = version

    def add(self, tasks):
        self._more.extend(tasks)

    def draw(self, version, tasks):
        assert self.version == version
        self._more.extend(tasks)
        while self._more:
            task = self._more.popleft()
            time.sleep(0.02)
            yield Sample(
                task.sample_id, task.problem_id, (1,), (2,), np.zeros(1), "", (), version, "eos", self.replica_id
            )


class Slow(Drawer):
    """Ten a second."""

    def draw(self, version, tasks):
        for sample in super().draw(version, tasks):
            time.sleep(0.1)
            yield sample


class Stuck(Drawer):
    """All but the first never load."""

    def __init__(self, replica_id, *others):
        super().__init__(replica_id, *others)
        if replica_id != "0":
            time.sleep(3600)


class Broken(Drawer):
    """All but the first fail to load."""

    def __init__(self, replica_id, *others):
        super().__init__(replica_id, *others)
        if replica_id != "0":
            raise RuntimeError("no such device")


class Weightless:
    """A learner that has nothing to send."""

    def __init__(self):
        self.sent = []

    def connect(self, specs):
        return [ray.put({})]

    def send_weights(self, only=None):
        self.sent.append(sorted(only))
        return [ray.put({})]


@pytest.fixture
def fleet_of(cluster, monkeypatch):
    """A started fleet of drawers of a kind, ended after the test."""
    fleets = []

    def start(kind=Drawer, say=None, **settings):
        monkeypatch.setattr(members, "Replica", kind)
        rollout = RolloutSettings(**{"max_num_seqs": 4, "cpus_per_replica": 0.5, **settings})
        fleets.append(Fleet(rollout, ModelSettings(name="tiny"), **({"say": say} if say else {})))
        fleets[-1].start()
        return fleets[-1]

    yield start
    for fleet in fleets:
        fleet.close()


class Round:
    """Tasks that a fleet was asked for, and the samples that have come."""

    def __init__(self, fleet):
        self.fleet, self.asked, self.samples = fleet, [], []

    def ask(self, count):
        tasks = self.fleet.tasks([Request("p", (1, 2), (), count)], seed=0, tag=f"r{len(self.asked)}")
        self.asked += [task.sample_id for task in tasks]
        self.fleet.submit(tasks)

    def until(self, done, *, at_least=0):
        """Take samples until there is nothing to wait for; at_least: tasks that are open all the time."""
        end = time.monotonic() + 120
        while not done():
            assert time.monotonic() < end, "what was waited for does not come"
            if len(self.asked) - len(self.samples) < at_least:
                self.ask(at_least)
            self.samples += self.fleet.poll(0.2)

    def draw(self, count):
        self.ask(count)
        self.finish()

    def finish(self):
        """Each task comes once."""
        self.until(lambda: len(self.samples) >= len(self.asked))
        assert Counter(sample.sample_id for sample in self.samples) == Counter(self.asked)

    def drawn_by(self):
        return Counter(sample.replica_id for sample in self.samples)


def test_one_becomes_three_and_one_again_while_tasks_are_open_and_each_comes_once(fleet_of):
    fleet = fleet_of()
    round = Round(fleet)
    fleet.resize(3)
    round.until(lambda: len(round.drawn_by()) == 3, at_least=20)
    round.ask(20)
    fleet.resize(1)
    stays = fleet.replicas()
    assert len(stays) == 1, "who goes is handed nothing more"
    round.finish()
    assert list(fleet.members.actors) == stays


def test_who_is_let_go_finishes_what_it_is_drawing(fleet_of):
    fleet = fleet_of(replicas=2, max_num_seqs=20)
    round = Round(fleet)
    round.ask(40)
    fleet.resize(1)
    (stays,) = fleet.replicas()
    round.finish()
    assert round.drawn_by() == {"0": 20, "1": 20}
    assert list(fleet.members.actors) == [stays]


def test_what_one_leaves_undone_that_dies_while_it_goes_is_drawn_by_the_others(fleet_of):
    fleet = fleet_of(Slow, replicas=2, max_num_seqs=100)
    round = Round(fleet)
    round.ask(200)
    fleet.resize(1)
    (goes,) = fleet.members.leaving()
    process = ray.get(fleet.members.actors[goes].pid.remote())
    round.until(lambda: goes in round.drawn_by())
    os.kill(process, signal.SIGKILL)
    round.finish()
    assert round.drawn_by()[goes] < 100
    assert len(fleet.members.actors) == 1


def test_what_has_not_loaded_goes_first_and_gives_back_what_it_reserved(fleet_of):
    fleet = fleet_of(Stuck)
    fleet.resize(3)
    assert fleet.starting() == ["1", "2"]
    fleet.resize(1)
    assert (fleet.replicas(), fleet.starting(), list(fleet.members.actors)) == (["0"], [], ["0"])
    end = time.monotonic() + 60
    while ray.available_resources()["CPU"] < ray.cluster_resources()["CPU"] - 0.5:
        assert time.monotonic() < end, ray.available_resources()
        time.sleep(0.1)


def test_one_that_does_not_come_is_told_of_and_delays_nobody(fleet_of):
    told = []
    fleet = fleet_of(Broken, say=told.append)
    round = Round(fleet)
    fleet.resize(2)
    round.until(lambda: bool(told), at_least=20)
    assert "replica 1 did not start: " in told[0]
    round.finish()


def test_where_no_replica_comes_the_round_ends_and_says_which_were_tried(fleet_of):
    fleet = fleet_of(Broken, recoveries=1)
    fleet.members.bury("0", "was taken away")
    with pytest.raises(EngineError, match=r"8 samples were not drawn: replica 0 was taken away; replica 0\.1 "):
        Round(fleet).draw(8)


def test_what_a_replica_raised_while_it_loaded_is_told_without_its_traceback():
    try:
        raise RuntimeError("no such device")
    except RuntimeError as error:
        cause = RayTaskError("Replica.__init__", traceback.format_exc(), error)
    assert members.why_of(ActorDiedError(cause)) == "RuntimeError: no such device"


def test_one_that_joins_takes_the_learners_weights_before_it_draws(fleet_of):
    fleet, learner = fleet_of(), Weightless()
    fleet.sync(learner, 1)
    round = Round(fleet)
    fleet.resize(2)
    round.until(lambda: len(round.drawn_by()) == 2, at_least=20)
    assert learner.sent == [["0"], ["1"]]
    assert {sample.weight_version for sample in round.samples} == {1}


def test_the_autoscaler_grows_the_pool_for_what_is_to_be_drawn_and_lets_all_go_when_nothing_is(fleet_of):
    told = []
    autoscale = {"least": 0, "most": 2, "grow_seconds": 0, "shrink_seconds": 0}
    fleet = fleet_of(autoscale=autoscale, say=told.append)
    assert len(fleet.generate([Request("p", (1,), (), 40)], seed=0)) == 40
    fleet.scale()
    assert fleet.members.actors == {}
    changes = fleet.report()["changes"]
    assert (changes[0]["before"], changes[0]["after"]) == (1, 2)
    assert "40 programs are to be drawn and 0 are under review" in changes[0]["why"]
    assert changes[-1]["after"] == 0
    assert fleet.report() == {"serving": 0, "wanted": 0, "changes": []}
    assert told[0].startswith("rollout replicas: 1 -> 2, because 40 programs")
    fleet.sync(Weightless(), 1)  # nobody is there to take them
    samples = fleet.generate([Request("p", (1,), (), 8)], seed=0, tag="r1")
    assert {sample.weight_version for sample in samples} == {1}


def test_reviewers_who_have_plenty_keep_the_pool_as_it_is(fleet_of):
    fleet = fleet_of(autoscale={"most": 2, "grow_seconds": 0})
    Round(fleet).ask(40)
    fleet.scale(to_review=40)
    assert fleet.report()["wanted"] == 1
    fleet.scale(to_review=0)
    assert fleet.report()["wanted"] == 2


def test_more_than_the_cluster_can_ever_hold_is_refused_where_no_autoscaler_brings_nodes(cluster):
    settings = RolloutSettings(autoscale={"most": 9}, cpus_per_replica=0.5)
    with pytest.raises(ResourceError, match=r"9 rollout replicas need 4\.5 CPU .* lower rollout\.autoscale\.most"):
        Fleet(settings, ModelSettings(name="tiny")).start()
