"""The figures that a run is measured by, for the report's cards and the terminal's closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crlhf_ray.evaluation.pass_at_k import mean_interval
from crlhf_ray.report.run_files import Run, read_run, round_seconds


@dataclass(frozen=True)
class Gain:
    """A difference of two mean rates and its 95% interval, as fractions; pairs: how many problems stand behind it."""

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


@dataclass(frozen=True)
class Figure:
    """One headline figure: what it is, its value, and a line that explains it."""

    label: str
    value: str
    detail: str = ""


def paired_gain(
    before: Mapping[str, float], after: Mapping[str, float], *, resamples: int = 10_000, seed: int = 0
) -> Gain:
    """Mean of after - before over the problems in both, with a `mean_interval` over problems.

    A problem is drawn together with both its rates, so that what makes a problem hard cancels out.

    Raises:
        ValueError: no problem is in both.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("the two evaluations share no problem: compare evaluations of one problem set")
    return mean_gain(np.array([after[name] - before[name] for name in shared]), resamples=resamples, seed=seed)


def mean_gain(differences: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> Gain:
    """Mean of per-problem differences of rates, shape [problems], with a `mean_interval`."""
    low, high = mean_interval(differences, (-1.0, 1.0), resamples=resamples, seed=seed)
    return Gain(float(differences.mean()), low, high, len(differences))


def headline(run: Run) -> list[Figure]:
    """Held-out skill before and after, rounds, samples, labels and time; what a run has not reached is left out."""
    figures = [*_skill(run.heldout())]
    rounds = len(run.metrics)
    planned = (run.settings.get("run") or {}).get("rounds")
    figures.append(Figure("Rounds", f"{rounds}", f"of {planned} planned" if planned and planned != rounds else ""))
    samples = sum(row.get("samples") or 0 for row in run.metrics)
    if samples:
        figures.append(Figure("Programs sampled", f"{samples:,}", f"{samples / rounds:.0f} a round"))
    labels = sum((row.get("aggregation") or {}).get("labels") or 0 for row in run.metrics)
    if labels:
        people = len({row["annotator_id"] for row in run.reliability})
        figures.append(Figure("Line marks", f"{labels:,}", f"by {people} annotators" if people else ""))
    seconds = sum(sum((row.get("seconds") or {}).values()) for row in run.metrics)
    if seconds:
        each = sum(map(round_seconds, run.metrics)) / rounds
        figures.append(Figure("Time", duration(seconds), f"{each:.0f} s a round, the rest start and evaluations"))
    return figures


def summary(run_dir: str | Path, report: Path) -> dict[str, str]:
    """The closing table of a run: its headline figures and where the report lies."""
    rows = {f.label: f"{f.value} ({f.detail})" if f.detail else f.value for f in headline(read_run(run_dir))}
    return {**rows, "Report": str(report)}


def duration(seconds: float) -> str:
    """Seconds as a person says them: "42 s", "7 min 05 s", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _skill(evaluations: Sequence[dict[str, Any]]) -> list[Figure]:
    if not evaluations:
        return []
    before, after = evaluations[0], evaluations[-1]
    label = "Held-out pass@1"
    if len(evaluations) == 1:
        return [Figure(label, f"{before['pass_at_1']:.1%}", f"95% interval {_interval(before)}; measured once")]
    figures = [
        Figure(
            label,
            f"{before['pass_at_1']:.1%} → {after['pass_at_1']:.1%}",
            f"95% intervals {_interval(before)} → {_interval(after)}",
        )
    ]
    rates_before, rates_after = before.get("per_problem") or {}, after.get("per_problem") or {}
    if rates_before.keys() & rates_after.keys():
        gain = paired_gain(rates_before, rates_after)
        figures.append(
            Figure(
                "Gain",
                f"{100 * gain.mean:+.1f} points",
                f"95% interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}, paired over {gain.pairs} problems",
            )
        )
    return figures


def _interval(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation.get("low"), evaluation.get("high")
    return f"{low:.1%}–{high:.1%}" if low is not None and high is not None else "unknown"
