"""What was understood of a source of problems, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crlhf_ray.errors import DataError
from crlhf_ray.problems.data_sets import is_data_set, read_data_set
from crlhf_ray.problems.load import load_problems, repeated
from crlhf_ray.problems.problem import Problem
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings

#: Refused rows that are printed; the others are counted.
MOST_REFUSED = 10


def show(source: str, settings: DataSetSettings, first: int, console: Console) -> int:
    """Print columns, counts, the first problems and the refused rows; returns how many rows are refused.

    Raises DataError as `load_problems`, and for settings that the source has no use for.
    """
    refused: Sequence[DataError] = ()
    if is_data_set(source):
        found = read_data_set(source, settings)
        problems, refused = found.problems, [*found.refused, *repeated(found.problems, source)]
        table = Table(title=source + (f" at revision {found.revision}" if found.revision else ""), title_justify="left")
        for name in ("field", "column", ""):
            table.add_column(name)
        for field, column in found.columns.items():
            table.add_row(field, Text(column), "by its name" if field in found.guessed else "as set")
        console.print(table)
        if found.unused:
            _line(console, f"not used: {', '.join(found.unused)}")
    else:
        if settings != DEFAULTS:
            raise DataError("--column and --limit are for hub: and data: sources", file=source)
        problems = load_problems(source)
    for problem in problems[:first]:
        _problem(problem, console)
    sides = Counter(problem.split for problem in problems)
    solved = f"{sum(bool(problem.references) for problem in problems)} with a reference"
    _line(
        console,
        f"{len(problems)} problems: {sides['train']} to train on, {sides['heldout']} held out; {solved}",
    )
    for error in refused[:MOST_REFUSED]:
        _line(console, f"refused: {error}")
    if refused:
        more = f" ({len(refused) - MOST_REFUSED} more)" if len(refused) > MOST_REFUSED else ""
        _line(
            console,
            f"{len(refused)} rows are refused{more}: correct them, name other columns, or leave them out with "
            "problems.data_set.refused=leave_out (evaluation.data_set.refused for evaluation.source)",
        )
    return len(refused)


def _problem(problem: Problem, console: Console) -> None:
    sides = f"{problem.split}, {problem.difficulty}" + (f", {problem.family}" if problem.family else "")
    _line(console, f"--- {problem.problem_id} ({sides}), entry point {problem.entry_point}")
    _line(console, problem.prompt)
    for text in problem.references[:1]:
        _line(console, text.removeprefix("\n"))
    tests = [text for text in problem.checker.sources() if text.strip()]
    _line(console, f"--- its tests ({problem.checker.kind}):")
    for text in tests[:3]:
        _line(console, text if len(text) < 500 else f"{text[:500]}...")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
