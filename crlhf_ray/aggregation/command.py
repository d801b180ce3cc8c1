"""What ``crlhf aggregate`` does with the files it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from crlhf_ray.aggregation.batch import EstimatorName, aggregate
from crlhf_ray.aggregation.files import USUAL, Columns
from crlhf_ray.aggregation.mapreduce import aggregate_parquet
from crlhf_ray.aggregation.rejections import RowReport, label_value
from crlhf_ray.errors import ConfigError, DataError

#: Workers shown on the terminal; all of them are in the file.
SHOWN = 10


def aggregate_files(
    labels: Sequence[Path],
    gold: Path | None,
    out: Path,
    estimator: EstimatorName,
    big: bool,
    console: Console,
    classes: Sequence[str] = (),
    columns: Columns = USUAL,
) -> None:
    """Write consensus, reliability and rejected rows into ``out`` and print a summary.

    classes: the labels that count, as text, for two the negative one first; any other label is then rejected and
    reported. Empty: every label found is a class.
    big: for Parquet larger than memory; starts Ray on this machine where it is not running; refused (`ConfigError`) for
    an estimator it does not have. Raises as `aggregate` and `aggregate_parquet` do.
    """
    if big and (estimator != "hierarchical" or columns.wide):
        asked = "--wide" if columns.wide else f"--estimator {estimator}"
        raise ConfigError(f"--big has the hierarchical estimator only, for one vote a row; leave out --big or {asked}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError("--out is a file, or lies below one; name a folder", file=str(out)) from error
    named = tuple(map(label_value, classes)) or None
    if named and (len(set(named)) < 2 or (big and len(named) != 2)):
        raise DataError(
            f"--class names {', '.join(classes)}; name {'both' if big else 'all'} classes, --class no --class yes",
            file=str(labels[0]),
            field="label",
        )
    if big:
        from crlhf_ray.cluster import connect

        pair = (named[0], named[1]) if named else None
        with connect(), console.status("Ray Data passes over the labels ..."):
            large = aggregate_parquet(labels, out / "consensus", gold, classes=pair, columns=columns)
        reliability, report, consensus = large.reliability, large.report, large.consensus
    else:
        found = aggregate(labels, gold, estimator=estimator, classes=named, columns=columns)
        consensus = out / "consensus.csv"
        found.consensus.to_csv(consensus, index=False)
        reliability, report = found.reliability, found.report
        if found.temperature is not None:
            console.print(f"tempered by the honeypots: temperature {found.temperature:.2f}")
    reliability.to_csv(out / "reliability.csv", index=False)
    report.write(out / "rejected.jsonl")
    _show(reliability, report, console)
    console.print(f"Consensus: [bold]{consensus}[/bold]; reliabilities and rejected rows beside it")


def _show(reliability: pd.DataFrame, report: RowReport, console: Console) -> None:
    table = Table(title=f"{len(reliability)} workers", title_justify="left")
    for column in reliability.columns:
        table.add_column(str(column))
    for row in reliability.head(SHOWN).itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
    if len(reliability) > SHOWN:
        console.print(f"and {len(reliability) - SHOWN} more, in the file")
    console.print(str(report))
