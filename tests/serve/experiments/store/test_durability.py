"""What was acknowledged is there, whoever is killed, and whatever goes away."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from adapters.errors import Unavailable
from serve.experiments.store.base import Receipt
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.conftest import Open
from tests.serve.experiments.store.postgres import OwnPostgres
from tests.serve.experiments.store.rows import EXPERIMENT, exposure, outcome

ROOT = Path(__file__).parents[4]
WRITERS = [sys.executable, "-m", "tests.serve.experiments.store.writers"]
KILLS = int(os.environ.get("KILLS", "4"))


def told(scenario: str, url: str, number: int) -> list[str]:
    command = [*WRITERS, scenario, url, str(number)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_writer_killed_at_any_instant_loses_nothing_acknowledged(url: str, opened: Open) -> None:
    """KILLS=200 in the environment asks for more instants."""
    acknowledged = told("kill", url, KILLS)
    store = opened()
    kept = [each.key for each in store.outcomes(EXPERIMENT)]
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(kept)
    assert len(set(kept)) == len(kept)
    exposed = {each.unit for each in store.exposures(EXPERIMENT)}
    assert set(kept) <= exposed, "each was exposed before"
    assert isinstance(store.record([outcome(unit="afterwards")])[0], Receipt)


def test_processes_that_open_an_empty_database_at_once_all_may(url: str, opened: Open) -> None:
    assert told("race", url, 5) == ["recorded"] + ["repeated"] * 4
    assert len(list(opened().exposures(EXPERIMENT))) == 5


def test_a_database_killed_at_any_instant_loses_nothing_acknowledged(
    own_postgres: OwnPostgres,
) -> None:
    """KILLS=200 in the environment asks for more instants."""
    url = own_postgres.database()
    store = SqlStore(url)
    acknowledged: list[str] = []
    refused: list[str] = []
    over = threading.Event()

    def post() -> None:
        number = 0
        while not over.is_set():
            try:
                store.record([outcome(number, key=str(number))])
            except Unavailable as error:
                refused.append(str(error))
                time.sleep(0.01)  # and again, under the same key
            else:
                acknowledged.append(str(number))
                number += 1

    chance = random.Random(23)
    poster = threading.Thread(target=post)
    with Recorder(store, interval_s=0.01, close_timeout_s=20) as recorder:
        poster.start()
        taken = 0
        for _ in range(max(2, KILLS // 2)):
            before = len(acknowledged)
            while len(acknowledged) < before + 5:
                time.sleep(0.005)
            for _ in range(50):
                taken += recorder.record(exposure(str(taken)))
            time.sleep(chance.uniform(0, 0.05))
            own_postgres.kill()
            own_postgres.start()
        before = len(acknowledged)
        while len(acknowledged) < before + 5:
            time.sleep(0.005)
        over.set()
        poster.join()
    assert (recorder.written, recorder.dropped) == (taken, 0)
    assert sorted(each.unit for each in store.exposures(EXPERIMENT)) == sorted(
        map(str, range(taken))
    )
    assert [each.key for each in store.outcomes(EXPERIMENT)] == acknowledged
    assert refused
    assert all("Is it there, and running?" in each for each in refused)
    store.close()
    own_postgres.drop(url)


def test_a_database_that_was_restarted_meanwhile_is_nobodys_trouble(
    own_postgres: OwnPostgres,
) -> None:
    url = own_postgres.database()
    store = SqlStore(url)
    store.record([outcome(key="1")])
    own_postgres.kill()
    own_postgres.start()
    store.record([outcome(key="2")])
    assert [each.key for each in store.outcomes(EXPERIMENT)] == ["1", "2"]
    store.close()
    own_postgres.drop(url)


def limited(store: SqlStore, pages: int) -> Engine:
    """Let a SQLite file grow no more than to so many pages."""
    engine = store._database.engine
    engine.dispose()
    event.listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages}"))
    return engine


def test_a_full_database_acknowledges_nothing_and_goes_on_once_there_is_room(
    tmp_path: Path,
) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    engine = limited(store, 20)
    acknowledged: list[str] = []

    def fill() -> None:
        while True:
            key = str(len(acknowledged))
            store.record([outcome("x" * 200, key=key, comment="y" * 1000)])
            acknowledged.append(key)

    with pytest.raises(Unavailable, match=r"full\. Make room on its disk"):
        fill()
    assert [each.key for each in store.outcomes(EXPERIMENT)] == acknowledged
    assert acknowledged
    engine.dispose()
    limited(store, 10_000)
    store.record([outcome(key="later")])
    assert [each.key for each in store.outcomes(EXPERIMENT)] == [*acknowledged, "later"]
    store.close()


def test_a_file_taken_away_is_not_written_as_if_it_were_there(tmp_path: Path) -> None:
    path = tmp_path / "experiments.db"
    store = SqlStore(f"sqlite:///{path}")
    store.record([outcome(key="1")])
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(Unavailable, match=r"was taken away"):
        store.record([outcome(key="2")])
    store._database.engine.dispose()
    with pytest.raises(Unavailable, match=r"unable to open"):
        store.record([outcome(key="3")])
    store.close()
    assert not path.exists(), "nor is another made in its place"
