"""The schema of a problem file: what a row holds, and what is checked of it. docs/problems.md explains the fields."""

from __future__ import annotations

import ast
import difflib
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
from crlhf_ray.problems.checkers import AssertChecker, CallChecker, Case, Checker, ScriptChecker, Untested
from crlhf_ray.problems.fit import nobodys_names, not_possible, subclass_with_methods
from crlhf_ray.problems.names import class_names, defined_names
from crlhf_ray.problems.problem import BODY_STOPS, Problem

Split = Literal["train", "heldout"]
Model = TypeVar("Model", bound=BaseModel)


def _parses(source: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise PydanticCustomError("python", "not Python: {error}", {"error": str(error)}) from None
    return source


PythonSource = Annotated[str, AfterValidator(_parses)]


def _can_fail(test: str) -> str:
    if all(map(_is_idle, ast.parse(test).body)):
        raise PydanticCustomError(
            "idle", "nothing in it can fail, so that every program would pass: assert what must hold"
        )
    return test


def _is_idle(node: ast.stmt) -> bool:
    """Whether a statement of a test defines or compares only."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant | ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Compare | ast.Name)
    if isinstance(node, ast.ClassDef):
        return not node.bases  # the cases of unittest are run
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Import | ast.ImportFrom | ast.Pass)


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
    kind: Literal["asserts", "calls", "script", "review"] = "asserts"
    entry_point: str = Field(default="", pattern=r"^([A-Za-z_]\w*)?$", validate_default=True)
    tests: list[Annotated[PythonSource, AfterValidator(_can_fail)]] = Field(default=[], validate_default=True)
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

    @field_validator("entry_point")
    @classmethod
    def _is_named_where_tests_call_it(cls, name: str, info: ValidationInfo) -> str:
        if not name and info.data.get("kind") != "review":
            raise PydanticCustomError("missing", "Field required")
        return name

    @field_validator("references")
    @classmethod
    def _references_continue_the_prompt(cls, references: list[str], info: ValidationInfo) -> list[str]:
        for reference in references:
            _parses(info.data.get("prompt", "") + reference)
        return references

    @field_validator("tests", "cases")
    @classmethod
    def _are_there_for_their_kind(cls, found: list[Any], info: ValidationInfo) -> list[Any]:
        kind = info.data.get("kind")
        if kind == "review":
            if found:
                raise PydanticCustomError("kind", "a problem of kind 'review' has no tests: people alone decide")
            return found
        wanted = "tests" if kind == "asserts" else "cases"
        if bool(found) != (info.field_name == wanted):
            raise PydanticCustomError("kind", f"a problem of kind {kind!r} has at least 1 of {wanted}, and no other")
        return found

    @field_validator("tolerance", "setup")
    @classmethod
    def _belong_to_tests(cls, given: Any, info: ValidationInfo) -> Any:
        if info.data.get("kind") == "review":
            raise PydanticCustomError("kind", "only a problem with tests has this field")
        return given

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
        if self.kind == "review":
            return Untested()
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


def _short(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def validated(model: type[Model], row: dict[str, Any], file: str, number: int) -> Model:
    """A row in its form. Raises DataError, which names file, row, field and the value found."""
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        found = "" if first["type"] == "missing" else f", found {_short(first['input'])}"
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, n=1)
            found = f"; did you mean {near[0]!r}?" if near else f"; the fields are {', '.join(model.model_fields)}"
        raise DataError(f"{first['msg']}{found}", file=file, row=number, field=field) from None


def read_row(raw: dict[str, Any], file: str, number: int) -> Problem:
    """The problem of one row. Raises DataError as `validated`, and for a name or an entry point that nobody defines."""
    row = validated(Row, raw, file, number)
    if strange := nobodys_names(
        "\n".join([row.setup, *row.tests]), row.prompt, row.entry_point, row.references, row.packages
    ):
        raise DataError(
            f"the name {strange[0]!r} is defined by neither the tests, the prompt nor a reference",
            file=file,
            row=number,
            field="tests",
        )
    defined = frozenset().union(*(defined_names(row.prompt + more) for more in ("", *row.references)))
    if row.kind != "script" and row.entry_point and defined and row.entry_point not in defined:
        near = difflib.get_close_matches(row.entry_point, defined, n=1)
        raise DataError(
            f"{row.entry_point!r} is defined by neither the prompt nor a reference"
            + (f"; did you mean {near[0]!r}?" if near else f"; they define {', '.join(sorted(defined))}"),
            file=file,
            row=number,
            field="entry_point",
        )
    return row.problem()
