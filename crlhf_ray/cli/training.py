"""A model is trained, measured and taken out: train, sft, judge-train, evaluate, export, report, study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from crlhf_ray.cli.app import Changes, ConfigFile, app, console
from crlhf_ray.errors import ConfigError

Resume = Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint in the run's folder.")]


@app.command()
def train(
    config: ConfigFile = None,
    changes: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint in run.dir, or start where there is none.")
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
def evaluate(
    out: Annotated[Path, typer.Argument(help="File for the samples and their verdicts; the same command resumes.")],
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
    resume: Resume = False,
) -> None:
    """Fine-tune the model on demonstrations first: Ray Train with DeepSpeed. The method starts from such a model.

    Example: crlhf sft --set dir=runs/sft --set epochs=3
    """
    from crlhf_ray.policy.settings import SftSettings
    from crlhf_ray.settings import read_settings

    settings = read_settings(SftSettings, config, changes or [])  # wrong ones are refused before anything heavy loads
    from crlhf_ray.policy.sft import run_sft

    path = run_sft(settings, resume=resume, console=console)
    console.print(f"Model: [bold]{path}[/bold]. Train from it by --set model.name={path}")


@app.command()
def judge_train(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the settings.")] = None,
    changes: Changes = None,
    resume: Resume = False,
) -> None:
    """Fine-tune a model to judge lines, on programs of the training problems whose faults are known.

    Example: crlhf judge-train --set sft.dir=runs/judge
    """
    from crlhf_ray.feedback.annotators.settings import JudgeTrainSettings
    from crlhf_ray.settings import read_settings

    settings = read_settings(JudgeTrainSettings, config, changes or [])
    from crlhf_ray.feedback.annotators.training import train_judge

    path = train_judge(settings, resume=resume, console=console)
    console.print(f"Model: [bold]{path}[/bold]. Serve it by vllm serve {path}, and name it in feedback.annotators")


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The run.dir of a training run, finished or not.")]) -> None:
    """Write the HTML report of a run again, from its files alone.

    Example: crlhf report runs/quickstart
    """
    from crlhf_ray.report.html import write_report

    console.print(f"Report: [bold]{write_report(run_dir)}[/bold]")


@app.command()
def watch(
    run_dir: Annotated[Path, typer.Argument(help="The run.dir of a training run on this machine.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show a run's curves, held-out scores, alerts and time left, from its files, until it ends; Ctrl-C stops watching.

    Example: crlhf watch runs/quickstart
    """
    from crlhf_ray.report.watch import watch

    watch(run_dir, console, seconds)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Which question: docs/studies.md lists them.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and NAME.html.")] = Path("studies"),
    seeds: Annotated[int, typer.Option(min=1, help="How often everything is measured, each time drawn again.")] = 20,
) -> None:
    """Answer one question about the method by measuring; the same command resumes an interrupted study.

    Example: crlhf study padding
    """
    from crlhf_ray.studies.command import run

    run(name, out, seeds, console)


@app.command()
def export(
    context: typer.Context,
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
    if feedback:
        of_weights = ("adapter", "dtype", "checkpoint", "shard_size")
        if given := [name for name in of_weights if _given(context, name)]:
            names = ", ".join("--adapter/--merged" if n == "adapter" else f"--{n.replace('_', '-')}" for n in given)
            raise ConfigError(f"{names} has no effect with --feedback, which exports no weights: leave it out")
        from crlhf_ray.export import export_feedback

        export_feedback(run_dir, to=to, repository=push, console=console)
        return
    from crlhf_ray.export import export_model

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


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
