"""``crlhf review``: a lead's programs in, reviews out. What is heavy is imported inside the commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from crlhf_ray.errors import DataError

if TYPE_CHECKING:
    from crlhf_ray.feedback.desk.client import AnnotationClient
    from crlhf_ray.feedback.desk.store.database import Database

review_app = typer.Typer(no_args_is_help=True, help="Bring programs in for review, and take the reviews out.")
console = Console()

Url = Annotated[str, typer.Option(help="Where `crlhf serve` listens.")]
TokenFile = Annotated[Path, typer.Option(help="The file with an API token; `crlhf serve` writes DIR/token.")]
HERE = "http://127.0.0.1:8000"
TOKEN = Path("annotation/token")


@review_app.command("import")
def bring_in(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL, CSV or TSV of programs (program, language; also prompt, id, problem, round, priority, "
            "deadline, wrong_lines), a diff or patch, source files, folders of these, or an export of reviews."
        ),
    ],
    language: Annotated[str | None, typer.Option(help="Of programs that do not say, as Pygments names it.")] = None,
    ask_end: Annotated[
        bool, typer.Option("--ask-end", help="Ask also whether something is missing at each program's end.")
    ] = False,
    url: Url = HERE,
    token_file: TokenFile = TOKEN,
) -> None:
    """Put programs into the queue, all or none; importing the same again changes nothing.

    Example: crlhf review import programs.jsonl --language rust
    """
    sent = [one for path in files for one in _read(path, language)]
    with _client(url, token_file) as client:
        counts = client.import_files(sent, language, ask_end=ask_end)
    console.print(
        f"{counts['programs']} new programs, {counts['changed']} changed, {counts['known']} known already, "
        f"{counts['reviews']} reviews; {counts['honeypots']} honeypots among the new and changed ones"
    )


def _read(path: Path, language: str | None) -> list[dict[str, Any]]:
    """A file, or the source files of a folder in depth: those whose language is known, without hidden ones."""
    from crlhf_ray.feedback.desk.highlight import language_of

    if not path.is_dir():
        return [{"name": path.name, "text": _text(path)}]
    found = []
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        shown = file.is_file() and not any(part.startswith(".") for part in inside.parts)
        if shown and (language is not None or language_of(file.name, "") is not None):
            found.append({"name": inside.as_posix(), "text": _text(file), "source": True})
    if not found:
        raise DataError("this folder contains no source file of a known language", file=str(path))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8: save the file as UTF-8", file=str(path)) from None
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}", file=str(path)) from None


@review_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="A file that ends in .csv, .jsonl or .parquet; lines count from 1.")],
    kind: Annotated[
        Literal["reviews", "consensus"], typer.Option(help="Each mark that stands, or one row a line.")
    ] = "reviews",
    round: Annotated[int | None, typer.Option(help="Programs of this round only.")] = None,
    person: Annotated[str | None, typer.Option(help="This person's only: a name, or an annotator's id.")] = None,
    state: Annotated[
        Literal["open", "done", "retired"] | None, typer.Option(help="Programs in this state only.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Names of people instead of their ids.")] = False,
    url: Url = HERE,
    token_file: TokenFile = TOKEN,
) -> None:
    """Write the reviews with text, comments, posterior and known truth, or the consensus.

    Example: crlhf review export reviews.jsonl --round 3
    """
    filters = {"kind": kind, "round": round, "person": person, "state": state, "names": names or None}
    with _client(url, token_file) as client:
        _write(client, out, (".csv", ".jsonl", ".parquet"), "/export", format=out.suffix.removeprefix("."), **filters)


@review_app.command()
def retire(
    ids: Annotated[list[str], typer.Argument(help="Programs: their ids of the import, or of the server.")],
    url: Url = HERE,
    token_file: TokenFile = TOKEN,
) -> None:
    """Withdraw programs or honeypots: nobody gets them any more. Reviews that were made of them stay.

    Example: crlhf review retire task-17 task-18
    """
    with _client(url, token_file) as client:
        console.print(f"{len(client.retire(ids))} programs are retired")


@review_app.command()
def timesheet(
    out: Annotated[Path | None, typer.Argument(help="A file that ends in .csv. Default: print a table.")] = None,
    since: Annotated[str | None, typer.Option(help="First day (UTC), such as 2026-01-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day (UTC).")] = None,
    person: Annotated[str | None, typer.Option(help="This person's only: a name, or an annotator's id.")] = None,
    url: Url = HERE,
    token_file: TokenFile = TOKEN,
) -> None:
    """Show or write hours, programs and, where the server's hourly_pay is set, pay, by person and day.

    Example: crlhf review timesheet january.csv --since 2026-01-01 --until 2026-01-31
    """
    from rich.table import Table

    period = {"since": since, "until": until, "person": person}
    with _client(url, token_file) as client:
        if out is not None:
            _write(client, out, (".csv",), "/timesheet", format="csv", **period)
            return
        rows = client.timesheet(**period)
    table = Table("day", "name", "programs", "lines", "hours", "pay")
    for row in rows:
        pay = "" if row["pay"] is None else f"{row['pay']:.2f}"
        table.add_row(row["day"], row["name"], str(row["programs"]), str(row["lines"]), f"{row['hours']:.2f}", pay)
    console.print(table)


def _write(client: AnnotationClient, out: Path, suffixes: tuple[str, ...], path: str, **filters: Any) -> None:
    """An export of the server, whole or not at all. Raises DataError for a file of another kind."""
    if out.suffix not in suffixes:
        raise DataError(f"name a file that ends in {' or '.join(', '.join(suffixes).rsplit(', ', 1))}", file=str(out))
    partial = out.with_name(out.name + ".partial")
    with partial.open("wb") as file:
        client.export(file, path, **filters)
    os.replace(partial, out)
    console.print(f"Written: [bold]{out}[/bold]")


ServerFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the settings of the server.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="As for `crlhf serve`: dir, database.")
]


@review_app.command()
def backup(
    out: Annotated[Path, typer.Argument(help="The file to write, such as reviews-2026-01-31.backup.")],
    config: ServerFile = None,
    changes: Changes = None,
) -> None:
    """Write all that the server keeps into one file; the server may go on working. Keep it as you keep passwords.

    Example: crlhf review backup monday.backup --set dir=annotation
    """
    from crlhf_ray.feedback.desk.backup import back_up

    with _database(config, changes, fresh=False) as database:
        counts = back_up(database, out)
    console.print(
        f"{counts['account']} accounts, {counts['program']} programs, {counts['mark']} marks: [bold]{out}[/bold]"
    )


@review_app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `crlhf review backup` wrote.")],
    config: ServerFile = None,
    changes: Changes = None,
) -> None:
    """Fill the empty database of a server that does not run; SQLite and PostgreSQL take each other's backups.

    Example: crlhf review restore monday.backup --set dir=again
    """
    from crlhf_ray.feedback.desk import backup

    with _database(config, changes, fresh=True) as database:
        counts = backup.restore(database, file)
    console.print(f"{counts['account']} accounts, {counts['program']} programs and {counts['mark']} marks are back")


@contextmanager
def _database(config: Path | None, changes: list[str] | None, *, fresh: bool) -> Iterator[Database]:
    from crlhf_ray.errors import ConfigError
    from crlhf_ray.feedback.desk.desk import store_url
    from crlhf_ray.feedback.desk.security import private_folder
    from crlhf_ray.feedback.desk.settings import WebSettings
    from crlhf_ray.feedback.desk.store.database import Database
    from crlhf_ray.settings import read_settings

    settings = read_settings(WebSettings, config, changes or [])
    if not fresh and settings.database is None and not (settings.dir / "store.db").exists():
        raise ConfigError(f"{settings.dir} holds no server's database: name its folder with --set dir=FOLDER")
    private_folder(settings.dir)
    database = Database(store_url(settings), migrated=fresh)
    try:
        yield database
    finally:
        database.close()


def _client(url: str, token_file: Path) -> AnnotationClient:
    from crlhf_ray.feedback.desk.client import AnnotationClient

    return AnnotationClient.from_file(url, token_file)
