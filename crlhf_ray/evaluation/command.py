"""What ``crlhf evaluate`` does: sample with vLLM, check in the sandbox, estimate pass@k."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from crlhf_ray.cluster import connect
from crlhf_ray.config import FIXED_TO_EVALUATE, Config, check_unchanged, settings_of_run, with_changes
from crlhf_ray.engines import Engines
from crlhf_ray.errors import ConfigError
from crlhf_ray.evaluation.results import Evaluation, earlier_rows, head_of
from crlhf_ray.evaluation.results import evaluate as estimate
from crlhf_ray.policy.checkpoints import latest_tag
from crlhf_ray.policy.model import folder_digest, load_tokenizer, resolve
from crlhf_ray.policy.prompts import check_fit
from crlhf_ray.problems.load import load_problems, with_tests
from crlhf_ray.problems.problem import Problem


def evaluate_policy(config: Config, out: Path, run_dir: Path | None, split: str, console: Console) -> Evaluation:
    """Evaluate the model of ``config``, with the weights of a run's last checkpoint where ``run_dir`` is given.

    With a run, every setting that ``config`` leaves at its default is the run's.
    Raises DataError where no problem has tests, and ConfigError for an unknown split, a run without checkpoint, and a
    model, template or learner that is not the run's, and as the engines do.
    """
    if split not in ("train", "heldout", "all"):
        raise ConfigError(f"split {split!r} is unknown; use heldout, train or all")
    if run_dir is not None:
        if not (run_dir / "checkpoints" / "latest").exists():
            raise ConfigError(f"{run_dir} holds no checkpoint yet; name the run.dir of a training run")
        theirs = settings_of_run(run_dir)
        config = with_changes(theirs, config)
        check_unchanged(theirs, config, run_dir, fixed=FIXED_TO_EVALUATE)
    settings = config.evaluation
    every = load_problems(settings.source, None if split == "all" else split, config.heldout_data_set(), console.print)
    problems = with_tests(every, settings.source, console.print)[: settings.limit]
    tokenizer = load_tokenizer(config.model.name)
    check_fit(
        problems,
        config.problems.template,
        tokenizer,
        context=config.rollout.context,
        max_tokens=config.rollout.max_tokens,
    )
    policy = policy_id(config, run_dir)
    earlier_rows(out, head_of(settings.source, problems, settings.samples, policy))  # refused before engines start
    with ExitStack() as stack:
        stack.enter_context(connect(config.ray.address))
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crlhf-logs-")))
        engines = stack.enter_context(Engines(config, tokenizer, logs, learner=run_dir is not None))
        engines.ready()
        if run_dir is not None:
            engines.learner.load(run_dir / "checkpoints")
            engines.fleet.sync(engines.learner, 1)
            engines.learner.close()

        def generate(chunk: Sequence[Problem], n: int) -> Iterable[tuple[Problem, str]]:
            by_id = {problem.problem_id: problem for problem in chunk}
            drawn = engines.generate(chunk, n=n, tag="evaluate", temperature=settings.temperature)
            return [(by_id[sample.problem_id], sample.text) for sample in drawn]

        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("problems", total=len(problems))
        found = estimate(
            settings.source,
            problems,
            generate,
            engines.sandbox,
            out,
            n=settings.samples,
            policy=policy,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    show(found, out, console)
    return found


def policy_id(config: Config, run_dir: Path | None) -> dict[str, Any]:
    """What samples depend on besides the problems: two evaluations that share it may share a file.

    A model of the hub goes by its name; whatever lies in a folder by a hash of its files as well.
    """
    model = Path(resolve(config.model.name))
    checkpoint = None
    if run_dir is not None:
        tag = latest_tag(run_dir / "checkpoints")
        checkpoint = {"step": tag, "sha256": folder_digest(run_dir / "checkpoints" / tag)}
    return {
        "model": {"name": config.model.name, "sha256": folder_digest(model) if model.is_dir() else None},
        "checkpoint": checkpoint,
        "temperature": config.evaluation.temperature,
        "top_p": config.rollout.top_p,
        "template": config.problems.template,
        "max_tokens": config.rollout.max_tokens,
        "dtype": config.rollout.dtype,
        "seed": config.run.seed,
    }


def show(found: Evaluation, out: Path, console: Console) -> None:
    """pass@k for people, and what it leaves out."""
    table = Table(title=f"{found.data_set['name']}, {found.samples} samples a problem", title_justify="left")
    for column in ("", "mean", "95% interval", "problems"):
        table.add_column(column)
    for row in found.pass_at_k:
        table.add_row(f"pass@{row.k}", f"{row.mean:.1%}", f"{row.low:.1%} to {row.high:.1%}", str(row.problems))
    console.print(table)
    console.print("verdicts: " + ", ".join(f"{name} {count}" for name, count in found.statuses.items()))
    if lost := found.statuses.get("infra_error"):
        console.print(f"[yellow]left out:[/yellow] {lost} programs, on which the sandbox gave no verdict")
        if found.unchecked:
            names = ", ".join(found.unchecked[:5]) + (", ..." if len(found.unchecked) > 5 else "")
            console.print(
                f"[yellow]left out of every mean:[/yellow] {len(found.unchecked)} problems without any verdict: {names}"
            )
        if found.fewest < found.samples:
            console.print(f"a problem has {found.fewest} verdicts at least, so no pass@k is known for a larger k")
        console.print(
            f"the first: {found.first_infra_error}. The same command tries these programs again; `crlhf doctor` shows "
            "what the machine lacks",
        )
    known = found.data_set
    console.print(f"data set {known['name']} ({known['version']}), sha256 {known['sha256'][:16]}", highlight=False)
    console.print(f"samples in [bold]{out}[/bold]")
