"""Opening the database: SQLite by a file's path, PostgreSQL by its URL; the schema is brought up to date by Alembic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session, sessionmaker

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.store.models import Account

#: How long what is known of an account is good for, unless this process changes one.
ACCOUNT_SECONDS = 30.0
#: For so long a connection to PostgreSQL is trusted without asking, which is a round trip.
IDLE_SECONDS = 1.0
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Sessions on one database.

    url: SQLAlchemy's, such as ``sqlite:///folder/store.db`` or ``postgresql+psycopg://user@host/name``.
    migrated: bring the schema up to date; False leaves it as a server that may be running has it.
    Raises ConfigError where it cannot be opened.
    """

    def __init__(self, url: str, *, migrated: bool = True):
        self.sqlite = url.startswith("sqlite")
        if not self.sqlite and not url.startswith("postgresql"):
            raise ConfigError(f"database {url!r}: give sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
        # As many as there are threads: who waits for a connection on the event loop makes everybody wait.
        self.engine = sa.create_engine(url, pool_size=25, max_overflow=25)
        self._one_writer = threading.Lock()
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
        else:
            sa.event.listen(self.engine, "checkin", _left_idle)
            sa.event.listen(self.engine, "checkout", self._still_there)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        # PostgreSQL reads see what is committed statement by statement: a transaction would be two more round trips.
        reading = self.engine if self.sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = sessionmaker(reading, expire_on_commit=False)
        self._accounts: dict[int, tuple[float, Account | None]] = {}
        self._accounts_changed = 0
        sa.event.listen(self._sessions, "after_flush", self._look_for_accounts)
        try:
            if migrated:
                migrate(self.engine)
        except sa.exc.OperationalError as error:
            raise ConfigError(f"the database cannot be opened: {str(error.orig).strip()}") from error

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction, committed (and on the disk) when the block ends.

        One at a time in this process: on PostgreSQL, too, that is quicker than many that wait for each other's rows.
        """
        # SQLite's own waiting sleeps, looks again, and lets the unlucky starve; it is left for other processes.
        with self._one_writer, self._sessions.begin() as session:
            session.connection(execution_options={"writes": True})
            yield session
            session.flush()
            changed = session.info.get("accounts", ())
        for account_id in changed:
            self._accounts_changed += 1
            self._accounts.pop(account_id, None)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading."""
        with self._readers() as session:
            yield session

    def account(self, account_id: int) -> Account | None:
        """An account, to read: every request asks who asks. As it is, or as it was at most `ACCOUNT_SECONDS` ago where
        another process changed it."""
        now, changed = time.monotonic(), self._accounts_changed
        at, account = self._accounts.get(account_id, (float("-inf"), None))
        if now - at > ACCOUNT_SECONDS:
            with self.read() as session:
                account = session.get(Account, account_id)
            if changed == self._accounts_changed:
                self._accounts[account_id] = now, account
        return account

    def _still_there(self, connection: Any, record: Any, _: Any) -> None:
        """Ask a connection that was idle for a while whether it is still there; its pool makes a new one if not."""
        idle = time.monotonic() - record.info.get("left_idle", float("inf"))
        if idle > IDLE_SECONDS:
            try:
                self.engine.dialect.do_ping(connection)
            except Exception as error:
                raise sa.exc.DisconnectionError("the connection to the database is gone") from error

    @staticmethod
    def _look_for_accounts(session: Session, _: Any) -> None:
        changed = {one.id for one in (*session.new, *session.dirty, *session.deleted) if isinstance(one, Account)}
        session.info.setdefault("accounts", set()).update(changed)

    def close(self) -> None:
        self.engine.dispose()


def newest_revision() -> str | None:
    """The schema that this version works on."""
    return ScriptDirectory.from_config(_migrations()).get_current_head()


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the schema up to date, or to a revision."""
    config = _migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _left_idle(_: Any, record: Any) -> None:
    record.info["left_idle"] = time.monotonic()


def _sqlite_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _sqlite_begin, not by the driver
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=30000",
        "foreign_keys=ON",
        "cache_size=-32768",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    # A writer that began as a reader would have to be refused when another one wrote meanwhile.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
