"""The algorithm's own steps, without engines."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from crlhf_ray.aggregation.monitors import unchecked
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
    (experience,) = experiences([sample(0, 2)], [score(2)], 0.7, 0)
    assert experience.temperature == 0.7


def test_a_samples_age_counts_the_updates_since_the_weights_that_drew_it():
    assert [one.age for one in experiences([sample(0, 2)], [score(2)], 1.0, 3)] == [3]


def test_a_sample_that_stopped_before_its_first_token_teaches_nothing():
    learnt = experiences([sample(0, 0), sample(1, 2)], [score(0), score(2)], 1.0, 0)
    assert [experience.sample_id for experience in learnt] == ["r0-p-1"]


def test_a_masked_sample_teaches_nothing():
    learnt = experiences([sample(0, 2), sample(1, 2)], [score(2, masked=True), score(2)], 1.0, 0)
    assert [experience.sample_id for experience in learnt] == ["r0-p-1"]


def losing(jobs):
    """A sandbox that fails on the first program that it is given, which no real one does when asked to."""
    statuses = ["infra_error", *["passed"] * 4, *["wrong"] * (len(jobs) - 5)]
    return [Verdict(status, isolation="jailed") for status in statuses]


def test_a_program_that_the_sandbox_failed_on_is_left_out_of_pass_at_1_and_counted():
    heldout, rows, shown = load_problems("starter", "heldout")[:2], [], []
    run = SimpleNamespace(
        config=load_config(changes=["evaluation.samples=10"]),
        round=3,
        heldout=heldout,
        problems={problem.problem_id: problem for problem in heldout},
        engines=SimpleNamespace(sandbox=SimpleNamespace(check=losing)),
        metrics=SimpleNamespace(append_evaluation=rows.append, evaluations=lambda: rows),
        display=SimpleNamespace(measured=shown.append),
        phase=lambda name, total=None: nullcontext(),
        generate=lambda problems, n, tag, temperature: [
            Sample(f"{tag}-{p.problem_id}-{i}", p.problem_id, (5,), (7,), np.zeros(1), "x", (), 0, "eos", "a")
            for p in problems
            for i in range(n)
        ],
        keep_best=lambda: None,
    )
    evaluate(run)
    (row,) = rows
    assert row["per_problem"] == {heldout[0].problem_id: 4 / 9, heldout[1].problem_id: 0.0}
    assert row["unchecked"] == 1
    assert shown == [rows]


def test_programs_left_out_of_a_round_are_told_in_the_alerts():
    assert unchecked(0) == []
    (alert,) = unchecked(2)
    assert "failed on 2 programs of the round" in str(alert)


@pytest.mark.parametrize(
    "target, round, scores, ends",
    [
        (0.5, 2, {0: 0.1, 2: 0.5}, True),
        (0.5, 2, {0: 0.1, 2: 0.49}, False),
        (0.5, 3, {0: 0.1, 2: 0.9}, False),  # not measured: the weights have changed since
        (0.5, 0, {0: 0.9}, False),  # nothing was trained
        (None, 2, {2: 1.0}, False),
    ],
)
def test_training_ends_at_the_target_and_keeps_the_weights_that_reached_it(target, round, scores, ends):
    done = []
    run = SimpleNamespace(
        config=load_config(changes=["evaluation.every=1", f"evaluation.target={'null' if target is None else target}"]),
        round=round,
        metrics=SimpleNamespace(evaluations=lambda: [{"round": n, "pass_at_1": one} for n, one in scores.items()]),
        display=SimpleNamespace(say=done.append),
        _save_now=lambda: done.append("saved"),
    )
    assert Run.reached_target(run) is ends
    assert done == (["saved", "held-out pass@1 is 50.0% after round 2: evaluation.target is reached"] if ends else [])
