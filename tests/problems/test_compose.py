"""Composed problems: the same for a seed, right, told in words, tested well, and split by composition and phrasing."""

import importlib.util
from pathlib import Path

import pytest

from crlhf_ray.errors import DataError
from crlhf_ray.evaluation.problem_check import examine
from crlhf_ray.problems.compose import ARGUMENTS, CLOSINGS, FRAMES, NAMES, composed, mutants, split_of
from crlhf_ray.problems.load import load_problems, load_splits
from crlhf_ray.problems.steps import STEPS
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

COUNT = 40


@pytest.fixture(scope="module")
def problems():
    return composed(1, COUNT)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        yield sandbox


def chain(problem):
    return tuple(step.split()[1] for step in problem.family.split(" > "))


def test_a_seed_gives_the_same_problems_and_a_smaller_count_their_beginning(problems):
    from crlhf_ray.problems import compose

    compose._problem.cache_clear()
    assert compose.composed(1, 7) == problems[:7]
    assert composed(2, 7) != problems[:7]


def test_training_and_measuring_on_them_share_no_composition_with_any_seed(problems):
    train, heldout = load_splits(f"compose:1:{COUNT}", "compose:2:20")
    assert (len(train), len(heldout)) == (COUNT * 4 // 5, 4)
    assert not {chain(problem) for problem in train} & {chain(problem) for problem in heldout}
    assert all(split_of(chain(problem)) == problem.split for problem in (*train, *heldout))


def test_no_phrase_frame_or_name_is_on_both_sides():
    for step in STEPS:
        assert len(set(step.phrases)) == len(step.phrases) >= 5, step.name
    assert not set(FRAMES["train"]) & set(FRAMES["heldout"])
    assert not set(CLOSINGS["train"]) & set(CLOSINGS["heldout"])
    for train, heldout in zip(NAMES["train"], NAMES["heldout"], strict=True):
        assert not set(train) & set(heldout)
    assert not set(ARGUMENTS["train"].values()) & set(ARGUMENTS["heldout"].values())


def test_every_kind_of_step_and_one_to_three_of_them_occur(problems):
    kinds = {step.split()[0] for problem in problems for step in problem.family.split(" > ")}
    assert kinds == {"filter", "map", "fold", "string", "index", "dict", "sort", "numeric"}
    assert {len(chain(problem)) for problem in problems} == {1, 2, 3}


def test_each_has_two_references_worked_examples_that_are_no_tests_and_tests_with_edge_cases(problems):
    for problem in problems:
        first, second = problem.references
        assert first != second
        assert problem.prompt.count(">>>") == 2
        calls = [", ".join(map(repr, case.arguments)) for case in problem.checker.cases]
        assert len(set(calls)) >= 6
        assert not any(f"({call})" in problem.prompt for call in calls), problem.prompt
        assert problem.checker.cases[0].arguments[0] in (0, "", [], {})


def test_references_pass_in_the_sandbox_and_tests_catch_other_mistakes_too(problems, sandbox):
    """`crlhf problems check` makes mistakes of its own, some of which change nothing."""
    found = examine(problems[:15], sandbox, mutants=4, cpu_limit=5)
    assert [(finding.problem_id, finding.faults) for finding in found if finding.faults] == []
    caught, made = (sum(finding.caught[n] for finding in found) for n in (0, 1))
    assert caught >= 0.85 * made > 30


def test_copying_from_the_prompt_passes_at_most_one_in_twenty(problems, sandbox):
    path = Path(__file__).parents[2] / "benchmarks" / "copy_rule.py"
    spec = importlib.util.spec_from_file_location("copy_rule", path)
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    rates = rule.copied_rate(problems, sandbox)
    assert sum(right for right, _ in rates.values()) <= 0.05 * COUNT


def test_mistakes_are_python_and_none_is_the_program_itself():
    source = "def f(x):\n    y = 0\n    for a in x:\n        if a > 2:\n            y += a\n    return y"
    found = mutants(source)
    assert source not in found
    assert all(any(part in text for text in found) for part in ("if a >= 2", "y -= a", "if True"))
    for text in found:
        compile(text, "<mutant>", "exec")


@pytest.mark.parametrize("source", ["compose:1", "compose:a:5", "compose:1:0", "compose:1:20001", "compose:1:-5"])
def test_a_source_of_another_form_is_an_error_that_says_the_form(source):
    with pytest.raises(DataError, match="compose:"):
        load_problems(source)
