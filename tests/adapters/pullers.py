"""A process that pulls from the Hub and is killed in the midst of it, many times over.

Run as a script it is a process without threads: `FOLDER KILLS`. Each machine, a cache and a
registry below FOLDER, pulls every version there is; a killed one goes on at the next turn. Prints
how many machines came to the end, each looked through.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from huggingface_hub import constants

from adapters.housekeeping import Housekeeping
from adapters.transfer import transfer
from tests.hub.server import ORG

NAME = "support"


def pull_all(machine: Path) -> None:
    """Bring every version to a machine's registry, as `adapters pull` does."""
    source, target = Housekeeping.open(f"hf://{ORG}"), Housekeeping.open(machine / "registry")
    for version in source.versions(NAME):
        transfer(source, version.ref, target)


def torn(machine: Path) -> list[str]:
    """Return the versions that are not as they were published, on a machine that may be new."""
    return [
        each.version for each in Housekeeping.open(machine / "registry").examine() if each.damage
    ]


def left(machine: Path) -> list[str]:
    """Return what is neither a version nor a lock nor a journal."""
    found = [*machine.rglob(".staging-*"), *machine.rglob(".*.part"), *machine.rglob(".*.json")]
    return [str(path) for path in found]


def kill(place: Path, kills: int) -> int:
    """Kill a puller `kills` times; return how many machines came to the end."""
    chance, ended = random.Random(7), 0
    constants.DOWNLOAD_CHUNK_SIZE = 1024  # so that small files, too, come in pieces
    pull_all(_machine(place, "first"))  # imports what a pull imports, before the first fork
    began = time.monotonic()
    pull_all(_machine(place, "second"))
    takes_s = time.monotonic() - began
    for _ in range(kills):
        machine = _machine(place, str(ended))
        child = os.fork()
        if not child:
            pull_all(machine)
            os._exit(0)
        time.sleep(chance.uniform(0, takes_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert not torn(machine), torn(machine)
        if not os.WIFSIGNALED(status):
            assert not os.WEXITSTATUS(status)
            ended += _look_through(machine)
    pull_all(_machine(place, str(ended)))
    return ended + _look_through(place / str(ended))


def _machine(place: Path, name: str) -> Path:
    os.environ["ADAPTERS_HOME"] = str(place / name / "home")
    return place / name


def _look_through(machine: Path) -> int:
    """Check a machine that has pulled everything; return 1."""
    registry = Housekeeping.open(machine / "registry")
    versions = registry.versions(NAME)
    assert not torn(machine)
    assert [v.manifest.digest for v in versions] == [
        v.manifest.digest for v in Housekeeping.open(f"hf://{ORG}").versions(NAME)
    ]
    registry.receive(versions[0])  # the next that writes clears up after those that were killed
    assert not left(machine), left(machine)
    return 1


if __name__ == "__main__":
    print(kill(Path(sys.argv[1]), int(sys.argv[2])))
