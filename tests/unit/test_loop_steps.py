"""The algorithm's own steps, without engines."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from crlhf_ray.aggregation.monitors import unjudged
from crlhf_ray.config import load_config
from crlhf_ray.loop import evaluate
from crlhf_ray.pipeline.experience import experiences
from crlhf_ray.pipeline.trainer import Run
from crlhf_ray.problems.load import load_problems
from crlhf_ray.reward.credit import Score
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.sandbox.verdict import Verdict


def sample(number: int, tokens: int) -> Sample:
    return Sample(f"r0-p-{number}", "p", (5, 6), (7,) * tokens, np.zeros(tokens), "", (), 0, "eos", "a")


def score(tokens: int, masked: bool = False) -> Score:
    return Score(0.0, np.zeros(tokens), np.ones(tokens), np.ones(tokens), masked)


def test_the_learner_is_told_at_what_temperature_its_samples_were_drawn():
    (experience,) = experiences([sample(0, 2)], [score(2)], 0.7)
    assert experience.temperature == 0.7


def test_a_sample_that_stopped_before_its_first_token_teaches_nothing():
    learnt = experiences([sample(0, 0), sample(1, 2)], [score(0), score(2)], 1.0)
    assert [experience.sample_id for experience in learnt] == ["r0-p-1"]


def test_a_masked_sample_teaches_nothing():
    learnt = experiences([sample(0, 2), sample(1, 2)], [score(2, masked=True), score(2)], 1.0)
    assert [experience.sample_id for experience in learnt] == ["r0-p-1"]


class LosingRun(Run):
    """A run whose sandbox fails on the first program that it is given, which no real one does when asked to."""

    def __init__(self):
        self.config = load_config(changes=["evaluation.samples=10"])
        self.round = 3
        self.heldout = load_problems("starter", "heldout")[:2]
        self.problems = {problem.problem_id: problem for problem in self.heldout}
        self.sandbox = self.metrics = self
        self.evaluations: list[dict] = []

    def phase(self, name, total=None):
        return nullcontext()

    def generate(self, problems, *, n, tag, temperature=None):
        return [
            Sample(f"{tag}-{p.problem_id}-{i}", p.problem_id, (5,), (7,), np.zeros(1), "x", (), 0, "eos", "a")
            for p in problems
            for i in range(n)
        ]

    def check(self, jobs):
        statuses = ["infra_error", *["passed"] * 4, *["wrong"] * (len(jobs) - 5)]
        return [Verdict(status, isolation="jailed") for status in statuses]

    def append_evaluation(self, row):
        self.evaluations.append(row)


def test_a_program_that_the_sandbox_failed_on_is_left_out_of_pass_at_1_and_counted():
    run = LosingRun()
    evaluate(run)
    (row,) = run.evaluations
    assert row["per_problem"] == {run.heldout[0].problem_id: 4 / 9, run.heldout[1].problem_id: 0.0}
    assert row["unjudged"] == 1


def test_programs_left_out_of_a_round_are_told_in_the_alerts():
    assert unjudged(0) == []
    (alert,) = unjudged(2)
    assert "failed on 2 programs of the round" in str(alert)
