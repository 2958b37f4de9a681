"""Every `RegistryBackend` the contract is run against, and writers in processes of their own.

Run as a script (`python -m tests.contract.registry_backends race|kill|… …`) it is a process
without threads, where forking is safe; it prints as JSON what its writers were told is done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from huggingface_hub import CommitOperationAdd, HfApi

from adapters.backends import RegistryBackend
from adapters.backends.hub import HubBackend
from adapters.backends.hub_calls import Calls
from adapters.backends.local import LocalBackend
from adapters.files import differences, digest, version_files
from adapters.types import BaseModel, File, Manifest
from tests.hub.server import ORG

NAME = "support"
JOURNAL = "aliases/production"
BASE = BaseModel("small", "sha256:" + "0" * 64, "1" * 64, "2" * 64, "3" * 64)


class Kind(Protocol):
    """One implementation, and the accidents that only it knows how to bring about."""

    crowd: tuple[int, int]
    """How many processes write at once, and how often each: as many as take seconds."""
    kill_within_s: float
    """About as long as it takes to publish and append."""

    def open(self, place: Path) -> RegistryBackend:
        """Open the registry at a place; as another process would, nothing is shared."""

    def tear(self, place: Path, name: str, journal: str, torn: bytes) -> None:
        """Leave what a writer leaves that dies within a line."""

    def spoil(self, place: Path, name: str, number: int) -> None:
        """Make the manifest of a version one that cannot be read."""


class Local:
    """A folder."""

    crowd = (8, 4)
    kill_within_s = 0.03

    def open(self, place: Path) -> RegistryBackend:
        return LocalBackend(place)

    def tear(self, place: Path, name: str, journal: str, torn: bytes) -> None:
        with (place / "adapters" / name / f"{journal}.jsonl").open("ab") as stream:
            stream.write(torn)

    def spoil(self, place: Path, name: str, number: int) -> None:
        manifest = place / "adapters" / name / f"v{number}" / "manifest.json"
        manifest.chmod(0o644)
        manifest.write_bytes(b"{")


class OnHub:
    """The Hub double that HF_ENDPOINT names; `place` plays no part, each test has a double."""

    crowd = (4, 2)
    kill_within_s = 0.15

    def open(self, place: Path) -> RegistryBackend:
        calls = Calls(ORG, patience_s=30, first_pause_s=0.01)
        return HubBackend(ORG, fresh_s=0, calls=calls)

    def tear(self, place: Path, name: str, journal: str, torn: bytes) -> None:
        """A commit is whole or not there: what comes nearest is a stranger's on the branch."""
        HfApi().create_commit(
            f"{ORG}/{name}",
            [CommitOperationAdd("alias.json", torn)],
            commit_message="Update alias.json",
            revision=journal.rpartition("/")[2],
        )

    def spoil(self, place: Path, name: str, number: int) -> None:
        """Somebody edits the manifest on the Hub's pages, elsewhere, and moves the tag there."""
        api, repo = HfApi(), f"{ORG}/{name}"
        api.create_branch(repo, branch="edited", revision=f"v{number}")
        spoiled = api.create_commit(
            repo,
            [CommitOperationAdd("manifest.json", b"{")],
            commit_message="Update manifest.json",
            revision="edited",
        )
        api.delete_tag(repo, tag=f"v{number}")
        api.create_tag(repo, tag=f"v{number}", revision=spoiled.oid)


KINDS: Mapping[str, Kind] = {"local": Local(), "hub": OnHub()}


def manifest(name: str, number: int, files: Mapping[str, File]) -> Manifest:
    """Return the smallest manifest; its id is its own, as the port asks."""
    now, own = "2026-01-01T00:00:00+00:00", secrets.token_hex(16)
    return Manifest(name, number, digest(files), own, now, files, BASE, {})


def publish(backend: RegistryBackend, folder: Path, name: str = NAME) -> int:
    """Publish a folder; return the number it was given."""
    return backend.publish(name, folder, version_files(folder), partial(manifest, name)).number


def race(kind: str, place: str, folder: str, writers: str, rounds: str) -> dict[str, list[int]]:
    """Let several processes publish, and then append, all at once."""
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(int(writers))
    told = fork.SimpleQueue()

    def write(writer: int) -> None:
        backend = KINDS[kind].open(Path(place))
        start.wait()
        for _ in range(int(rounds)):
            told.put(publish(backend, Path(folder)))
        start.wait()
        for turn in range(10 * int(rounds)):
            backend.append(NAME, JOURNAL, {"writer": writer, "turn": turn})

    processes = [fork.Process(target=write, args=(n,)) for n in range(int(writers))]
    for process in processes:
        process.start()
    numbers = [told.get() for _ in range(int(writers) * int(rounds))]
    for process in processes:
        process.join()
    return {"numbers": numbers}


def kill(kind: str, place: str, folder: str, kills: str) -> dict[str, list[int]]:
    """Kill a process that publishes and appends, at a random moment, many times over."""
    chance = random.Random(20)
    numbers: list[int] = []
    lines: list[int] = []
    for turn in range(int(kills)):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            backend = KINDS[kind].open(Path(place))
            os.write(writer, b"started\n")
            while True:
                os.write(writer, b"n %d\n" % publish(backend, Path(folder)))
                backend.append(NAME, JOURNAL, {"turn": turn})
                os.write(writer, b"l %d\n" % turn)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            # So many steps in, and a moment more: on a busy machine, too, some are done.
            steps = [stream.readline() for _ in range(chance.randint(1, 4))][1:]
            time.sleep(chance.uniform(0, KINDS[kind].kill_within_s))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told = [line.split() for line in [*steps, *stream]]
        numbers += [int(value) for what, value in told if what == b"n"]
        lines += [int(value) for what, value in told if what == b"l"]
    return {"numbers": numbers, "lines": lines}


def kill_deleting(kind: str, place: str, folder: str, kills: str) -> dict[str, list[int]]:
    """Kill a process that publishes and deletes again, at a random moment, many times over."""
    chance = random.Random(21)
    published: list[int] = []
    deleted: list[int] = []
    torn: list[int] = []
    for _ in range(int(kills)):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            backend = KINDS[kind].open(Path(place))
            os.write(writer, b"s 0\n")
            while True:
                number = publish(backend, Path(folder))
                os.write(writer, b"p %d\n" % number)
                backend.delete(NAME, number, {"why": "a test"})
                os.write(writer, b"d %d\n" % number)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            # So many steps in, and a moment more: on a busy machine, too, some are done.
            steps = [stream.readline() for _ in range(chance.randint(1, 4))][1:]
            time.sleep(chance.uniform(0, KINDS[kind].kill_within_s))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told = [line.split() for line in [*steps, *stream]]
        published += [int(value) for what, value in told if what == b"p"]
        deleted += [int(value) for what, value in told if what == b"d"]
        backend = KINDS[kind].open(Path(place))
        for number in backend.numbers(NAME):
            version = backend.open(NAME, number)
            if differences(version.path, version.manifest.files):
                torn.append(number)
    return {"published": published, "deleted": deleted, "torn": torn}


if __name__ == "__main__":
    scenario = {"race": race, "kill": kill, "kill_deleting": kill_deleting}[sys.argv[1]]
    print(json.dumps(scenario(*sys.argv[2:])))
