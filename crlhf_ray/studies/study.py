"""What a study is: cells that are measured one by one, kept in one JSON file, and shown on one page.

A cell is one arm at one place of the horizontal axis under one seed. Cells that the file holds are not measured again,
so that an interrupted study goes on, and one with more seeds adds to what there is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.stats import t

from crlhf_ray.errors import DataError
from crlhf_ray.output import write_whole
from crlhf_ray.page import page

Measured = Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """One question.

    axis: what the horizontal axis is. metrics: by key, what each measured number is, with its unit. arms: what is
    compared. places: on the axis. measure: ``(arm, place, seed) -> metrics``, the same for the same three.
    limits: what it does not show.
    """

    name: str
    question: str
    axis: str
    metrics: Mapping[str, str]
    arms: Sequence[str]
    places: Sequence[float]
    measure: Callable[[str, float, int], Measured]
    limits: Sequence[str]
    bootstrap: bool = False
    """Whether seeds are bootstrap samples of one data set: then the interval is of their quantiles."""


def run_study(
    study: Study, folder: Path, seeds: int, on_cell: Callable[[int, int], None] = lambda done, of: None
) -> Path:
    """Measure what is missing, write NAME.json after each cell and NAME.html at the end; returns the page's path.

    Raises DataError where NAME.json is not of this study as it is now (other metrics).
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{study.name}.json"
    cells = _read(study, file)
    wanted = [(arm, float(x), seed) for seed in range(seeds) for arm in study.arms for x in study.places]
    for done, (arm, x, seed) in enumerate(wanted, start=1):
        if (arm, x, seed) not in cells:
            cells[arm, x, seed] = {key: float(value) for key, value in study.measure(arm, x, seed).items()}
            write_whole(file, json.dumps(_document(study, cells), indent=1))
        on_cell(done, len(wanted))
    write_whole(file, json.dumps(_document(study, cells), indent=1))
    path = folder / f"{study.name}.html"
    write_whole(path, render(study, cells))
    return path


Cells = dict[tuple[str, float, int], Measured]


def _read(study: Study, file: Path) -> Cells:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        cells = {(c["arm"], c["place"], c["seed"]): c["measured"] for c in found["cells"]}
        fits = found["study"] == study.name and all(set(m) == set(study.metrics) for m in cells.values())
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise DataError(
            "is not a file of this study as it is now; move it away, or name another folder", file=str(file)
        )
    return cells


def _document(study: Study, cells: Cells) -> dict[str, Any]:
    return {
        "study": study.name,
        "question": study.question,
        "axis": study.axis,
        "metrics": dict(study.metrics),
        "limits": list(study.limits),
        "summary": summary(study, cells),
        "cells": [{"arm": arm, "place": x, "seed": seed, "measured": m} for (arm, x, seed), m in cells.items()],
    }


def summary(study: Study, cells: Cells) -> list[dict[str, Any]]:
    """By arm and place, each metric's mean over seeds and its 95% interval, None from one seed."""
    rows = []
    for arm in study.arms:
        for x in map(float, study.places):
            of = [m for (a, place, _), m in cells.items() if (a, place) == (arm, x)]
            if of:
                means = {key: interval([m[key] for m in of], study.bootstrap) for key in study.metrics}
                rows.append({"arm": arm, "place": x, "seeds": len(of), **means})
    return rows


def interval(values: Sequence[float], bootstrap: bool = False) -> dict[str, float | None]:
    """Mean with a 95% interval over values: independent ones, or those of bootstrap samples. NaN is left out."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {"mean": None, "low": None, "high": None}
    mean = float(known.mean())
    if len(known) < 2:
        return {"mean": mean, "low": None, "high": None}
    if bootstrap:
        low, high = np.quantile(known, (0.025, 0.975))
        return {"mean": mean, "low": float(low), "high": float(high)}
    half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def render(study: Study, cells: Cells) -> str:
    """The page: plots, limits and numbers, with nothing fetched and no script."""
    rows = summary(study, cells)
    plots = [(label, Markup(_plot(study, rows, key, label))) for key, label in study.metrics.items()]  # noqa: S704 our own SVG
    return page("studies/study.html").render(study=study, rows=rows, plots=plots, shown=_shown)


def _shown(found: Mapping[str, float | None]) -> str:
    if found["mean"] is None:
        return "–"
    if found["low"] is None:
        return f"{found['mean']:.3f}"
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _plot(study: Study, rows: Sequence[Mapping[str, Any]], key: str, label: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for arm in study.arms:
        of = [row for row in rows if row["arm"] == arm and row[key]["mean"] is not None]
        x, mean = [row["place"] for row in of], [row[key]["mean"] for row in of]
        (line,) = axes.plot(x, mean, marker="o", markersize=3, label=arm)
        bars = [row for row in of if row[key]["low"] is not None]
        axes.fill_between(
            [row["place"] for row in bars],
            [row[key]["low"] for row in bars],
            [row[key]["high"] for row in bars],
            alpha=0.15,
            color=line.get_color(),
        )
    axes.set_xlabel(study.axis)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
