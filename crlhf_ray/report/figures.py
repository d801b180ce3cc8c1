"""The report's plots: each takes a run's rows and gives inline SVG, or None where there is nothing to show.

Colours are written as placeholders and turned into CSS variables, so that one SVG follows the page's light or dark
theme. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]

TEXT, GRID, SURFACE = "#00f0f1", "#00f0f2", "#00f0f3"
SERIES = tuple(f"#00f1{number:02x}" for number in range(1, 9))
_VARIABLES = {TEXT: "var(--muted)", GRID: "var(--grid)", SURFACE: "var(--card)"} | {
    colour: f"var(--s{number})" for number, colour in enumerate(SERIES, start=1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names and kinds come from outside, and may hold a dollar sign
    "font.size": 9.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def reward(metrics: Rows) -> str | None:
    """Mean reward of each round's samples, with one standard deviation either way."""
    mean, std = points(metrics, "reward/mean"), dict(points(metrics, "reward/std"))
    if not mean:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        _line(axes, mean, SERIES[0], "mean of the round")
        if std:
            band = [(x, y - std[x], y + std[x]) for x, y in mean if x in std]
            rounds, low, high = zip(*band, strict=True)
            axes.fill_between(rounds, low, high, color=SERIES[0], alpha=0.14, linewidth=0, label="± 1 std")
        _finish(axes, "reward per sample", legend=bool(std))
        return _svg(figure, "Reward over rounds")


def pass_at_1(metrics: Rows, heldout: Rows) -> str | None:
    """Share of training samples that pass, and held-out pass@1 with its interval, over rounds learnt from."""
    train = points(metrics, "train_pass_rate")
    held = [row for row in heldout if row.get("pass_at_1") is not None]
    if not train and not held:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        if train:
            _line(axes, train, SERIES[1], "training samples")
        if held:
            errors = [
                [row["pass_at_1"] - _or(row.get("low"), row["pass_at_1"]) for row in held],
                [_or(row.get("high"), row["pass_at_1"]) - row["pass_at_1"] for row in held],
            ]
            axes.errorbar(
                [row["round"] for row in held],
                [row["pass_at_1"] for row in held],
                yerr=errors,
                color=SERIES[0],
                marker="o",
                markersize=6,
                markeredgecolor=SURFACE,
                capsize=3,
                linewidth=1.4,
                linestyle="--",
                elinewidth=1.8,
                label="held-out, 95% interval",
                zorder=4,
            )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _finish(axes, "share of samples passing", legend=True)
        return _svg(figure, "Pass rate over rounds")


def single(metrics: Rows, path: str, label: str, title: str, colour: int = 0) -> str | None:
    """One metric over rounds."""
    values = points(metrics, path)
    if not values:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        _line(axes, values, SERIES[colour], label)
        if all(y >= 0 for _, y in values):
            axes.set_ylim(bottom=0)
        _finish(axes, label)
        return _svg(figure, title)


def consensus(metrics: Rows) -> str | None:
    """Share of reviewed lines whose consensus, and whose majority vote, agrees with line truth."""
    series = [
        ("consensus", points(metrics, "aggregation/consensus_accuracy"), SERIES[0], "-"),
        ("majority vote", points(metrics, "aggregation/majority_accuracy"), SERIES[1], "--"),
    ]
    series = [entry for entry in series if entry[1]]
    if not series:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        for label, values, colour, style in series:
            _line(axes, values, colour, label, style)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _finish(axes, "lines decided rightly", legend=True)
        return _svg(figure, "Accuracy of the consensus over rounds")


def logprob_gap(metrics: Rows) -> str | None:
    """Mean and largest |rollout - learner| log-prob, on a log scale; a gap of exactly 0 cannot be drawn."""
    series = [
        ("mean", [point for point in points(metrics, "learner/logprob_gap_mean") if point[1] > 0], SERIES[0], "-"),
        ("largest", [point for point in points(metrics, "learner/logprob_gap_max") if point[1] > 0], SERIES[1], "--"),
    ]
    series = [entry for entry in series if entry[1]]
    if not series:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        for label, values, colour, style in series:
            _line(axes, values, colour, label, style)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        axes.minorticks_off()
        _finish(axes, "nats a token (log scale)", legend=True)
        return _svg(figure, "Gap between rollout and learner log-probs over rounds")


def seconds(metrics: Rows) -> str | None:
    """Seconds of each round by phase, stacked. Beyond seven phases the smallest are shown as "other"."""
    by_round = [(row["round"], _phases(row.get("seconds") or {})) for row in metrics if row.get("seconds")]
    totals: dict[str, float] = {}
    for _, phases in by_round:
        for name, value in phases.items():
            totals[name] = totals.get(name, 0.0) + value
    if not totals:
        return None
    largest = sorted(totals, key=lambda name: -totals[name])[: 8 if len(totals) <= 8 else 7]
    shown = [name for name in totals if name in largest]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(width=10.4, height=3.1)
        rounds = [number for number, _ in by_round]
        floor = [0.0] * len(rounds)
        stacks = [(name, [phases.get(name, 0.0) for _, phases in by_round]) for name in shown]
        if len(shown) < len(totals):
            rest = [sum(value for name, value in phases.items() if name not in shown) for _, phases in by_round]
            stacks.append(("other", rest))
        for colour, (name, values) in zip(SERIES, stacks, strict=False):
            axes.bar(rounds, values, 0.82, floor, color=colour, edgecolor=SURFACE, linewidth=0.6, label=name)
            floor = [low + value for low, value in zip(floor, values, strict=True)]
        _finish(axes, "seconds", legend=True, columns=8)
        return _svg(figure, "Seconds by phase over rounds")


def annotators(reliability: Rows) -> str | None:
    """Latest sensitivity and specificity of each annotator, with 95% intervals, against true skill where known."""
    latest = {row["annotator_id"]: row for row in sorted(reliability, key=lambda row: row["round"])}
    people = sorted(latest.values(), key=lambda row: _or(row.get("sensitivity"), 0) + _or(row.get("specificity"), 0))
    if not any(row.get("sensitivity") is not None or row.get("specificity") is not None for row in people):
        return None
    with matplotlib.rc_context(_STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(10.4, 1.3 + 0.3 * len(people)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        names = [row["annotator_id"] + (f" · {row['kind']}" if row.get("kind") else "") for row in people]
        titles = ("sensitivity: says “correct” of correct lines", "specificity: says “wrong” of wrong lines")
        for axes, field, title in zip(panels, ("sensitivity", "specificity"), titles, strict=True):
            known = [(y, row) for y, row in enumerate(people) if row.get(field) is not None]
            for y, row in known:
                low, high = row.get(f"{field}_low"), row.get(f"{field}_high")
                if low is not None and high is not None:
                    axes.plot([low, high], [y, y], color=SERIES[0], linewidth=2.4, alpha=0.55, zorder=3)
            axes.plot(
                [row[field] for _, row in known], [y for y, _ in known], "o", color=SERIES[0], markersize=7, zorder=4,
                markeredgecolor=SURFACE, label="estimate, 95% interval",
            )  # fmt: skip
            truth = [(row[f"true_{field}"], y) for y, row in enumerate(people) if row.get(f"true_{field}") is not None]
            if truth:
                axes.plot(
                    *zip(*truth, strict=True), "D", markerfacecolor="none", markeredgecolor=SERIES[1], markersize=8,
                    markeredgewidth=1.8, zorder=5, label="true skill",
                )  # fmt: skip
            axes.set_xlim(-0.02, 1.02)
            axes.set_xlabel(title)
            axes.spines["left"].set_visible(False)
        panels[0].set_yticks(range(len(people)), names)
        panels[0].set_ylim(-0.6, len(people) - 0.4)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return _svg(figure, "Annotator reliabilities against true skill")


def calibration(bins: Iterable[tuple[float, float, int]]) -> str:
    """How often answers are right against how sure they are: a point a bin (mean probability, share right, count)."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel()
        axes.plot([0, 1], [0, 1], color=TEXT, linestyle=":", linewidth=1.2, label="as sure as right")
        sure, right, counts = zip(*bins, strict=True)
        sizes = [20 + 160 * count / max(counts) for count in counts]
        axes.scatter(sure, right, sizes, color=SERIES[0], edgecolor=SURFACE, zorder=4, label="honeypots")
        axes.set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04), xlabel="mean probability of the answer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        _finish(axes, "share that is right", legend=True)
        axes.set_xlim(-0.02, 1.04)
        return _svg(figure, "Calibration on honeypots")


def points(rows: Iterable[Mapping[str, Any]], path: str) -> Points:
    """(round, value) of a nested metric such as "learner/kl"; rows that lack it are skipped."""
    found: Points = []
    for row in rows:
        value: Any = row
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)):
            found.append((row["round"], float(value)))
    return found


def _phases(seconds_by_phase: Mapping[str, float]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for name, value in seconds_by_phase.items():
        first = name.split()[0] if name.split() else name
        merged[first] = merged.get(first, 0.0) + value
    return merged


def _panel(width: float = 5.1, height: float = 2.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    return figure, axes


def _line(axes: Axes, values: Points, colour: str, label: str, style: str = "-") -> None:
    marker = "o" if len(values) <= 12 else ""
    axes.plot(
        *zip(*values, strict=True), color=colour, linestyle=style, marker=marker, markersize=5,
        markeredgecolor=SURFACE, label=label,
    )  # fmt: skip


def _finish(axes: Axes, label: str, *, legend: bool = False, columns: int = 2) -> None:
    axes.set_ylabel(label)
    axes.spines["left"].set_visible(False)
    first, last = axes.get_xlim()
    if last - first < 2:  # one or two rounds: keep the scale in whole rounds
        axes.set_xlim(first, first + 2.4)
    if legend:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.6,
            columnspacing=1.4,
        )  # fmt: skip


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element for inline use: scalable, named for screen readers, coloured by CSS variables."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text
