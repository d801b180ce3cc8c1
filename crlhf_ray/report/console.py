"""What a person sees in the terminal: the running phase, one line a round, and a closing table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from crlhf_ray.report.headline import duration
from crlhf_ray.report.progress import measured_line, seconds_left
from crlhf_ray.report.run_files import alert_text, round_seconds


class Display:
    """Live progress of a run: phases come and go at the bottom, finished rounds stay above them.

    Where the output is not a terminal (a file, a submitted job), each phase that has ended, with its time, and each
    round is one plain line. rounds, every: `run.rounds` and `evaluation.every`, from which the time left is estimated.
    """

    def __init__(self, console: Console | None = None, *, rounds: int | None = None, every: int = 0):
        self._rounds, self._every = rounds, every
        self._rows: list[Mapping[str, Any]] = []
        self.console = console or Console(highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: list[TaskID] = []
        self._alerts: list[str] = []

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[None]:
        """Show a phase while the body runs; total: how many steps `advance` will report, None where unknown."""
        task = self._progress.add_task(name, total=total)
        self._tasks.append(task)
        begun, ended = time.monotonic(), "stopped after"
        try:
            yield
            ended = "took"
        finally:
            if not self.console.is_terminal:
                spent = duration(time.monotonic() - begun)
                self._print(f"  {name}" + (f" ({total})" if total else "") + f" {ended} {spent}")
            self._tasks.remove(task)
            self._progress.remove_task(task)

    def advance(self, n: int = 1) -> None:
        """Report n more steps of the innermost phase done; without one, nothing happens."""
        if self._tasks:
            self._progress.advance(self._tasks[-1], n)

    def say(self, text: str) -> None:
        """Print what somebody should know, once."""
        self._print(text, style="yellow")

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Print a finished round (a row of metrics.jsonl), the time left, and those of its alerts that are new."""
        self._rows.append(row)
        left = seconds_left(self._rows, self._rounds, self._every) if self._rounds else None
        self._print(round_line(row, self._rounds) + (f"  about {duration(left)} left" if left else ""))
        alerts = [alert_text(alert) for alert in row.get("alerts") or ()]
        for text in alerts:
            if text not in self._alerts:
                self._print(f"  alert: {text}", style="yellow")
        self._alerts = alerts

    def measured(self, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Print the last of a run's evaluations (rows of evaluations.jsonl), and the gain since the first."""
        self._print(measured_line(evaluations), style="cyan")

    def final_table(self, summary: Mapping[str, str]) -> None:
        """Print what happened; summary: text by label, in the order shown (see `crlhf_ray.report.headline`)."""
        table = Table(show_header=False, title="What happened", title_justify="left", title_style="bold")
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in summary.items():
            table.add_row(Text(label), Text(str(value)))
        self.console.print(table)

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def round_line(row: Mapping[str, Any], rounds: int | None = None) -> str:
    """One line of text for a row of metrics.jsonl; what the row lacks is left out. Rounds count from 1 here."""
    reward, learner, aggregation = (row.get(group) or {} for group in ("reward", "learner", "aggregation"))
    tested = f" of {row['samples'] - row['untested']} with tests" if row.get("untested") else ""
    parts = [
        ("reward", reward.get("mean"), "{:.3f}"),
        ("passed", row.get("train_pass_rate"), "{:.1%}" + tested),
        ("KL", learner.get("kl"), "{:.4f}"),
        ("loss", learner.get("loss"), "{:.4f}"),
        ("consensus", aggregation.get("consensus_accuracy"), "{:.1%}"),
        ("gap", learner.get("logprob_gap_mean"), "{:.1e}"),
        ("", round_seconds(row) or None, "{:.1f} s"),
    ]
    shown = [f"{name} {form.format(value)}".strip() for name, value, form in parts if value is not None]
    return "  ".join([f"round {row['round'] + 1}" + (f" of {rounds}" if rounds else ""), *shown])
