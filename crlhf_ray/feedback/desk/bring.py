"""What a lead brings in: programs as rows of JSONL or CSV, source files and diffs; and reviews made elsewhere.

Files of people's count lines from 1; everything inside counts from 0.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.desk.highlight import code_lines, language_of, lexer_of
from crlhf_ray.problems.names import parsed

#: The problem of programs that name none.
IMPORTED = "imported"
ROWS = (".jsonl", ".csv", ".tsv")
DIFFS = (".diff", ".patch")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Brought:
    """A program. asked: the lines to be marked. truth: +1 or -1 for each line of a honeypot. deadline: seconds.

    language: None where the program is Python that the prompt begins, as programs of training are.
    """

    prompt: str
    lines: tuple[str, ...]
    asked: tuple[int, ...]
    language: str | None
    name: str | None = None
    problem: str = IMPORTED
    round: int | None = None
    priority: float = 0.0
    deadline: float | None = None
    truth: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Review:
    """What somebody said elsewhere of one line. item: its id here, or the one that the lead gave."""

    item: str
    line: int
    worker: str
    label: int
    confidence: float | None
    at: float
    source: str
    event_id: str | None
    milliseconds: int | None


def _numbers(value: Any) -> Any:
    """Line numbers as a list, or as text such as ``3 5``; ``none`` where no line is meant."""
    if not isinstance(value, str):
        return value
    return () if value.strip().lower() == "none" else value.replace(",", " ").replace(";", " ").split()


_Text = Annotated[str, Field(max_length=1_000_000, pattern=r"^[^\x00]*$")]
_Short = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class ProgramRow(BaseModel):
    """A row of a file of programs. wrong_lines: makes it a honeypot, whose other lines are correct."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    program: Annotated[_Text, Field(min_length=1)]
    prompt: _Text = ""
    language: _Short | None = None
    id: _Short | None = None
    problem: _Short = IMPORTED
    round: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    priority: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 0.0
    deadline: AwareDatetime | None = None
    wrong_lines: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers)] = None


class ReviewRow(BaseModel):
    """A row of reviews, as `crlhf review export` writes them; fields that it does not name are not looked at."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)
    task: _Short
    worker: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
    label: Annotated[int, Field(ge=-1, le=1)]
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    time: Annotated[float, Field(ge=0, le=1e11)]
    source: Literal["human", "simulated", "llm"] = "human"
    id: _Short | None = None
    event_id: Annotated[str, Field(min_length=8, max_length=64)] | None = None
    milliseconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


def read_file(
    file: str, text: str, language: str | None = None, *, source: bool = False, ask_end: bool = False
) -> tuple[list[Brought], list[Review]]:
    """What a file holds, by its name: rows (.jsonl, .csv, .tsv), a unified diff (.diff, .patch), or one source file.

    language: of programs that do not say. ask_end: ask also whether something is missing at the end of each program,
    whose number among wrong_lines is that of a line after the last. source: a source file whatever its name.
    Raises DataError with file, row, field, value and remedy.
    """
    text, suffix = text.removeprefix("\ufeff").replace("\r\n", "\n"), PurePosixPath(file).suffix.lower()
    if source or suffix not in (*ROWS, *DIFFS):
        return [_source(file, text, language, ask_end)], []
    if suffix in DIFFS:
        return _diff(file, text), []
    rows = list(_jsonl(file, text) if suffix == ".jsonl" else _csv(file, text, "\t" if suffix == ".tsv" else ","))
    if not rows:
        raise DataError("there are no rows in it", file=file)
    if {"task", "worker", "label"} <= rows[0][1].keys():
        return [], [_review(_checked(ReviewRow, values, file, n), file, n) for n, values in rows]
    return [_program(_checked(ProgramRow, values, file, n), file, n, language, ask_end) for n, values in rows], []


def _jsonl(file: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"this is not JSON ({error}): write one object on each line", file=file, row=number
                ) from error
            if not isinstance(row, dict):
                raise DataError('this is not an object: write {"program": ...} on each line', file=file, row=number)
            yield number, {name: value for name, value in row.items() if value is not None}


def _csv(file: str, text: str, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError("it has more fields than the header", file=file, row=reader.line_num)
            yield reader.line_num, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        raise DataError(
            f"this is not CSV ({error}): quote fields that hold quotes", file=file, row=reader.line_num
        ) from error


def _checked(kind: type[M], values: dict[str, Any], file: str, row: int) -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, kind.model_fields, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kind.model_fields)}"
            raise DataError(f"there is no such field: {known}", file=file, row=row, field=field) from None
        value = "" if first["type"] == "missing" else f"{str(first['input'])[:60]!r}: "
        raise DataError(f"{value}{first['msg']}", file=file, row=row, field=field) from None


def _program(row: ProgramRow, file: str, number: int, language: str | None, ask_end: bool) -> Brought:
    language = row.language or language
    if language is None:
        raise DataError("name the program's language here, or with --language", file=file, row=number, field="language")
    lines = _lines(row.program)
    asked = _of_language(lambda: code_lines("\n".join(lines), language), file, number)
    if not asked:
        raise DataError("no line of it carries code", file=file, row=number, field="program")
    places = len(lines) + ask_end
    asked = (*asked, *range(len(lines), places))
    truth = None
    if row.wrong_lines is not None:
        if wrong := [n for n in row.wrong_lines if n - 1 not in asked]:
            remedy = f"line {wrong[0]} carries no code; lines count from 1"
            raise DataError(remedy, file=file, row=number, field="wrong_lines")
        truth = tuple(-1 if n + 1 in row.wrong_lines else 1 for n in range(places))
    deadline = row.deadline.timestamp() if row.deadline else None
    prompt = row.prompt.replace("\r\n", "\n")
    shown = None if _begins_python(prompt, language) else language
    return Brought(
        prompt, lines, asked, shown, row.id, row.problem, row.round, row.priority,
        deadline, truth,
    )  # fmt: skip


def _begins_python(prompt: str, language: str) -> bool:
    """Whether a prompt is one of training's, so that nobody can tell the lead's honeypots from training's programs."""
    ends = prompt.endswith(('"""', "'''")) and lexer_of(language).name == "Python"
    return ends and parsed(prompt) is not None


def _of_language(work: Callable[[], T], file: str, row: int | None = None) -> T:
    try:
        return work()
    except ConfigError as error:
        raise DataError(str(error), file=file, row=row, field="language") from None


def _lines(program: str) -> tuple[str, ...]:
    return tuple(program.replace("\r\n", "\n").removesuffix("\n").split("\n"))


def _source(file: str, text: str, language: str | None, ask_end: bool) -> Brought:
    known = language or language_of(file, text)
    if known is None:
        raise DataError("its language is not known by its name: give --language", file=file)
    lines = _lines(text)
    asked = _of_language(lambda: code_lines("\n".join(lines), known), file)
    if not asked:
        raise DataError("no line of it carries code", file=file)
    return Brought(file, lines, (*asked, *range(len(lines), len(lines) + ask_end)), known)


def _diff(file: str, text: str) -> list[Brought]:
    """One program for each file that the diff changes: its hunks as they stand; added lines that carry code are asked
    about."""
    try:
        patch = PatchSet(io.StringIO(text))
    except UnidiffParseError as error:
        raise DataError(f"this is not a unified diff ({error})", file=file) from error
    found = []
    for change in patch:
        lines: list[str] = []
        asked: list[int] = []
        for hunk in change:
            after = [line for line in hunk if line.is_context or line.is_added]
            code = code_lines("".join(line.value for line in after), language_of(change.path, "") or "text")
            carries = {id(after[n]) for n in code if n < len(after)}
            lines.append(f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@")
            for line in hunk:
                if line.is_added and id(line) in carries:
                    asked.append(len(lines))
                lines.append(f"{line.line_type}{line.value}".rstrip("\n"))
        if asked:
            prompt = f"A change to {change.path}: is each added line (+) right?"
            found.append(Brought(prompt, tuple(lines), tuple(asked), "diff"))
    if not found:
        raise DataError("no file of this diff has an added line that carries code", file=file)
    return found


def _review(row: ReviewRow, file: str, number: int) -> Review:
    item, _, line = row.task.rpartition(":")
    if not item or not line.isdecimal() or int(line) < 1:
        raise DataError(f"{row.task!r}: write ITEM:LINE, with lines from 1", file=file, row=number, field="task")
    return Review(
        row.id or item, int(line) - 1, row.worker, row.label, row.weight, row.time, row.source, row.event_id,
        row.milliseconds,
    )  # fmt: skip
