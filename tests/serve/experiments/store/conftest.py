"""Each test of the store runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.postgres import OwnPostgres, Postgres, binaries

Open = Callable[[], SqlStore]


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[OwnPostgres]:
    """A server of the tests' own, that they may kill."""
    folder = binaries()
    if folder is None:
        _untested("no initdb and postgres on this machine")
    server = OwnPostgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Postgres:
    if url := os.environ.get("DATABASE_URL"):
        return Postgres(url.replace("postgresql+psycopg://", "postgresql://"))
    server: Postgres = request.getfixturevalue("own_postgres")
    return server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Name a database that is empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a b%20?/experiments.db".replace("?", "")
        return
    server: Postgres = request.getfixturevalue("postgres")
    made = server.database()
    yield made
    server.drop(made)


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Return what opens the database as another process would; closes what it opened."""
    stores: list[SqlStore] = []

    def opening() -> SqlStore:
        stores.append(SqlStore(url))
        return stores[-1]

    yield opening
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> SqlStore:
    return opened()


def _untested(why: str) -> None:
    """Skip, loudly, or fail where that was asked for."""
    said = f"POSTGRESQL IS NOT TESTED: {why}, and DATABASE_URL names none"
    if os.environ.get("REQUIRE_POSTGRES"):
        pytest.fail(said)
    pytest.skip(said)
