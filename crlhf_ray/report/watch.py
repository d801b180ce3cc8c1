"""``crlhf watch``: a run's curves and alerts in the terminal, read from its files until it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crlhf_ray.report.console import round_line
from crlhf_ray.report.headline import duration
from crlhf_ray.report.progress import measured_line, seconds_left, spark
from crlhf_ray.report.run_files import Appended, Run, alert_text, read_settings, run_folder

#: Curves: a name, its place in a row of metrics.jsonl, and how its last value is written.
CURVES = (
    ("reward", "reward.mean", "{:.3f}"),
    ("passed", "train_pass_rate", "{:.1%}"),
    ("KL", "learner.kl", "{:.4f}"),
    ("loss", "learner.loss", "{:.4f}"),
    ("consensus", "aggregation.consensus_accuracy", "{:.1%}"),
    ("log-prob gap", "learner.logprob_gap_mean", "{:.1e}"),
)


def watch(run_dir: Path, console: Console, seconds: float) -> None:
    """Show the run, again every so many seconds, until no process of this machine has it any more.

    Raises DataError for a folder that is not a run's.
    """
    followed = Followed(run_dir)
    with Live(view(followed.read()), console=console, auto_refresh=False) as live:
        while owner(run_dir) is not None:
            time.sleep(seconds)
            live.update(view(followed.read()), refresh=True)
        live.update(view(followed.read(), ended=True), refresh=True)


class Followed:
    """What `view` shows of a run, which is read again and again: only what was appended since, and no samples.

    Raises DataError for a folder that is not a run's.
    """

    def __init__(self, run_dir: Path):
        self.directory = run_folder(run_dir)
        self._metrics = Appended(self.directory / "metrics.jsonl")
        self._evaluations = Appended(self.directory / "evaluations.jsonl")

    def read(self) -> Run:
        """The run as it is now, without samples and reliability."""
        settings = read_settings(self.directory / "settings.json")
        return Run(self.directory, settings, self._metrics.rows(), self._evaluations.rows())


def owner(run_dir: Path) -> int | None:
    """The process that has the run, where it is alive and of this machine."""
    try:
        pid = int((run_dir / "run.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if psutil.pid_exists(pid) else None


def view(run: Run, ended: bool = False) -> Group:
    """What the terminal shows of a run; ended: nobody works on it any more."""
    planned = (run.settings.get("run") or {}).get("rounds")
    last = run.metrics[-1] if run.metrics else None
    parts = [Text(str(run.directory), style="bold")]
    parts.append(Text(round_line(last, planned) if last else "no round has ended yet"))
    if ended:
        done = planned is not None and len(run.metrics) >= planned
        parts.append(Text("The run has ended." if done else "No process has the run; --resume continues it."))
    elif last and planned:
        left = seconds_left(run.metrics, planned, (run.settings.get("evaluation") or {}).get("every") or 0)
        parts.append(Text(f"about {duration(left or 0)} left"))
    table = Table(show_header=False, box=None)
    for name, path, form in CURVES:
        values = [value for row in run.metrics if (value := _at(row, path)) is not None]
        if values:
            table.add_row(name, spark(values), form.format(values[-1]))
    heldout = run.heldout()
    if len(heldout) > 1:
        scores = [row["pass_at_1"] for row in heldout]
        table.add_row("held-out pass@1", spark(scores), f"{scores[-1]:.1%}")
    alerts = [Text(f"alert: {alert_text(one)}", style="yellow") for one in (last or {}).get("alerts") or ()]
    return Group(*parts, table, *([Text(measured_line(heldout))] if heldout else []), *alerts)


def _at(row: Mapping[str, Any], path: str) -> float | None:
    node: Any = row
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
