"""A server that is killed while outcomes are posted loses nothing that it acknowledged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import pytest

from adapters.experiments import Phase
from adapters.registry import Registry
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.conftest import EXPERIMENT
from tests.waiting import wait

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("KILLS", "2"))
POSTERS = 3


@contextmanager
def running(registry: Registry, url: str) -> Iterator[str]:
    """Run a server; kill it as the kernel does when memory runs out."""
    command = [sys.executable, "-m", "tests.serve.experiments.killed_server"]
    server = subprocess.Popen(
        [*command, registry.location, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.communicate()


def answered(here: str, url: str, said: str) -> dict[str, str]:
    """Ask for an answer; return what names it, once the store knows it."""
    content = {"model": "support", "messages": [], "user": "ann"}
    reply = httpx.post(f"{here}/v1/chat/completions", json=content)
    request_id = reply.headers["x-request-id"]
    store = SqlStore(url)
    wait(lambda: store.exposure(request_id))  # exposures are not acknowledged
    store.close()
    return {
        "token": {"token": reply.headers["x-assignment"]},
        "id": {"id": f"chatcmpl-{request_id}"},
    }[said]


class Poster(threading.Thread):
    """Posts outcomes until the server is gone."""

    def __init__(self, here: str, name: str, answer: dict[str, str]) -> None:
        super().__init__(name=name)
        self._here, self._answer = here, answer
        self.acknowledged: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._here) as http:
            for number in count():
                key = f"{self.name}-{number}"
                outcome = {"metric": "stars", "value": number, "idempotency_key": key}
                try:
                    reply = http.post("/v1/feedback", json={**outcome, **self._answer})
                except httpx.TransportError:
                    return
                assert reply.json()["results"] == [{"status": "recorded"}]
                self.acknowledged.append(key)


@pytest.mark.parametrize("said", ["token", "id"])
def test_what_was_acknowledged_over_http_is_there_whenever_the_server_is_killed(
    registry: Registry, phase: Phase, tmp_path: Path, said: str
) -> None:
    """KILLS=100 in the environment asks for more instants."""
    url = f"sqlite:///{tmp_path}/kept.db"
    chance, answer = random.Random(6), dict[str, str]()
    posters: list[Poster] = []
    for turn in range(KILLS):
        with running(registry, url) as here:
            answer = answer or answered(here, url, said)
            posting = [Poster(here, f"{turn}-{n}", answer) for n in range(POSTERS)]
            for poster in posting:
                poster.start()
            for poster in posting:
                wait(partial(bool, poster.acknowledged))
            time.sleep(chance.uniform(0, 0.05))
        for poster in posting:
            poster.join()
        posters += posting
    acknowledged = [key for poster in posters for key in poster.acknowledged]
    store = SqlStore(url)
    kept = [each.key for each in store.outcomes(EXPERIMENT)]
    store.close()
    assert len(set(kept)) == len(kept)
    assert set(acknowledged) <= set(kept)
    assert len(kept) <= len(acknowledged) + len(posters), "at most one each was on its way"
