"""What all commands share: the application, its two streams, and the options that read settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    pretty_exceptions_show_locals=False,
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
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change one setting: learner.lr=1e-5. `crlhf plan` lists them all."
    ),
]
