"""People and their labels: serve, review, aggregate."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from crlhf_ray.cli.app import Changes, app, console
from crlhf_ray.feedback.desk.command import ServerFile, review_app

#: `crlhf_ray.aggregation.batch.EstimatorName`, written out so that --help need not import it.
Estimator = Literal["hierarchical", "two_coin", "one_coin", "majority", "dawid_skene", "logistic_l1"]

app.add_typer(review_app, name="review")


@app.command()
def serve(
    config: ServerFile = None,
    changes: Changes = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for everybody who can reach this machine.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="Run on Ray Serve, on the cluster of RAY_ADDRESS or a local one.")
    ] = False,
) -> None:
    """Serve the review page, the lead's dashboard and their API. The first start prints the admin link.

    Example: crlhf serve --set dir=annotation --set database=postgresql+psycopg://me@host/reviews
    """
    from functools import partial

    from crlhf_ray.aggregation.actor import Aggregator
    from crlhf_ray.config import ServerConfig
    from crlhf_ray.feedback.desk.serve import serve as run_server
    from crlhf_ray.settings import read_settings

    settings = read_settings(ServerConfig, config, changes or [])
    engine = partial(Aggregator, settings=settings.aggregation)
    with suppress(KeyboardInterrupt):  # how one stops a server
        run_server(settings, engine, host, port, console, on_ray=on_ray)


@app.command()
def aggregate(
    labels: Annotated[
        list[Path],
        typer.Argument(
            help="CSV, TSV, Parquet, JSONL or JSON (.gz too; - is standard input) with columns task, worker, label; "
            "optionally weight (0 to 1) and time. Exports of Label Studio, Toloka, Argilla and peerannot."
        ),
    ],
    gold: Annotated[Path | None, typer.Option(help="Known truth: columns task and label.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for consensus, reliabilities, rejected rows and report.html.")
    ] = Path("consensus"),
    estimator: Annotated[Estimator, typer.Option(help="See docs/aggregation.md.")] = "hierarchical",
    big: Annotated[
        bool, typer.Option("--big", help="Labels larger than memory, in Parquet: a Ray Data map-reduce (hierarchical).")
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="The classes that there are; any other label is rejected. Default: all labels seen."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The file's column of tasks.")] = None,
    worker: Annotated[str | None, typer.Option(help="The file's column of workers.")] = None,
    label: Annotated[str | None, typer.Option(help="The file's column of labels, or the control or question.")] = None,
    weight: Annotated[str | None, typer.Option(help="The file's column of weights.")] = None,
    time: Annotated[str | None, typer.Option(help="The file's column of times.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="One column a worker, with labels in the cells.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turn crowd labels into one probability a task, and tell how reliable each worker is.

    Example: crlhf aggregate labels.csv --gold gold.csv --out consensus
    """
    from crlhf_ray.aggregation.command import aggregate_files
    from crlhf_ray.aggregation.files import Columns

    columns = Columns(task, worker, label, weight, time, wide)
    found = aggregate_files(labels, gold, out, estimator, big, console, classes or (), columns, as_json)
    if found is not None:
        from crlhf_ray.report.consensus import write_consensus_report

        path = write_consensus_report(found, out)
        if not as_json:
            console.print(f"Report: [bold]{path}[/bold]")
