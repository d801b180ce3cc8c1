"""The bundled problems in prose: what a model that only copies expressions out of docstrings cannot do."""

import ast

import pytest

from benchmarks.copy_rule import copied
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Sandbox

PROBLEMS = load_problems("prose")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


def test_every_reference_passes(sandbox):
    jobs = [(problem, reference) for problem in PROBLEMS for reference in problem.references]
    assert [job for job, verdict in zip(jobs, sandbox.check(jobs), strict=True) if not verdict.passed] == []


@pytest.mark.parametrize("body", ["\n    pass", "\n    return 0", "\n    return True", "\n    return []"])
def test_a_body_that_ignores_its_arguments_fails_every_problem(sandbox, body):
    assert not any(verdict.passed for verdict in sandbox.check([(problem, body) for problem in PROBLEMS]))


def test_all_are_held_out_in_families_of_their_own_and_three_difficulties():
    assert {problem.split for problem in PROBLEMS} == {"heldout"}
    assert not {p.family for p in PROBLEMS} & {p.family for p in load_problems("starter")}
    assert {problem.difficulty for problem in PROBLEMS} == {"easy", "medium", "hard"}
    assert len(PROBLEMS) >= 30


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.problem_id)
def test_no_docstring_says_the_answer_as_an_expression(problem):
    assert len(set(problem.checker.tests)) >= 5
    assert copied(problem.prompt) is None
    said = ast.get_docstring(ast.parse(problem.prompt).body[-1])
    assert not any(reference.strip().removeprefix("return ") in said for reference in problem.references)
