"""pass@k over a set of problems, and the file of samples and verdicts that it is counted from."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.evaluation.pass_at_k import PassAtK, pass_at_k, pass_at_k_interval
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.samples import AnySandbox, data_set_id, verdict_fields


@dataclass(frozen=True)
class Evaluation:
    """pass@k over a set of problems, and what it was measured on."""

    data_set: dict[str, str]
    samples: int
    pass_at_k: tuple[PassAtK, ...]
    statuses: dict[str, int]
    isolation: tuple[str, ...]
    fewest: int  # verdicts of a problem, of those that have one
    unchecked: tuple[str, ...]  # problems without a verdict on any of their programs: left out of every mean
    first_infra_error: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    source: str,
    problems: Sequence[Problem],
    generate: Callable[[Sequence[Problem], int], Iterable[tuple[Problem, str]]],
    sandbox: AnySandbox,
    samples: Path,
    *,
    n: int,
    policy: Mapping[str, Any] | None = None,
    ks: Sequence[int] = (1, 10, 100),
    chunk: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Sample n programs a problem, check them, and estimate pass@k with a 95% interval over problems.

    generate: makes n completions for each of some problems, in any order.
    samples: JSONL file that grows chunk by chunk with every program and verdict; a run that is started again with the
        same file resumes after the last whole chunk. Its first line holds the data set's name, version and hash, n and
        the policy; a file of another data set, n or policy is refused with DataError.
    policy: whatever the samples depend on, as JSON can hold it.
    Only those k are estimated that n allows. Infrastructure errors are left out of n, counted in ``statuses`` and
    ``unchecked``, and tried again when the run is resumed. Raises EngineError where there is nothing else.
    """
    head = head_of(source, problems, n, policy)
    rows = [row for row in earlier_rows(samples, head) if row["result"] != "infra_error"]  # those are tried again
    counted: dict[str, int] = defaultdict(int)
    for row in rows:
        counted[row["task_id"]] += 1
    todo = [problem for problem in problems if counted[problem.problem_id] < n]
    unfinished = {problem.problem_id for problem in todo}
    rows = [row for row in rows if row["task_id"] not in unfinished]
    with samples.open("w", encoding="utf-8") as file:
        for row in [head, *rows]:
            file.write(json.dumps(row) + "\n")
        file.flush()
        for start in range(0, len(todo), chunk):
            jobs = list(generate(todo[start : start + chunk], n))
            for (problem, completion), verdict in zip(jobs, sandbox.check(jobs), strict=True):
                row = {"task_id": problem.problem_id, "completion": completion, **verdict_fields(verdict)}
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()
            if on_progress:
                on_progress(len(problems) - len(todo) + min(start + chunk, len(todo)), len(problems))
    if rows and all(row["result"] == "infra_error" for row in rows):
        raise EngineError(
            f"the sandbox gave no verdict on any of {len(rows)} programs; of the first it says: "
            f"{rows[0]['verdict'].get('detail')}. `crlhf doctor` shows what the machine lacks"
        )
    return summarise(head["data_set"], n, rows, ks)


def head_of(
    source: str, problems: Sequence[Problem], n: int, policy: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The first line of a file of samples: see `evaluate`."""
    return {"data_set": data_set_id(source, problems), "n": n, **(policy or {})}


def earlier_rows(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an evaluation that was begun; [] where there is no file yet. Raises DataError for another one's."""
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    try:
        theirs = json.loads(first)
    except json.JSONDecodeError:
        theirs = None
    if not isinstance(theirs, dict) or "data_set" not in theirs:
        raise DataError("is not the file of an evaluation; name another file", file=str(path), row=1)
    other = [name for name in {**head, **theirs} if head.get(name) != theirs.get(name)]
    if other:
        raise DataError(
            "belongs to another evaluation: "
            + "; ".join(f"{name} is {theirs.get(name)!r} there and {head.get(name)!r} here" for name in other)
            + ". Name another file, or delete this one",
            file=str(path),
            row=1,
        )
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the last line of an interrupted run
    return rows


class Outcomes:
    """What rows with verdicts say of their tasks; an `infra_error` says nothing.

    by_task: whether each program passed, by task. counts: (programs, passes) of each task that has a verdict. fewest:
    verdicts of a task, of those. unchecked: tasks without one. first_infra_error: its detail.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.by_task: dict[str, list[bool]] = {row["task_id"]: [] for row in rows}
        lost = [row for row in rows if row["result"] == "infra_error"]
        for row in rows:
            if row["result"] != "infra_error":
                self.by_task[row["task_id"]].append(row["passed"])
        self.counts = [(len(passed), sum(passed)) for passed in self.by_task.values() if passed]
        self.fewest = min((total for total, _ in self.counts), default=0)
        self.unchecked = [name for name, passed in self.by_task.items() if not passed]
        self.first_infra_error: str | None = lost[0]["verdict"].get("detail") if lost else None


def summarise(data_set: dict[str, str], n: int, rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> Evaluation:
    """Count rows of verdicts into an Evaluation."""
    found = Outcomes(rows)
    return Evaluation(
        data_set=data_set,
        samples=n,
        pass_at_k=tuple(pass_at_k_interval(found.counts, k) for k in ks if k <= found.fewest),
        statuses=dict(Counter(row["result"] for row in rows)),
        isolation=tuple(sorted({row["verdict"]["isolation"] for row in rows})),
        fewest=found.fewest,
        unchecked=tuple(found.unchecked),
        first_infra_error=found.first_infra_error,
    )


def skill(outcomes: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """pass@1 with its interval, and of each problem, from (problem_id, passed) of each checked sample: the part of
    ``evaluations.jsonl`` that is measured."""
    by_problem: dict[str, list[bool]] = defaultdict(list)
    for problem_id, passed in outcomes:
        by_problem[problem_id].append(passed)
    result = pass_at_k_interval([(len(passed), sum(passed)) for passed in by_problem.values()], 1)
    return {
        "pass_at_1": result.mean,
        "low": result.low,
        "high": result.high,
        "per_problem": {name: pass_at_k(len(passed), sum(passed), 1) for name, passed in by_problem.items()},
    }
