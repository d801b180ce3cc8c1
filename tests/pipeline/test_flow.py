"""Groups on their way to the learner, with replicas and reviewers that finish in an order of chance."""

from __future__ import annotations

import copy
import random
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.config import load_config
from crlhf_ray.feedback.source import Heard
from crlhf_ray.pipeline.flow import Flow
from crlhf_ray.problems.load import load_problems
from crlhf_ray.rollout.lines import carries_code
from crlhf_ray.rollout.sample import Line, Sample
from crlhf_ray.rollout.tasks import Request, Sampling, tasks_of
from crlhf_ray.sandbox.verdict import Verdict

UPDATES = 12
PROBLEMS = load_problems("starter", "train")[:7]


class Replicas:
    """Draw what is submitted, in any order, with the weights that they hold."""

    def __init__(self, rng):
        self.rng, self.version, self.queue, self.drawn = rng, 0, [], Counter()
        self.looks = []

    def scale(self, to_review):
        self.looks.append((len(self.queue), to_review))

    def submit(self, tasks):
        self.queue += tasks

    def withdraw(self, sample_ids):
        self.queue = [task for task in self.queue if task.sample_id not in sample_ids]

    def poll(self, seconds):
        count = self.rng.randint(0, len(self.queue))
        chosen = [self.queue.pop(self.rng.randrange(len(self.queue))) for _ in range(count)]
        self.drawn.update(task.sample_id for task in chosen)
        return [self.sample(task) for task in chosen]

    def sample(self, task):
        text = f"    return {task.seed}"
        line = Line(0, text, 0, 1, carries_code(text))
        return Sample(task.sample_id, task.problem_id, (1,), (2,), np.zeros(1), text, (line,), self.version, "eos", "0")


class People:
    """Review what is published, in any order; what they did outlives the run's process, as at a server."""

    def __init__(self, rng):
        self.rng, self.asked, self.done, self.told = rng, Counter(), set(), set()
        self.waiting = []

    def publish(self, items, truth, round):
        for item in items:
            if item.item_id not in self.asked:
                self.asked[item.item_id] += 1
                self.waiting.append(item.item_id)
            self.told.discard(item.item_id)

    def hear(self):
        for _ in range(self.rng.randint(0, len(self.waiting))):
            self.done.add(self.waiting.pop(self.rng.randrange(len(self.waiting))))
        news = frozenset(self.done - self.told)
        self.told |= news
        return Heard(ANNOTATION_SCHEMA.empty_table(), news)

    def pause(self):
        pass


def world(seed, *changes):
    rng = random.Random(seed)
    config = load_config(
        changes=[f"run.rounds={UPDATES}", "run.problems_per_round=3", "run.samples_per_problem=2", *changes]
    )
    return config, Replicas(rng), People(rng)


def flow_of(config, replicas, people):
    def tasks(problems, *, n, tag):
        requests = [Request(problem.problem_id, (1,), (), n) for problem in problems]
        return tasks_of(requests, Sampling(1.0, 1.0, 8), seed=config.run.seed, tag=tag, longest_prompt=8)

    passed = SimpleNamespace(check=lambda jobs: [Verdict("passed", isolation="jailed") for _ in jobs])
    engines = SimpleNamespace(fleet=replicas, sandbox=passed, tasks=tasks)
    return Flow(config, PROBLEMS, engines, people, lambda name, total=None: nullcontext(), lambda count: None)


def play(flow, replicas, update, stop=lambda point: None):
    """One update, told of each point that it passes; returns the samples that were learnt from."""
    while (batch := flow.take(update)) is None:
        stop("before groups are begun")
        flow.begin(update, update)
        stop("when groups are begun")
        drawn = flow.draw()
        stop("when some are drawn")
        flow.check(drawn)
        stop("when they are checked")
        flow.review(drawn, update)
        stop("when some are reviewed")
    stop("when a batch is taken")
    flow.begin(update, update + 1)
    stop("when more is begun")
    replicas.version = update + 1
    return [sample for work in batch for sample in work.samples]


@pytest.mark.parametrize("above", ["wait", "drop"])
@pytest.mark.parametrize("staleness", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_no_sample_is_older_than_the_bound_and_all_are_accounted_for(staleness, above, seed):
    config, replicas, people = world(seed, f"pipeline.max_staleness={staleness}", f"pipeline.above={above}")
    flow, learnt = flow_of(config, replicas, people), Counter()
    for update in range(UPDATES):
        samples = play(flow, replicas, update)
        assert len(samples) == 3 * 2
        assert all(0 <= update - sample.weight_version <= staleness for sample in samples)
        learnt.update(sample.sample_id for sample in samples)
    assert set(learnt.values()) == {1}
    begun = flow.state()["next"] * 2
    assert begun == len(learnt) + 2 * (sum(flow.dropped.values()) + flow.report()["open"])
    assert above == "drop" or not flow.dropped
    assert set(people.asked.values()) == {1}


def test_in_turns_an_update_learns_from_its_own_problems_in_their_order():
    config, replicas, people = world(0)
    flow = flow_of(config, replicas, people)
    for update in range(UPDATES):
        samples = play(flow, replicas, update)
        wanted = [flow.problem_of(3 * update + place).problem_id for place in range(3)]
        assert [sample.sample_id for sample in samples] == [f"r{update}-{p}-{i}" for p in wanted for i in range(2)]


POINTS = (
    "before groups are begun",
    "when groups are begun",
    "when some are drawn",
    "when they are checked",
    "when some are reviewed",
    "when a batch is taken",
    "when more is begun",
)


class Killed(Exception):
    pass


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_point_learns_from_every_group_once_and_asks_nobody_twice(point, staleness, seed):
    config, replicas, people = world(seed, f"pipeline.max_staleness={staleness}")
    flow, learnt, saved = flow_of(config, replicas, people), Counter(), None
    kills = random.Random(seed)

    def stop(now):
        if now == point and kills.random() < 0.3:
            raise Killed

    update = 0
    saved = copy.deepcopy(flow.state())  # a checkpoint follows every update
    while update < UPDATES:
        try:
            samples = play(flow, replicas, update, stop)
        except Killed:
            replicas.queue.clear()
            people.told.clear()
            flow = flow_of(config, replicas, people)
            flow.restore(copy.deepcopy(saved), update)
            continue
        assert all(0 <= update - sample.weight_version <= staleness for sample in samples)
        learnt.update(sample.sample_id for sample in samples)
        update += 1
        saved = copy.deepcopy(flow.state())
    assert set(learnt.values()) == {1}
    assert len(learnt) == UPDATES * 3 * 2
    assert set(people.asked.values()) == {1}


@pytest.mark.parametrize("staleness", [0, 2])
def test_the_pool_is_looked_at_while_programs_are_drawn_and_while_they_are_under_review(staleness):
    config, replicas, people = world(1, f"pipeline.max_staleness={staleness}")
    flow = flow_of(config, replicas, people)
    for update in range(UPDATES):
        play(flow, replicas, update)
    assert any(to_draw and not to_review for to_draw, to_review in replicas.looks)
    assert any(to_review and not to_draw for to_draw, to_review in replicas.looks)
    assert any(to_draw and to_review for to_draw, to_review in replicas.looks) == (staleness > 0)
