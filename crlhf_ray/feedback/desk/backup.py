"""The server's whole database as one file, and a database from such a file: SQLite's and PostgreSQL's alike.

A line of JSON for each row, gzipped; the first says what follows. It holds the signing key, password hashes and known
truth: whoever reads it is an admin.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.desk.store.database import Database, newest_revision
from crlhf_ray.feedback.desk.store.models import Base

KIND = "crlhf_ray annotation server"
#: Rows that are read or written at a time.
ROWS = 2000


def back_up(database: Database, out: Path) -> Counter[str]:
    """Write what the database holds at one moment, also while the server works; returns rows by table.

    Raises ConfigError where the file is there already or its folder is not, and where the database is of another
    version's schema.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: name another file")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}: make it, or name another file")
    partial = out.with_name(out.name + ".partial")
    partial.unlink(missing_ok=True)
    # Made here, so that nobody but its owner can ever read it.
    file = os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
    try:
        with file:
            counts = _write(database, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return counts


def _write(database: Database, file: IO[bytes]) -> Counter[str]:
    counts = Counter[str]()
    snapshot = {} if database.sqlite else {"isolation_level": "REPEATABLE READ"}
    with gzip.open(file, "wt", encoding="utf-8") as lines, database.engine.connect() as connection:
        connection = connection.execution_options(**snapshot)
        if (found := _revision(connection)) != newest_revision():
            raise ConfigError(
                f"the database is of schema {found}, and this version has {newest_revision()}: use the version that "
                "the server runs, or start this one's server on it first"
            )
        lines.write(json.dumps({"kind": KIND, "revision": _revision(connection)}) + "\n")
        for table in Base.metadata.sorted_tables:
            for row in connection.execution_options(yield_per=ROWS).execute(sa.select(table)).mappings():
                lines.write(json.dumps({"table": table.name, "row": dict(row)}) + "\n")
                counts[table.name] += 1
        lines.write(json.dumps({"end": counts.total()}) + "\n")
    return counts


def restore(database: Database, file: Path) -> Counter[str]:
    """Fill a database that is empty, all or nothing; returns rows by table. The server must not run on it.

    Raises ConfigError where it is not empty, and DataError for a file that is not a whole backup of this version.
    """
    counts = Counter[str]()
    with database.write() as session:
        if filled := [
            t.name
            for t in Base.metadata.sorted_tables
            if session.scalar(sa.select(sa.literal(1)).select_from(t).limit(1))
        ]:
            raise ConfigError(f"the database is not empty ({filled[0]} has rows): name a new dir or database")
        revision = _revision(session.connection())
        tables = {table.name: table for table in Base.metadata.sorted_tables}
        waiting: list[dict[str, Any]] = []
        last = None
        for name, row in _rows(file, revision):
            if name not in tables:
                raise DataError(f"there is no table {name!r}: it is a backup of another version", file=str(file))
            if waiting and (name != last or len(waiting) == ROWS):
                session.execute(sa.insert(tables[str(last)]), waiting)
                waiting = []
            waiting.append(row)
            last = name
            counts[name] += 1
        if waiting:
            session.execute(sa.insert(tables[str(last)]), waiting)
        if not database.sqlite:
            for table in tables.values():
                _count_on(session.connection(), table)
    return counts


def _revision(connection: sa.Connection) -> str:
    return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))


def _rows(file: Path, revision: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(table, row) of a whole backup. Raises DataError for anything else."""
    count, whole = 0, False
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            head = json.loads(next(lines, "{}"))
            if head.get("kind") != KIND:
                raise DataError("this is not a backup of an annotation server", file=str(file))
            if head["revision"] != revision:
                problem = f"it is of schema {head['revision']}, and this version has {revision}: restore it with the "
                raise DataError(f"{problem}version that made it, then start this one there", file=str(file))
            for line in lines:
                record = json.loads(line)
                if "end" in record:
                    whole = record["end"] == count
                    break
                count += 1
                yield record["table"], record["row"]
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"this is not a whole backup of an annotation server ({error})", file=str(file)) from error
    if not whole:
        raise DataError(f"it is cut off after {count} rows: take another backup", file=str(file))


def _count_on(connection: sa.Connection, table: sa.Table) -> None:
    """PostgreSQL numbers rows by a sequence, which knows nothing of rows that came with their numbers."""
    column = table.autoincrement_column
    if column is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        highest = sa.select(sa.func.max(column)).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, sa.func.coalesce(highest, 1))))
