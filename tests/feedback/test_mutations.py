"""Mutations: one changed line, still Python, another program."""

import ast

import pytest

from crlhf_ray.feedback.mutations import mutations
from crlhf_ray.problems.load import load_problems

PROMPT = 'def f(a, b, items):\n    """Do it."""'


def changed_lines(body):
    """What the only line of a one-line body becomes."""
    return {m.completion.split("\n")[1].strip() for m in mutations(PROMPT, "\n    " + body)}


@pytest.mark.parametrize(
    "body, change",
    [
        ("return a + b", "return a - b"),
        ("return a < b", "return a <= b"),
        ("return a == b", "return a != b"),
        ("return a and b", "return a or b"),
        ("return not a", "return a"),
        ("return a in items", "return a not in items"),
        ("return min(items)", "return max(items)"),
        ("return items[3]", "return items[4]"),
        ("return items[3]", "return items[2]"),
        ("return items[a]", "return items[a - 1]"),
        ("return len(items) + 1", "return len(items)"),
        ("return divmod(a, b)", "return divmod(b, a)"),
        ("return a - b", "return b - a"),
        ("return list(range(a))", "return list(range(1, a))"),
        ("return sorted(items)", "return items"),
        ("return a", "return a + 1"),
        ("return a if b else 0", "return a if not b else 0"),
    ],
)
def test_makes_the_mistakes_that_programmers_make(body, change):
    assert change in changed_lines(body)


def test_a_for_loops_in_and_star_arguments_are_left_alone():
    assert not any("not in" in line for line in changed_lines("for x in items: print(*items)"))
    assert not any("print(+" in line for line in changed_lines("print(*items)"))


def test_the_prompt_is_never_changed():
    prompt = 'def f(a=1, b=2):\n    """Return 1 + 2."""'
    assert all((prompt + m.completion).startswith(prompt) for m in mutations(prompt, "\n    return a + b"))


def test_text_before_a_change_may_be_of_several_bytes():
    assert "return 'é', b - a" in changed_lines("return 'é', a - b")


def test_every_mutation_of_the_starter_set_changes_one_line_into_another_program():
    for problem in load_problems("starter", "train")[::8]:
        for reference in problem.references:
            before = reference.split("\n")
            for mutation in mutations(problem.prompt, reference):
                after = mutation.completion.split("\n")
                assert [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [mutation.line]
                ast.parse(problem.program(mutation.completion))
