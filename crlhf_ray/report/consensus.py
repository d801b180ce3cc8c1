"""`write_consensus_report`: what ``crlhf aggregate`` found as one self-contained page, drawn like a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from crlhf_ray.aggregation.advice import USEFUL, rate_columns
from crlhf_ray.aggregation.batch import Aggregation
from crlhf_ray.aggregation.command import ask_again
from crlhf_ray.output import write_whole
from crlhf_ray.page import page
from crlhf_ray.report import figures
from crlhf_ray.visible import visible

#: Workers in the table, half of them the least skilled; tasks to ask about again. The files have all of them.
_WORKERS, _AGAIN, _LONGEST = 200, 50, 200


def write_consensus_report(found: Aggregation, folder: Path) -> Path:
    """Write ``report.html`` into the folder and return its path."""
    path = folder / "report.html"
    write_whole(path, render_consensus(found))
    return path


def render_consensus(found: Aggregation) -> str:
    """The page as HTML text; names from the files are escaped, and cut after 200 characters."""
    honeypots = found.on_honeypots
    plot = figures.calibration(honeypots.bins) if honeypots and honeypots.bins else None
    rated = "skill" in found.reliability
    order = np.argsort(found.reliability["skill"], kind="stable") if rated else np.arange(len(found.reliability))
    if len(order) > _WORKERS:
        order = np.concatenate([order[: _WORKERS // 2], order[-_WORKERS // 2 :]])
    again = ask_again(found.consensus).head(_AGAIN)
    return page("report/consensus.html").render(
        cards=_cards(found),
        alerts=[_shown(note) for note in [*_alerts(found), *found.report.notes]],
        report=_shown(str(found.report), longest=2000),
        calibration=None if plot is None else Markup(plot),  # noqa: S704 drawn here, of numbers only
        useful=USEFUL,
        workers=[_worker(row, rate_columns(found.reliability)) for _, row in found.reliability.iloc[order].iterrows()],
        rates=[_shown(name) for name in rate_columns(found.reliability)],
        more=len(found.reliability) - len(order),
        again=[{name: _shown(value) for name, value in row.items()} for row in again.to_dict("records")],
    )


def _cards(found: Aggregation) -> list[dict[str, str]]:
    """Label, value and detail of the headline figures."""
    cards = [
        {"label": "Tasks", "value": f"{len(found.consensus):,}", "detail": f"{found.consensus['tie'].sum():,} ties"}
    ]
    if known := found.on_honeypots:
        interval = f"95% interval {known.low:.1%} to {known.high:.1%}; {known.count:,} honeypots, each hidden"
        cards.append({"label": "Right on honeypots", "value": f"{known.accuracy:.1%}", "detail": interval})
        error = f"{known.calibration_error:.1%}"
        cards.append({"label": "Calibration error", "value": error, "detail": f"temperature {found.temperature:.2f}"})
    alpha = "–" if found.alpha is None else f"{found.alpha:.2f}"
    detail = "no two workers share a task" if found.alpha is None else "Krippendorff's alpha: 1 perfect, 0 chance"
    cards.append({"label": "Agreement", "value": alpha, "detail": detail})
    if "advice" in found.reliability:
        told = found.reliability["advice"].value_counts()
        value = f"{told.get('trust', 0):,} · {told.get('drop', 0):,}"
        undecided = f"{told.get('unsure', 0):,} undecided"
        cards.append({"label": "Workers to trust · to drop", "value": value, "detail": undecided})
    return cards


def _alerts(found: Aggregation) -> list[str]:
    alerts = []
    if found.temperature is None:
        alerts.append("Probabilities are not calibrated: there are fewer than five tasks of known truth (--gold).")
    if found.report.rejected:
        alerts.append(f"{found.report.rejected:,} of {found.report.read:,} rows were rejected; see rejected.jsonl.")
    if "advice" in found.reliability and (drop := int((found.reliability["advice"] == "drop").sum())):
        alerts.append(
            f"{drop:,} of {len(found.reliability):,} workers are surely hardly better than guessing, or worse."
        )
    return alerts


def _worker(row: pd.Series, rates: list[str]) -> dict[str, Any]:
    """What a row of the table shows; ``bar`` runs from 0 (skill -1) to 200 (skill 1)."""
    shown: dict[str, Any] = {
        "name": _shown(row["worker"]),
        "labels": f"{row['labels']:,.0f}",
        "bar": None,
        "skill": "",
        "advice": "",
    }
    shown["rates"] = [f"{row[n]:.2f} ({row[f'{n}_low']:.2f} to {row[f'{n}_high']:.2f})" for n in rates]
    if "skill" in row:
        low, mean, high = (100 + 100 * float(np.clip(row[f"skill{end}"], -1, 1)) for end in ("_low", "", "_high"))
        shown["bar"] = {"low": f"{low:.1f}", "mean": f"{mean:.1f}", "width": f"{high - low:.1f}"}
        shown["skill"] = f"{row['skill']:.2f} ({row['skill_low']:.2f} to {row['skill_high']:.2f})"
        shown["advice"] = row["advice"]
    return shown


def _shown(value: Any, longest: int = _LONGEST) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return visible(text if len(text) <= longest else text[:longest] + "…")
