"""Truth by the least fault: the fewest lines whose replacement by a line of like kind makes the tests pass."""

from datetime import UTC, datetime

import numpy as np
import pytest

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.fault_only import fault_only
from crlhf_ray.feedback.repair import Checked
from crlhf_ray.feedback.settings import AnnotatorSettings, CrowdSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.problems.problem import AssertChecker, Problem
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

PROBLEM = Problem(
    problem_id="sum_positive",
    prompt='def sum_positive(xs):\n    """Sum of the positive entries."""',
    entry_point="sum_positive",
    checker=AssertChecker(("assert sum_positive([1, -2, 3]) == 4", "assert sum_positive([]) == 0")),
    references=("\n    return sum(x for x in xs if x > 0)\n",),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        yield sandbox


def wrong_lines(sandbox, text, passing=()):
    verdict, *_ = sandbox.check([(PROBLEM, text)])
    (found,) = fault_only([Checked(PROBLEM, text, verdict, tuple(passing))], sandbox)
    return [line.strip() for line, truth in zip(text.split("\n"), found.truth, strict=True) if truth == -1]


def test_one_wrong_operator_is_the_only_wrong_line_however_far_the_known_solution_is(sandbox):
    text = "\n    total = 0\n    for x in xs:\n        if x < 0:\n            total += x\n    return total\n"
    assert wrong_lines(sandbox, text) == ["if x < 0:"]


def test_a_line_of_a_known_solution_replaces_one_in_its_place(sandbox):
    right = "\n    t = 0\n    for v in xs:\n        t += max(v, 0)\n    return t\n"
    assert wrong_lines(sandbox, right.replace("max(v, 0)", "len(xs) * v"), [right]) == ["t += len(xs) * v"]


def test_two_lines_where_no_single_one_is_enough(sandbox):
    right = "\n    t = 0\n    for v in xs:\n        t += max(v, 0)\n    return t\n"
    text = right.replace("t = 0", "t = len(xs) - 9").replace("max(v, 0)", "len(xs) * v")
    assert wrong_lines(sandbox, text, [right]) == ["t = len(xs) - 9", "t += len(xs) * v"]


def test_a_program_that_passes_has_no_fault_and_one_that_is_not_python_has_the_truth_of_repair(sandbox):
    assert wrong_lines(sandbox, PROBLEM.references[0]) == []
    assert wrong_lines(sandbox, "\n    return )\n") == ["return )"]


def marks(truth, **habits):
    crowd = Crowd(
        CrowdSettings(annotators=(AnnotatorSettings(kind="expert", sensitivity=1, specificity=1, unsure=0, **habits),))
    )
    lines = tuple(f"    step({n})" for n in range(len(truth)))
    item = Item("item", "problem", "", lines, tuple(range(len(lines))))
    table = crowd.annotate([item], {"item": np.array(truth, dtype=np.int8)}, now=datetime.now(UTC))
    return table["label"].to_pylist()


def test_a_reviewer_of_style_marks_lines_of_right_programs_only():
    assert marks([1] * 20, style=1.0) == [-1] * 20
    assert marks([1, -1, 1], style=1.0) == [1, -1, 1]


def test_a_reviewer_content_with_one_fault_overlooks_the_second():
    assert marks([1, -1, 1, -1, -1], overlooks=1.0) == [1, -1, 1, 1, 1]
