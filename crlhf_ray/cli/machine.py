"""Before a run: what this machine has, and what the settings mean: init, plan, schema, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from crlhf_ray.cli.app import Changes, ConfigFile, app, console


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write; one that exists is left as it is.")] = Path("crlhf.yaml"),
    model: Annotated[str, typer.Option(help="Preset, folder or hub id of the model.")] = "smollm2-135m",
    problems: Annotated[str, typer.Option(help="A source of problems, such as a JSONL file: docs/problems.md.")] = (
        "starter"
    ),
    reviewers: Annotated[
        Literal["simulated", "people"], typer.Option(help="A simulated crowd, or people at `crlhf serve`.")
    ] = "simulated",
) -> None:
    """Write settings to start from, with comments, for this machine and these problems.

    Example: crlhf init mine.yaml --problems own.jsonl
    """
    from crlhf_ray.cli.starter import write_starter

    write_starter(file, model, problems, reviewers)
    console.print(f"Settings: [bold]{file}[/bold]. What they would do: crlhf plan --config {file}", soft_wrap=True)


@app.command()
def plan(
    config: ConfigFile = None,
    changes: Changes = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="NODESxDEVICESxGIB",
            help="Print only memory and weight transfers, from the model's config.json alone, and refuse what does not "
            "fit such nodes, with a setting that would help: 2x8x80.",
        ),
    ] = None,
    diff: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Print only what differs from the settings of a run's folder, and what a resumed run would refuse.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --diff: print it as JSON.")] = False,
) -> None:
    """Print the resolved settings, batch arithmetic, resources and memory; start nothing.

    Example: crlhf plan --config jobs/quickstart.yaml --set run.rounds=20
    """
    from crlhf_ray.config import load_config

    if as_json and diff is None:
        raise typer.BadParameter("--json has an effect with --diff only")
    if diff is not None and devices is not None:
        raise typer.BadParameter("--diff and --devices each print something else: give one")
    settings = load_config(config, changes or [])
    if diff is not None:
        from crlhf_ray.cli.difference import print_difference

        return print_difference(diff, settings, console, as_json)
    from crlhf_ray.plan import print_devices, print_plan

    if devices is not None:
        print_devices(settings, devices, console)
    else:
        print_plan(settings, console)


@app.command()
def schema(
    command: Annotated[
        Literal["train", "serve", "sft", "judge-train"], typer.Argument(help="Whose settings.")
    ] = "train",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The page of all settings of all commands instead: docs/settings.md.")
    ] = False,
) -> None:
    """Print the JSON schema of the settings, by which editors complete and check a YAML file.

    Example: crlhf schema train > crlhf.schema.json
    """
    from crlhf_ray.cli import reference

    typer.echo(reference.page() if markdown else json.dumps(reference.schema(command), indent=2), nl=not markdown)


@app.command()
def doctor() -> None:
    """Check versions, cores, memory, the sandbox and the models, and print the command that fixes what is missing."""
    from crlhf_ray.doctor import examine

    if not examine(console):
        raise typer.Exit(1)
