"""``crlhf plan --diff RUN``: settings beside those of a run, and which of them a resumed run may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crlhf_ray.config import FREE_ON_RESUME, Config, differences, fits, settings_of_run


def difference(run: Path, now: Config) -> list[dict[str, Any]]:
    """A row for each setting that differs: setting, run, now, and whether `crlhf train --resume` would refuse it.

    Raises ConfigError where the folder has no settings, or those of another version.
    """
    return [
        {"setting": key, "run": was, "now": new, "resume": "may change" if fits(key, FREE_ON_RESUME) else "refused"}
        for key, (was, new) in differences(settings_of_run(run), now).items()
    ]


def print_difference(run: Path, now: Config, console: Console, as_json: bool) -> None:
    """Print `difference` as a table, or as JSON."""
    rows = difference(run, now)
    if as_json:
        return print(json.dumps(rows, indent=2))
    if not rows:
        return console.print(f"{run} has the same settings.", markup=False)
    table = Table(title=escape(f"Settings that differ from those of {run}"), title_justify="left")
    for name in ("setting", "run", "now", "resume"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row["setting"], *(escape(json.dumps(row[name])) for name in ("run", "now")), row["resume"])
    console.print(table)
    refused = sum(row["resume"] == "refused" for row in rows)
    console.print(
        f"--resume would refuse {refused} of them: start a new run in another run.dir for these."
        if refused
        else "--resume would take them all."
    )
