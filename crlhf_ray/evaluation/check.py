"""What `crlhf check` tells of a file of samples: pass@k, counts by verdict, what failed where, and what was slow."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.evaluation.pass_at_k import pass_at_k_interval
from crlhf_ray.evaluation.results import Outcomes
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.sandbox.samples import check_samples, output_of, read_samples, refuse_output
from crlhf_ray.sandbox.sandbox import Sandbox

KS = (1, 2, 5, 10, 20, 50, 100, 200)
SHOWN = 5


def check_file(
    samples: Path, source: str, settings: SandboxSettings, out: Path | None, *, resume: bool, progress: Console
) -> dict[str, Any]:
    """Check a file of samples in a sandbox of its own; answers the summary, with the output's path.

    Raises DataError as `check_samples`, and EngineError where no program got a verdict.
    """
    problems = load_problems(source)
    jobs, _ = read_samples(samples, problems)  # what cannot be read starts nothing
    if not jobs:
        raise DataError("holds no sample: give JSONL with task_id and completion in each line", file=str(samples))
    refuse_output(samples, out or output_of(samples), resume=resume)
    settings = settings.model_copy(update={"slots": max(1, min(settings.slots, len(jobs)))})
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with (
        Sandbox(settings) as sandbox,
        Progress(*columns, TimeRemainingColumn(), console=progress, transient=True) as bar,
    ):
        task = bar.add_task("checking", total=len(jobs))
        written = check_samples(
            samples,
            problems,
            sandbox,
            out,
            resume=resume,
            on_verdict=lambda done, total: bar.update(task, completed=done),
        )
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    found = {"output": str(written), "source": source, **summary(rows, len(problems))}
    if not found["checked"]:
        raise EngineError(f"not one of {len(rows)} programs got a verdict: {rows[0]['verdict']['detail']}")
    return found


def summary(rows: list[dict[str, Any]], problems: int) -> dict[str, Any]:
    """What rows with verdicts say. An `infra_error` counts for nothing else."""
    tests: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["result"] != "infra_error" and not row["passed"]:
            test = row["verdict"]["failing_test"]
            tests[row["task_id"]]["before the first test" if test is None else f"test {test}"] += 1
    found = Outcomes(rows)
    outcomes, fewest = found.by_task, found.fewest
    slowest = sorted(range(len(rows)), key=lambda i: -rows[i]["verdict"]["cpu_seconds"])[:SHOWN]
    return {
        "problems": problems,
        "problems_with_samples": len(outcomes),
        "unchecked_problems": found.unchecked,
        "samples": len(rows),
        "checked": sum(n for n, _ in found.counts),
        "fewest_samples_of_a_problem": fewest,
        "pass_at_k": [asdict(pass_at_k_interval(found.counts, k)) for k in sorted({*KS, fewest}) if 0 < k <= fewest],
        "verdicts": dict(Counter(row["result"] for row in rows).most_common()),
        "isolation": sorted({row["verdict"]["isolation"] for row in rows}),
        "memory_by": sorted({row["verdict"]["memory_by"] for row in rows}),
        "slowest": [
            {"row": i + 1, "task_id": rows[i]["task_id"], "cpu_seconds": round(rows[i]["verdict"]["cpu_seconds"], 3)}
            for i in slowest
        ],
        "failing": {
            name: {"passed": sum(outcomes[name]), "samples": len(outcomes[name]), "tests": dict(failed.most_common())}
            for name, failed in sorted(tests.items(), key=lambda item: (sum(outcomes[item[0]]), -sum(item[1].values())))
        },
        "first_infra_error": found.first_infra_error,
        "fenced": [i + 1 for i, r in enumerate(rows) if "```" in r.get("completion", r.get("solution", ""))],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The summary for people."""
    console.print(
        f"{found['checked']} of {found['samples']} programs checked, of {found['problems_with_samples']} problems"
        + (
            f" ({found['problems']} in {found['source']})"
            if found["problems"] != found["problems_with_samples"]
            else ""
        )
    )
    table = Table(box=None, pad_edge=False)
    for column in ("", "mean", "95% interval"):
        table.add_column(column)
    for row in found["pass_at_k"]:
        table.add_row(f"pass@{row['k']}", f"{row['mean']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}")
    console.print(table)
    console.print("verdicts: " + ", ".join(f"{name} {count}" for name, count in found["verdicts"].items()))
    if found["failing"]:
        console.print("problems that fewest samples pass, and where those fail:")
        for name, failed in list(found["failing"].items())[:SHOWN]:
            tests = ", ".join(f"{test} ({count})" for test, count in list(failed["tests"].items())[:3])
            console.print(f"  {name}: {failed['passed']} of {failed['samples']} pass; {tests}", markup=False)
    slow = ", ".join(f"{each['task_id']} (row {each['row']}) {each['cpu_seconds']} s" for each in found["slowest"][:3])
    console.print(f"most CPU: {slow}", markup=False)
    if found["first_infra_error"]:
        lost = found["samples"] - found["checked"]
        console.print(
            f"{lost} left out, on which the sandbox says nothing; the first: {found['first_infra_error']}", markup=False
        )
        if found["unchecked_problems"]:
            names = ", ".join(found["unchecked_problems"][:SHOWN])
            console.print(
                f"{len(found['unchecked_problems'])} problems are left out of every mean for that: {names}",
                markup=False,
            )
    if found["fenced"]:
        console.print(
            f"hint: {len(found['fenced'])} of {found['samples']} programs have ``` in them (row {found['fenced'][0]}): "
            "remove the fences first, which are not Python",
            markup=False,
        )
    if found["isolation"] != ["jailed"]:
        console.print(f"isolation: {', '.join(found['isolation'])}")
    if found["memory_by"] != ["control group"]:
        console.print(f"memory of a program's processes together bounded by: {', '.join(found['memory_by'])}")
    console.print(f"rows with verdicts: {found['output']}", markup=False)
