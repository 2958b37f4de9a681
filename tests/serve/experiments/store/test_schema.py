"""How a store is opened: by which URLs, with which tables, for whose eyes."""

from __future__ import annotations

import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from adapters.errors import MissingExtra, Unavailable, UsageError
from adapters.home import home
from serve.experiments.store.database import Database
from serve.experiments.store.schema import MIGRATIONS, VERSION_TABLE
from serve.experiments.store.sql import SqlStore
from serve.experiments.store.tables import metadata
from tests.serve.experiments.store.conftest import Open
from tests.serve.experiments.store.postgres import Postgres
from tests.serve.experiments.store.rows import EXPERIMENT, exposure, outcome

_SERIALIZABLE = "default_transaction_isolation = serializable"


def test_migrations_make_the_tables_that_are_read_and_written(store: SqlStore) -> None:
    with store._database.transaction() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


_ROW_OF_0001 = """
INSERT INTO experiment_exposures (id, experiment, phase, arm, unit, probability, request_id, at_s,
                                  error, refusal, latency_ms, output_tokens, finish_reason)
VALUES ('5f5f', 'support/ab-1', 1, 'v1', 'ann', 0.5, 'r-ann', 1000, true, false, 12.5, 7, 'stop')
"""


def test_a_database_of_the_first_schema_is_brought_up_and_keeps_its_rows(
    url: str, opened: Open
) -> None:
    database = Database(url)
    with database.transaction() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0001")
        connection.exec_driver_sql(_ROW_OF_0001)
    database.engine.dispose()
    store = opened()
    measured = {"latency_ms": 12.5, "output_tokens": 7, "finish_reason": "stop"}
    before = exposure(id="5f5f", error=True, **measured, regenerate=False, source="user")
    assert list(store.exposures(EXPERIMENT)) == [before]
    store.expose([exposure("ben", regenerate=True, source="request", prompt_tokens=40)])
    kept = list(store.exposures(EXPERIMENT))
    assert [each.regenerate for each in kept] == [False, True]
    assert [each.prompt_tokens for each in kept] == [None, 40]


def test_a_schema_of_a_later_release_is_refused_and_left_as_it_is(
    store: SqlStore, opened: Open
) -> None:
    with store._database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(Unavailable, match=r"made by a later release \(schema 9999\)\. Upgrade"):
        opened()
    with store._database.transaction() as connection:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    assert found == "9999"


def test_by_default_it_is_a_file_of_the_home_for_its_owner_alone() -> None:
    store = SqlStore()
    store.record([outcome(comment="whoever said this")])
    files = [path for path in home().iterdir() if path.name.startswith("experiments.db")]
    written = [path for path in files if path.suffix != ".lock"]
    assert {path.name for path in written} >= {"experiments.db", "experiments.db-wal"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    store.close()


def test_sqlite_is_set_up_so_that_what_is_committed_outlives_the_power(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    asked = ("journal_mode", "synchronous", "foreign_keys")
    with store._database.transaction() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {each}").scalar() for each in asked]
    assert found == ["wal", 2, 1]
    store.close()


def test_postgresql_is_durable_where_its_default_is_not(postgres: Postgres) -> None:
    url = postgres.database()
    for setting, expected in [("off", "on"), ("remote_apply", "remote_apply")]:
        store = SqlStore(url)
        name = store.name.partition("?")[0].rpartition("/")[2]
        with store._database.transaction() as connection:
            for default in (f"synchronous_commit = {setting}", _SERIALIZABLE):
                connection.exec_driver_sql(f"ALTER DATABASE {name} SET {default}")
        store._database.engine.dispose()
        with store._database.transaction() as connection:
            found = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
            isolation = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
        assert (found, isolation) == (expected, "read committed")
        store.close()
    postgres.drop(url)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://user@host/database",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///a?b=c",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"Use sqlite:////path"):
        SqlStore(url)


def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lora-switchyard\[postgres\]'"):
        SqlStore("postgresql://ann@127.0.0.1:1/experiments")


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable) as refused:
        SqlStore("postgresql://ann:s3cret@127.0.0.1:1/experiments")
    assert "postgresql+psycopg://ann:***@127.0.0.1:1/experiments" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("content", [b"no database, and long enough to be looked at" * 50, None])
def test_what_is_no_database_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "experiments.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(Unavailable, match=r"choose another path|Check the path"):
        SqlStore(f"sqlite:///{path}")
    assert content is None or path.read_bytes() == content


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "experiments.db"
    store = SqlStore(f"sqlite:///{path}")
    store.record([outcome(number, key=str(number), comment="x" * 500) for number in range(500)])
    store.close()
    with path.open("r+b") as stream:
        stream.seek(4096 * 5)
        stream.write(b"\xff" * 4096 * 40)
    damaged = SqlStore(f"sqlite:///{path}")
    with pytest.raises(Unavailable, match=r"Restore it from a copy"):
        list(damaged.outcomes(EXPERIMENT))
    damaged.close()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "experiments.db"
    store = SqlStore(f"sqlite:///{path}")
    store.record([outcome()])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert len(list(store.outcomes(EXPERIMENT))) == 1
    writer.close()
    store.close()
