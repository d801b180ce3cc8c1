"""Before a run: what this machine has, and what the settings mean: plan, doctor."""

from __future__ import annotations

import typer

from crlhf_ray.cli.app import Changes, ConfigFile, app, console


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
def doctor() -> None:
    """Check versions, cores, memory, the sandbox and the models, and print the command that fixes what is missing."""
    from crlhf_ray.doctor import examine

    if not examine(console):
        raise typer.Exit(1)
