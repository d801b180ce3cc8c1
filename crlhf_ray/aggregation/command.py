"""What ``crlhf aggregate`` does with the files it is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crlhf_ray.aggregation.advice import USEFUL, rate_columns
from crlhf_ray.aggregation.batch import Aggregation, EstimatorName, aggregate
from crlhf_ray.aggregation.files import USUAL, Columns
from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.aggregation.rejections import RowReport, label_value
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.output import file_in_the_way

#: Workers shown on the terminal, and tasks to ask about again there and in JSON; all of them are in the files.
SHOWN, AGAIN, AGAIN_IN_JSON = 10, 5, 100


def aggregate_files(
    labels: Sequence[Path],
    gold: Path | None,
    out: Path,
    estimator: EstimatorName,
    big: bool,
    console: Console,
    classes: Sequence[str] = (),
    columns: Columns = USUAL,
    as_json: bool = False,
) -> Aggregation | None:
    """Write consensus, reliability and rejected rows into ``out`` and print a summary. Answers what it found, but for
    ``big``.

    classes: the labels that count, as text, for two the negative one first; any other label is then rejected and
    reported. Empty: every label found is a class. as_json: the summary as one JSON object.
    big: for Parquet larger than memory; starts Ray on this machine where it is not running; refused (`ConfigError`) for
    an estimator it does not have. Raises as `aggregate` and `aggregate_parquet` do.
    """
    if big and (estimator != "hierarchical" or columns.wide):
        asked = "--wide" if columns.wide else f"--estimator {estimator}"
        raise ConfigError(f"--big has the hierarchical estimator only, for one vote a row; leave out --big or {asked}")
    if file_in_the_way(out):
        raise DataError("--out is a file, or lies below one; name a folder", file=str(out))
    named = tuple(map(label_value, classes)) or None
    if named and (len(set(named)) < 2 or (big and len(named) != 2)):
        raise DataError(
            f"--class names {', '.join(classes)}; name {'both' if big else 'all'} classes, --class no --class yes",
            file=str(labels[0]),
            field="label",
        )
    found: Aggregation | None = None
    if big:
        from crlhf_ray.cluster import connect

        pair = (named[0], named[1]) if named else None
        with connect(), console.status("Ray Data passes over the labels ..."):
            large = aggregate_parquet(labels, out / "consensus", gold, classes=pair, columns=columns)
        reliability, report, consensus = large.reliability, large.report, large.consensus
        facts = {"calibrated": False}
    else:
        found = aggregate(labels, gold, estimator=estimator, classes=named, columns=columns)
        consensus = out / "consensus.csv"
        out.mkdir(parents=True, exist_ok=True)
        found.consensus.to_csv(consensus, index=False)
        reliability, report, facts = found.reliability, found.report, _facts(found)
        facts["ask_again"] = json.loads(ask_again(found.consensus).to_json(orient="records"))
    reliability.to_csv(out / "reliability.csv", index=False)
    report.write(out / "rejected.jsonl")
    if as_json:
        rows = {"read": report.read, "used": report.used, "rejected": report.rejected, "notes": report.notes}
        workers = json.loads(reliability.to_json(orient="records"))
        console.print_json(data={"consensus": str(consensus), **facts, **rows, "workers": workers})
        return found
    _show(reliability, report, facts, console)
    console.print(f"Consensus: [bold]{consensus}[/bold]; reliabilities and rejected rows beside it")
    return found


def _facts(found: Aggregation) -> dict[str, Any]:
    return {
        "tasks": len(found.consensus),
        "ties": int(found.consensus["tie"].sum()),
        "alpha": found.alpha,
        "calibrated": found.temperature is not None,
        "temperature": found.temperature,
        "on_honeypots": None if found.on_honeypots is None else asdict(found.on_honeypots),
    }


def _show(reliability: pd.DataFrame, report: RowReport, facts: dict[str, Any], console: Console) -> None:
    if "tasks" in facts:
        alpha = "unknown: no two workers share a task" if facts["alpha"] is None else f"{facts['alpha']:.2f}"
        console.print(f"{facts['tasks']:,} tasks, {facts['ties']:,} of which are ties; Krippendorff's alpha {alpha}")
    if facts["calibrated"]:
        console.print(f"Probabilities are calibrated on the honeypots (temperature {facts['temperature']:.2f})")
        found = facts["on_honeypots"]
        console.print(
            f"On {found['count']:,} honeypots, each hidden from the fit that answered it: {found['accuracy']:.1%} "
            f"right (95% interval {found['low']:.1%} to {found['high']:.1%}), calibration error "
            f"{found['calibration_error']:.1%}"
        )
    else:
        console.print(
            "Probabilities are not calibrated: with fewer than five tasks of known truth (--gold) nothing says how far "
            "they can be believed"
        )
    if "advice" in reliability:
        console.print(Text(_whom_to_trust(reliability)))
    console.print(_workers(reliability))
    if len(reliability) > SHOWN:
        console.print(f"and {len(reliability) - SHOWN:,} more in reliability.csv")
    if again := facts.get("ask_again", [])[:AGAIN]:
        told = ", ".join(f"{task['task']} ({task['bits']:.2f})" for task in again)
        console.print(Text(f"Ask about these again first (bits that one more vote is expected to tell): {told}"))
    console.print(str(report), markup=False)


def ask_again(consensus: pd.DataFrame) -> pd.DataFrame:
    """The tasks of which one more vote is expected to tell most; of equals those with the fewest votes."""
    asked = consensus[consensus["bits"] > 0.005].sort_values(["bits", "labels"], ascending=[False, True], kind="stable")
    return asked[["task", "label", "probability", "labels", "bits"]].head(AGAIN_IN_JSON)


def _whom_to_trust(reliability: pd.DataFrame) -> str:
    ranked = reliability.sort_values("skill", kind="stable")
    found = {advice: some["worker"].astype(str).tolist() for advice, some in ranked.groupby("advice")}
    drop = found.get("drop", [])
    names = f" ({', '.join(drop[:5])}{', ...' if len(drop) > 5 else ''})" if drop else ""
    return (
        f"Workers: {len(found.get('trust', [])):,} to trust, {len(drop):,} to drop{names}, "
        f"{len(found.get('unsure', [])):,} undecided. Skill is 0 for guessing and 1 for no mistakes: trust "
        f"whoever is surely above {USEFUL}, drop whoever is surely below"
    )


def _short(name: str, width: int = 16) -> str:
    """Both ends of a name that is too long: many differ at one of them only."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-width // 2 :]}"


def _workers(reliability: pd.DataFrame) -> Table:
    """The least reliable first, with the lowest of their rates: a column for each would not fit."""
    rates = rate_columns(reliability)
    rated = "advice" in reliability
    table = Table(title=f"{len(reliability):,} workers, the least reliable first", title_justify="left")
    table.add_column("worker", no_wrap=True)
    table.add_column("labels", justify="right")
    for title in ("skill (95%)", "lowest rate", "advice") if rated else ("lowest rate",):
        table.add_column(title, no_wrap=True)
    order = reliability[["skill"] if rated else rates].mean(axis=1).sort_values(kind="stable").index
    for _, row in reliability.loc[order].head(SHOWN).iterrows():
        lowest = min(rates, key=lambda name: row[name])
        cells = [f"{row[lowest]:.2f} {_short(lowest.replace('recall_', 'on ', 1), 11)}"]
        if rated:
            cells = [f"{row['skill']:.2f} ({row['skill_low']:.2f} to {row['skill_high']:.2f})", *cells, row["advice"]]
        table.add_row(Text(_short(str(row["worker"]))), f"{row['labels']:,.0f}", *map(Text, cells))
    return table
