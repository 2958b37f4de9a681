"""The database behind a URL: how it is opened, and what its troubles are called."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection

from adapters.errors import MissingExtra, Unavailable, UsageError
from adapters.files import make_folder
from adapters.home import home

_BUSY_S = 10
"""How long one writer waits for another."""
_POSTGRES: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "tcp_user_timeout": 10_000,
}
_FORMS = "Use sqlite:////path/to/experiments.db or postgresql+psycopg://user@host/database."


def located(url: str | None) -> URL:
    """Return what a URL names; None: `experiments.db` in $ADAPTERS_HOME.

    Raises:
        UsageError: it is no URL, of another kind of database, or one that is only in memory.
    """
    if url is None:
        return URL.create("sqlite", database=str(home() / "experiments.db"))
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise UsageError("The store's URL is no database URL.", fix=_FORMS) from error
    if found.drivername in ("postgresql", "postgresql+psycopg"):
        return found.set(drivername="postgresql+psycopg")
    if found.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise UsageError(f"Nothing is kept in {found.drivername[:40]}.", fix=_FORMS)
    if not found.database or found.database == ":memory:" or found.query:
        raise UsageError("The store's URL names no file.", fix=_FORMS)
    return found.set(database=str(Path(found.database).absolute()))


class Database:
    """Connections to one database, and transactions on them."""

    def __init__(self, url: str | None) -> None:
        """Connects to nothing yet, but makes SQLite's file, for its owner alone.

        Raises:
            UsageError: see `located`.
            MissingExtra: the driver for PostgreSQL is not installed.
            Unavailable: the file cannot be made.
        """
        found = located(url)
        self.name = found.render_as_string(hide_password=True)
        self.path = Path(found.database or "") if found.get_backend_name() == "sqlite" else None
        self._file: os.stat_result | None = None
        if self.path:
            self._make(self.path)
            self.engine = self._sqlite(self.path)
        else:
            self.engine = _postgres(found)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose changes are durable once the block has ended, or not there.

        Raises:
            Unavailable: the database is gone, full, locked or broken.
        """
        with self.told(), self.engine.begin() as connection:
            yield connection
        self._still_there()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say in our words what is wrong with the database."""
        try:
            yield
        except (IntegrityError, DataError):
            raise  # what was written is wrong, not the database
        except (DBAPIError, NoConnection, sqlite3.Error) as error:
            said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise Unavailable(f"{self.name}: {said}.", fix=_fix(said)) from error

    def _make(self, path: Path) -> None:
        try:
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            self._file = os.fstat(descriptor)
            os.close(descriptor)
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be opened: {error.strerror}.", fix="Check the path and its rights."
            ) from error

    def _sqlite(self, path: Path) -> Engine:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",  # a file that was taken away is not made anew
                uri=True,
                timeout=_BUSY_S,
                isolation_level=None,  # transactions begin where we say
                check_same_thread=False,
            )
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")  # what is committed outlives the power
            return connection

        engine = sqlalchemy.create_engine(
            "sqlite://", creator=connect, poolclass=sqlalchemy.QueuePool
        )

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            immediate = connection.get_execution_options().get("immediate")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

        return engine

    def _still_there(self) -> None:
        """Refuse to acknowledge what went into a file that somebody has taken away."""
        if not self.path or not self._file:
            return
        try:
            same = os.path.samestat(self._file, os.stat(self.path))
        except OSError:
            same = False
        if not same:
            raise Unavailable(
                f"{self.path} was taken away while it was in use.",
                fix="Put it back as it was, its -wal file beside it, and restart the server.",
            )


def _postgres(url: URL) -> Engine:
    try:
        engine = sqlalchemy.create_engine(
            url,
            connect_args=_POSTGRES,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",  # what was there before is looked at after the insert
        )
    except ImportError as error:
        raise MissingExtra(
            "The driver for PostgreSQL is not installed.",
            fix="pip install 'lora-switchyard[postgres]'",
        ) from error

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _: object) -> None:
        """Acknowledged means durable, although the server may have been told otherwise."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()

    return engine


def _fix(said: str) -> str:
    """Return what to do about what a database said."""
    known = {
        "full": "Make room on its disk; nothing that was acknowledged is lost.",
        "No space left": "Make room on its disk; nothing that was acknowledged is lost.",
        "locked": "Another process holds it for long: end that one, or use PostgreSQL.",
        "disk I/O error": "Look after its disk; what was acknowledged should be there.",
        "malformed": "Restore it from a copy.",
        "not a database": "It is some other file: choose another path.",
        "permission denied": "GRANT CREATE ON SCHEMA public, or give the file's owner its rights.",
        "readonly": "Give the server the right to write it.",
    }
    return next((fix for words, fix in known.items() if words in said), "Is it there, and running?")
