"""Brings a database's tables up to this release, whatever release made them."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection

from adapters.errors import Unavailable
from serve.experiments.store.database import Database

MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x5357_5953  # any number that nobody else in the database locks by
_LOCK_TIMEOUT_S = 30
VERSION_TABLE = "experiment_schema"
logging.getLogger("alembic").setLevel(logging.WARNING)  # else each start has lines of it


def bring_up(database: Database) -> None:
    """Run the migrations that a database lacks, in one transaction; one process at a time.

    Raises:
        Unavailable: the database is gone, full, or of a later release than this.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    lock = FileLock(f"{database.path}.lock", timeout=_LOCK_TIMEOUT_S) if database.path else None
    try:
        with lock or nullcontext():
            if database.path:
                _write_ahead(database)
            with database.transaction() as connection:
                if not database.path:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                if not _current(database, connection, scripts):
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
    except Timeout as error:
        raise Unavailable(
            f"{database.path} is being opened by another process for over {_LOCK_TIMEOUT_S} s.",
            fix="Look for a server that hangs, and end it.",
        ) from error


def _write_ahead(database: Database) -> None:
    """Have readers and the writer of a SQLite file not wait for each other; it stays so."""
    with database.told():
        raw = database.engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            raw.close()


def _current(database: Database, connection: Connection, scripts: ScriptDirectory) -> bool:
    """Say whether the schema is this release's.

    Raises:
        Unavailable: it is of a later release.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found, known = (
        context.get_current_revision(),
        {each.revision for each in scripts.walk_revisions()},
    )
    if found is not None and found not in known:
        raise Unavailable(
            f"{database.name} was made by a later release (schema {found}).",
            fix="Upgrade: pip install -U lora-switchyard. Or name another store.",
        )
    return found == scripts.get_current_head()
