"""What `crlhf problems check` does: runs references and small mistakes to see what tests are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from crlhf_ray.feedback.mutations import mutations
from crlhf_ray.problems.checkers import AssertChecker, CallChecker, Checker, ReferenceChecker, ScriptChecker
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.sandbox.samples import AnySandbox
from crlhf_ray.sandbox.sandbox import Sandbox
from crlhf_ray.sandbox.verdict import Verdict

TIMES = 2  # that each reference runs
SLOW = 0.25  # share of the CPU seconds: a few times slower than its reference is what a right program may be


@dataclass(frozen=True)
class Finding:
    """What the tests of one problem are worth.

    references: how many of them pass every time, of how many. caught: mutants that the tests find wrong, of how many;
    a mutant may be as right as the program that it was made from, so not all can be caught. shown: tests that the
    prompt shows, of how many, which a program can be read off. cpu_seconds: of the slowest reference.
    faults: what is wrong, in words; a problem with one is not fit to train on or to measure with.
    """

    problem_id: str
    references: tuple[int, int]
    caught: tuple[int, int]
    shown: tuple[int, int]
    cpu_seconds: float
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def examine(
    problems: Sequence[Problem],
    sandbox: AnySandbox,
    *,
    mutants: int,
    cpu_limit: float,
    on_verdict: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """Run each reference twice and up to ``mutants`` mutants of the first one that passes."""

    def check(jobs: list[tuple[Problem, str]]) -> list[Verdict]:
        return sandbox.check(jobs, lambda index, verdict: on_verdict())

    texts = {problem.problem_id: problem.references if problem.tested else () for problem in problems}
    jobs = [(problem, text) for problem in problems for text in texts[problem.problem_id] for _ in range(TIMES)]
    verdicts = iter(check(jobs))
    found = {name: [[next(verdicts) for _ in range(TIMES)] for _ in some] for name, some in texts.items()}
    made = {problem.problem_id: _mutants(problem, found[problem.problem_id], mutants) for problem in problems}
    tried = iter(check([(problem, text) for problem in problems for text in made[problem.problem_id]]))
    return [
        _finding(problem, found[problem.problem_id], [next(tried) for _ in made[problem.problem_id]], cpu_limit)
        for problem in problems
    ]


def _mutants(problem: Problem, runs: list[list[Verdict]], most: int) -> list[str]:
    for reference, verdicts in zip(problem.references, runs, strict=False):  # none of a problem without tests
        if all(verdict.passed for verdict in verdicts):
            every = [mutant.completion for mutant in mutations(problem.prompt, reference)]
            return every[:: max(1, -(-len(every) // most))] if most else []
    return []


def _finding(problem: Problem, runs: list[list[Verdict]], mutants: list[Verdict], cpu_limit: float) -> Finding:
    faults, notes = [], []
    for number, verdicts in enumerate(runs):
        told = [verdict for verdict in verdicts if verdict.status != "infra_error"] or verdicts
        first = next((verdict for verdict in told if not verdict.passed), told[0])
        if len({verdict.status for verdict in told}) > 1:
            faults.append(f"flaky: reference {number} is {' and '.join(verdict.status for verdict in told)}")
        elif first.status == "infra_error":
            faults.append(first.detail)
        elif not first.passed:
            test = "" if first.failing_test is None else f", test {first.failing_test}"
            faults.append(f"reference {number} does not pass: {first.status}{test}: {first.detail}".rstrip(": "))
    checked = [verdict for verdict in mutants if verdict.status != "infra_error"]
    caught = sum(not verdict.passed for verdict in checked)
    cpu = max((verdict.cpu_seconds for verdicts in runs for verdict in verdicts), default=0.0)
    shown = tests_shown(problem)
    if not problem.tested:
        notes.append("no tests: people alone decide")
    elif not problem.references:
        notes.append("no reference to check the tests with")
    if checked and caught < len(checked) / 2:
        notes.append(f"the tests catch {caught} of {len(checked)} mutants")
    if shown[0]:
        notes.append(f"the prompt shows {shown[0]} of {shown[1]} tests")
    if cpu > SLOW * cpu_limit:
        notes.append(f"slow: {cpu:.1f} of {cpu_limit:g} s of CPU")
    passing = sum(all(verdict.passed for verdict in verdicts) for verdicts in runs)
    return Finding(
        problem.problem_id,
        (passing, len(runs)),
        (caught, len(checked)),
        shown,
        round(cpu, 3),
        tuple(faults),
        tuple(notes),
    )


def tests_shown(problem: Problem) -> tuple[int, int]:
    """How many tests the prompt shows, white space apart, and how many there are."""
    prompt = "".join(problem.prompt.replace("\\\\", "\\").split())
    tests = _texts(problem.checker)
    return sum(all("".join(text.split()) in prompt for text in test) for test in tests), len(tests)


def _texts(checker: Checker) -> list[tuple[str, ...]]:
    match checker:
        case AssertChecker(tests=tests):
            return [(test,) for test in tests]
        case ScriptChecker(tests=pairs):
            return [pair for pair in pairs if all(pair)]
        case CallChecker(cases=cases):
            return [(", ".join(map(repr, case.arguments)), repr(case.expected)) for case in cases]
        case ReferenceChecker(base=base, inputs=inputs):
            return [*_texts(base), *((", ".join(map(repr, given)), "\0") for given in inputs)]
    return []


def check_problems(
    source: str,
    settings: SandboxSettings,
    *,
    mutants: int,
    progress: Console,
    data_set: DataSetSettings = DEFAULTS,
) -> list[Finding]:
    """Examine all problems of a source in a sandbox of its own. Raises DataError as `load_problems`."""
    problems = load_problems(source, None, data_set, progress.print)
    with Sandbox(settings) as sandbox, Progress(console=progress, transient=True) as bar:
        task = bar.add_task("checking", total=None)
        return examine(
            problems,
            sandbox,
            mutants=mutants,
            cpu_limit=settings.limits.cpu_seconds,
            on_verdict=lambda: bar.advance(task),
        )


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps([asdict(finding) for finding in findings])


def show(findings: Sequence[Finding], console: Console) -> None:
    """Those with something to say, and the sums."""
    table = Table(title_justify="left")
    for column in ("problem", "references pass", "mutants caught", "to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        if finding.faults or finding.notes:
            words = [*(f"fault: {fault}" for fault in finding.faults), *finding.notes]
            table.add_row(
                *map(escape, (finding.problem_id, _of(finding.references), _of(finding.caught), "; ".join(words)))
            )
    if table.row_count:
        console.print(table)
    sums: dict[str, Any] = {
        "references pass": (sum(f.references[0] for f in findings), sum(f.references[1] for f in findings)),
        "mutants caught": (sum(f.caught[0] for f in findings), sum(f.caught[1] for f in findings)),
        "tests shown in prompts": (sum(f.shown[0] for f in findings), sum(f.shown[1] for f in findings)),
    }
    console.print(f"{len(findings)} problems; " + "; ".join(f"{name}: {_of(pair)}" for name, pair in sums.items()))
    faulty = sum(bool(finding.faults) for finding in findings)
    console.print(f"{faulty} with a fault" if faulty else "no fault")


def _of(pair: tuple[int, int]) -> str:
    return f"{pair[0]} of {pair[1]}"
