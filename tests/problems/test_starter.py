"""The bundled starter set: every problem can be solved, none by accident, and no topic is on both sides."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

PROBLEMS = load_problems("starter")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings()) as sandbox:
        yield sandbox


def statements(problem, completion):
    """The function's body, parsed and printed again, so that layout and comments do not count."""
    return ast.dump(ast.parse(problem.program(completion)))


def test_every_reference_passes(sandbox):
    jobs = [(problem, reference) for problem in PROBLEMS for reference in problem.references]
    verdicts = sandbox.check(jobs)
    failed = [
        (problem.problem_id, reference, verdict)
        for (problem, reference), verdict in zip(jobs, verdicts, strict=True)
        if not verdict.passed
    ]
    assert failed == []


@pytest.mark.parametrize("body", ["\n    pass", "\n    return 0", "\n    return True"])
def test_a_body_that_ignores_its_arguments_fails_every_problem(sandbox, body):
    verdicts = sandbox.check([(problem, body) for problem in PROBLEMS])
    passed = [
        problem.problem_id for problem, verdict in zip(PROBLEMS, verdicts, strict=True) if verdict.status == "passed"
    ]
    assert passed == []


def test_there_are_at_least_120_problems_in_three_difficulties_on_both_sides():
    assert len(PROBLEMS) >= 120
    for split in ("train", "heldout"):
        assert {problem.difficulty for problem in load_problems("starter", split)} == {"easy", "medium", "hard"}


def test_there_are_at_least_eight_families_and_none_is_on_both_sides():
    train = {problem.family for problem in load_problems("starter", "train")}
    heldout = {problem.family for problem in load_problems("starter", "heldout")}
    assert len(train | heldout) >= 8
    assert not train & heldout


def test_about_a_third_of_the_problems_is_held_out():
    assert 0.25 <= len(load_problems("starter", "heldout")) / len(PROBLEMS) <= 0.4


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.problem_id)
def test_problem_is_complete(problem):
    assert len(set(problem.checker.tests)) >= 5
    assert problem.references
    assert problem.prompt.endswith('"""')
    assert len({statements(problem, reference) for reference in problem.references}) == len(problem.references)
    *worked_examples, function = ast.parse(problem.prompt).body
    assert isinstance(function, ast.FunctionDef)
    assert function.name == problem.entry_point
    assert len(function.body) == 1
    assert all(isinstance(example, ast.FunctionDef) and ast.get_docstring(example) for example in worked_examples)
    assert problem.problem_id == f"{problem.family}/{problem.entry_point}"


def test_no_reference_is_cut_by_a_stop():
    cut = [p.problem_id for p in PROBLEMS for r in p.references for stop in p.stops if stop in r]
    assert cut == []


def test_no_two_problems_ask_the_same():
    descriptions = Counter(ast.get_docstring(ast.parse(problem.prompt).body[-1]) for problem in PROBLEMS)
    assert [text for text, count in descriptions.items() if count > 1] == []
