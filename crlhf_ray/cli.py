"""One command line: ``crlhf ...``. Heavy imports wait inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from crlhf_ray.errors import CrlhfError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Train code models from line-by-line crowd feedback (cRLHF) on Ray, vLLM and DeepSpeed.",
)
console = Console()
errors = Console(stderr=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML settings, such as jobs/quickstart.yaml. Default: defaults.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: learner.lr=1e-5.")
]


@app.command()
def train(
    config: ConfigFile = None,
    changes: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in run.dir, or start where there is none.")
    ] = False,
) -> None:
    """Run the whole loop: held-out pass@1 before, PPO rounds from crowd feedback, pass@1 after, a report.

    Example: crlhf train --config jobs/quickstart.yaml --set run.rounds=10 --set run.dir=runs/mine
    """
    from crlhf_ray.config import load_config
    from crlhf_ray.loop import train as run_training

    run_training(load_config(config, changes or []), resume=resume)


@app.command()
def plan(config: ConfigFile = None, changes: Changes = None) -> None:
    """Print the resolved settings, batch arithmetic, resources and memory; start nothing."""
    from crlhf_ray.config import load_config
    from crlhf_ray.plan import print_plan

    print_plan(load_config(config, changes or []), console)


@app.command()
def evaluate(
    config: ConfigFile = None,
    changes: Changes = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A run folder or a checkpoint in it. Default: the model as it is loaded.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result of each problem here, as JSON.")] = None,
) -> None:
    """Measure pass@k on held-out problems: samples with vLLM, judges with the sandbox.

    Example: crlhf evaluate --set evaluation.source=humaneval --set evaluation.samples=10
    """
    from crlhf_ray.config import load_config
    from crlhf_ray.loop import evaluate_checkpoint

    evaluate_checkpoint(load_config(config, changes or []), checkpoint, out, console)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The run.dir of a training run, finished or not.")]) -> None:
    """Write the HTML report of a run again, from its files alone."""
    from crlhf_ray.report.html import write_report

    console.print(f"Report: [bold]{write_report(run_dir)}[/bold]")


@app.command()
def doctor() -> None:
    """Check versions, cores, memory, the sandbox and the models, and print the command that mends what is missing."""
    from crlhf_ray.doctor import examine

    if not examine(console):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: turns the package's errors into one red message, and SIGTERM into a clean stop."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        app(standalone_mode=False)
    except CrlhfError as error:
        errors.print(f"[bold red]error:[/bold red] {error}", highlight=False)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        errors.print("[yellow]Stopped.[/yellow] The same command with --resume goes on from the last checkpoint.")
        sys.exit(130)


if __name__ == "__main__":
    main()
