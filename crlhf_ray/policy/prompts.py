"""From a problem to the text that the model continues. Under either template prompt + completion is the program."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.settings import Template
from crlhf_ray.problems.problem import Problem

_REQUEST = "Complete this Python function. Answer with the whole function and nothing else.\n\n```python\n{prompt}\n```"


def render(problem: Problem, template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text before the completion.

    bare: the problem's prompt and nothing else.
    chat: asks for the function in the model's own chat format; the assistant's turn is begun with an opened code
        block and the prompt, so that what follows is the completion and no prose.

    Raises ConfigError where the chat template is asked of a tokenizer that has none.
    """
    if template == "bare":
        return problem.prompt
    if template != "chat":
        raise ConfigError(f"prompt template {template!r} is unknown; use 'bare' or 'chat'")
    if not tokenizer.chat_template:
        raise ConfigError("template 'chat' needs a tokenizer with a chat template; this model has none, use 'bare'")
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": _REQUEST.format(prompt=problem.prompt)}],
        add_generation_prompt=True,
        tokenize=False,
    )
    return f"{head}```python\n{problem.prompt}"


def encode(problem: Problem, template: Template, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of `render`. A bare prompt gets the tokenizer's own special tokens, if it adds any (SmolLM2: none);
    a chat prompt already carries them in its text."""
    return list(tokenizer(render(problem, template, tokenizer), add_special_tokens=template == "bare").input_ids)


def check_fit(
    problems: Iterable[Problem],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    max_tokens: int,
) -> None:
    """Raises ConfigError where the longest prompt and ``max_tokens`` after it are more than ``context`` tokens, and for
    a tokenizer that ends a prompt by the end of the sequence: nothing would follow it."""
    longest, problem_id = 0, ""
    for problem in problems:
        ids = encode(problem, template, tokenizer)
        if ids[-1] == tokenizer.eos_token_id:
            raise ConfigError(
                f"the tokenizer appends {tokenizer.eos_token!r} to a prompt, which ends it before the program begins; "
                "set add_eos_token to false in its tokenizer_config.json, or use problems.template: chat"
            )
        longest, problem_id = max((longest, problem_id), (len(ids), problem.problem_id))
    if longest + max_tokens > context:
        raise ConfigError(
            f"the prompt of {problem_id!r} has {longest} tokens; with rollout.max_tokens={max_tokens} it needs "
            f"{longest + max_tokens}, and rollout.context is {context}: raise that to {longest + max_tokens} or more"
        )
