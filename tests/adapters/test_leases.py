"""Leases: who is believed to run, and what is believed to be held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import RegistryUnavailable
from adapters.leases import Holding, Lease, leases, sweep

SERVER = """
import sys
from adapters.leases import Holding
Holding(sys.argv[1]).renew(["support@v1+1a2b3c4d5e6f"])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def change(place: str) -> Callable[..., None]:
    """Change fields of the one lease there is."""

    def change(**fields: Any) -> None:
        (path,) = (Path(place) / "leases").glob("*.json")
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))

    return change


def test_a_lease_says_who_holds_what(place: str) -> None:
    assert leases(place) == []
    holding = Holding(place)
    holding.renew(["b@v1+000000000000", "a@v1+000000000000"])
    (lease,) = leases(place)
    assert lease.holds == ("a@v1+000000000000", "b@v1+000000000000")
    assert lease.pid == os.getpid()
    assert str(os.getpid()) in lease.holder
    holding.renew([])
    assert leases(place)[0].holds == ()
    holding.end()
    holding.end()
    assert list((Path(place) / "leases").iterdir()) == []


def test_a_lease_ends_with_its_process(place: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout
    assert server.stdout.readline() == b"held\n"
    assert [lease.pid for lease in leases(place)] == [server.pid]
    server.kill()
    server.wait()
    assert leases(place) == []
    assert len(list((Path(place) / "leases").iterdir())) == 1
    sweep(place)
    assert list((Path(place) / "leases").iterdir()) == []


def test_a_process_id_that_came_again_is_another_process(
    place: str, change: Callable[..., None]
) -> None:
    Holding(place).renew([])
    change(start=1)
    assert leases(place) == []


def test_a_server_that_is_silent_but_runs_still_holds(
    place: str, change: Callable[..., None]
) -> None:
    Holding(place).renew([])
    change(renewed_at=0.0)
    assert len(leases(place)) == 1


def test_of_another_machine_only_silence_is_known(place: str, change: Callable[..., None]) -> None:
    Holding(place).renew([])
    change(machine="another boot", pid=1, start=1)
    assert len(leases(place)) == 1
    sweep(place)
    assert len(leases(place)) == 1
    change(renewed_at=time.time() - 3600)
    assert leases(place) == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"holds": 1}', '{"holds": []}', "\ufffe"])
def test_a_lease_that_is_none_is_said(place: str, content: str) -> None:
    Holding(place).renew([])
    (path,) = (Path(place) / "leases").glob("*.json")
    path.write_text(content)
    with pytest.raises(RegistryUnavailable, match="Remove the file if its server"):
        leases(place)


def test_a_hostile_lease_is_said_at_once(place: str, change: Callable[..., None]) -> None:
    Holding(place).renew([])
    (path,) = (Path(place) / "leases").glob("*.json")
    change(holds=[7])
    for hostile in (
        lambda: None,
        lambda: os.truncate(path, 10 << 30),
        lambda: (path.unlink(), os.mkfifo(path)),
        lambda: (path.unlink(), path.symlink_to("/dev/zero")),
    ):
        hostile()
        with pytest.raises(RegistryUnavailable, match="Remove the file if its server"):
            leases(place)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryUnavailable, match="Cannot write a lease"):
        Holding(str(tmp_path / "file")).renew([])


def test_what_is_held_of_a_registry_on_the_hub_is_said_on_this_machine() -> None:
    with Holding("hf://org") as holding:
        holding.renew(["a@v1+000000000000"])
        assert [lease.holds for lease in leases("hf://org")] == [("a@v1+000000000000",)]
        assert leases("hf://other") == []
    assert leases("hf://org") == []


def test_a_zombie_holds_nothing() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    start = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19])
    here = Holding("hf://org")._lease
    assert not Lease("host", here.machine, child, start, time.time(), ()).alive()
    os.waitpid(child, 0)
