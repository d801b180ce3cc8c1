"""Prompt + completion is the program, under every template."""

import pytest

from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.policy.prompts import encode, render
from crlhf_ray.problems.problem import AssertChecker, Problem

PROBLEM = Problem(
    problem_id="add",
    prompt='def add(a, b):\n    """The sum of a and b."""',
    entry_point="add",
    checker=AssertChecker(tests=("assert add(1, 2) == 3",)),
    references=("\n    return a + b\n",),
)


def test_the_bare_prompt_is_the_problem_alone():
    tokenizer = load_tokenizer("tiny")
    assert render(PROBLEM, "bare", tokenizer) == PROBLEM.prompt
    assert tokenizer.decode(encode(PROBLEM, "bare", tokenizer)) == PROBLEM.prompt


def test_the_chat_prompt_ends_inside_the_answer_with_the_problem_itself():
    text = render(PROBLEM, "chat", load_tokenizer("tiny"))
    asked, begun = text.split("<|im_start|>assistant\n")
    assert PROBLEM.prompt in asked
    assert begun == f"```python\n{PROBLEM.prompt}"


def test_chat_markers_become_single_tokens():
    tokenizer = load_tokenizer("tiny")
    ids = encode(PROBLEM, "chat", tokenizer)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert tokenizer.decode(ids) == render(PROBLEM, "chat", tokenizer)


def test_chat_needs_a_chat_template():
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="use 'bare'"):
        render(PROBLEM, "chat", tokenizer)


def test_an_unknown_template_is_an_error():
    with pytest.raises(ConfigError, match="'bare' or 'chat'"):
        render(PROBLEM, "barre", load_tokenizer("tiny"))
