"""Problems without tests: no verdict is made up for them, and what needs tests is refused by name."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.honeypots import build_honeypots
from crlhf_ray.pipeline.problems import check_tests
from crlhf_ray.pipeline.records import round_row, sample_rows
from crlhf_ray.problems.checkers import Untested
from crlhf_ray.problems.load import load_problems
from crlhf_ray.report.console import round_line
from crlhf_ray.sandbox.verdict import Verdict
from tests.pipeline.test_flow import flow_of, play, world

TESTED = load_problems("starter", "train")[:2]
ALONE = [
    replace(problem, problem_id=f"alone/{n}", checker=Untested(), references=()) for n, problem in enumerate(TESTED)
]


class Sandbox:
    def __init__(self):
        self.asked = []

    def check(self, jobs, each=None):
        self.asked += [problem.problem_id for problem, _ in jobs]
        return [Verdict("passed", isolation="jailed") for _ in jobs]


def batch_of(problems, per_round):
    """A batch of one round in turns, and the sandbox that was asked."""
    config, replicas, people = world(3, f"run.problems_per_round={per_round}")
    flow, sandbox = flow_of(config, replicas, people), Sandbox()
    flow.engines = SimpleNamespace(fleet=replicas, sandbox=sandbox, tasks=flow.engines.tasks)
    flow._problems = {problem.problem_id: problem for problem in problems}
    flow._train_ids = list(flow._problems)
    taken = []
    whole, flow.take = flow.take, lambda update: taken.append(whole(update)) or taken[-1]
    play(flow, replicas, 0)
    return taken[-1], sandbox


def rows_of(batch):
    items = [item for work in batch for item in work.items]
    consensus = {item.item_id: dict.fromkeys(item.to_review, 0.8) for item in items}
    scores = np.linspace(0, 1, len(items))
    marks = pa.Table.from_pylist([], schema=ANNOTATION_SCHEMA)
    return round_row(batch, consensus, scores, marks, {}), sample_rows(0, batch, consensus, scores)


def test_the_sandbox_runs_only_programs_that_have_tests_and_the_pass_rate_is_theirs():
    batch, sandbox = batch_of([*TESTED, *ALONE], 4)
    assert set(sandbox.asked) == {problem.problem_id for problem in TESTED}
    row, samples = rows_of(batch)
    assert (row["samples"], row["untested"], row["train_pass_rate"]) == (8, 4, 1.0)
    assert "passed 100.0% of 4 with tests" in round_line({"round": 0, **row})
    for sample in samples:
        told = sample["problem_id"] in sandbox.asked
        assert (sample["passed"] is not None) == told
        assert all((line["truth"] is not None) == told for line in sample["lines"])


def test_where_no_problem_has_tests_the_sandbox_runs_nothing_and_there_is_no_pass_rate():
    batch, sandbox = batch_of(ALONE, 2)
    row, _ = rows_of(batch)
    assert sandbox.asked == []
    assert (row["untested"], row["train_pass_rate"]) == (4, None)
    assert "passed" not in round_line({"round": 0, **row})


def test_programs_without_verdicts_wait_for_reviews_across_a_restart():
    (work, *_), _ = batch_of(ALONE, 2)
    saved = copy.deepcopy(work.state())
    again = type(work).from_state(saved)
    assert again.passed == [None, None]
    assert {item.item_id for item in again.items} == {item.item_id for item in work.items}


def test_honeypots_are_made_of_problems_with_tests_alone():
    assert build_honeypots(ALONE, Sandbox(), 0) == []


WEB = "feedback.source=web"


@pytest.mark.parametrize(
    ("problems", "changes", "reason"),
    [
        (ALONE, (), "feedback.source=in_process"),
        ([*TESTED, *ALONE], ("feedback.source=simulated",), "'alone/0' first"),
        ([*TESTED, *ALONE], (WEB, "reward.source=tests"), "reward.source=tests: 2 of 4 training problems"),
        (ALONE, (WEB, "reward.verified=0.1"), "reward.verified has no effect"),
        (ALONE, (WEB, "feedback.annotators=[{kind: tests}]"), "feedback.annotators of kind tests has no effect"),
        (ALONE, (WEB, "feedback.web.simulated_crowd=true"), "feedback.web.simulated_crowd has no effect"),
    ],
)
def test_what_needs_tests_is_refused_by_name(problems, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        check_tests(load_config(changes=list(changes)), problems)


def test_what_can_do_with_the_tests_of_some_problems_is_let_pass():
    changes = [WEB, "reward.verified=0.1", "feedback.annotators=[{kind: tests}]", "feedback.web.simulated_crowd=true"]
    check_tests(load_config(changes=changes), [*TESTED, *ALONE])
    check_tests(load_config(), TESTED)
