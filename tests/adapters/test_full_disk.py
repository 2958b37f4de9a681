"""A disk that is full: a clear error or a whole change, and then on as before."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.errors import RegistryUnavailable
from adapters.files import differences
from adapters.housekeeping import Housekeeping
from tests.conftest import BASE, MakeAdapter
from tests.hub.server import ORG, Hub

ROOT = Path(__file__).parents[2]
VERBS: dict[str, Callable[[Housekeeping, Path], object]] = {
    "publish": lambda house, folder: house.publish("support", folder, base=BASE),
    "promote": lambda house, _: house.promote("support@v2"),
    "retire": lambda house, _: house.retire("support@v2"),
    "delete": lambda house, _: house.delete("support@v2"),
    "protect": lambda house, _: house.protect("support", "production"),
}
State = tuple[list[int], dict[str, int], list[int], list[str]]


def state(location: str) -> State:
    """Return what can be seen of `support`, each version verified."""
    house = Housekeeping.open(location)
    assert [verdict.damage for verdict in house.examine() if verdict.damage] == []
    return (
        [version.number for version in house.versions("support")],
        house.aliases("support"),
        sorted(house.standings("support")),
        house.protected("support"),
    )


AFTER: dict[str, State] = {
    "publish": ([1, 2, 3], {"production": 1}, [], []),
    "promote": ([1, 2], {"production": 2}, [], []),
    "retire": ([1, 2], {"production": 1}, [2], []),
    "delete": ([1], {"production": 1}, [], []),
    "protect": ([1, 2], {"production": 1}, [], ["production"]),
}
BEFORE: State = ([1, 2], {"production": 1}, [], [])


def prepare(place: Path, folder: Path) -> Housekeeping:
    house = Housekeeping.open(place)
    for _ in range(2):
        house.publish("support", folder, base=BASE)
    house.promote("support@v1")
    return house


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 4096):
                pass
        except OSError:
            return


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_on_a_full_disk_a_verb_is_done_or_refused(
    small_disk: Path, make_adapter: MakeAdapter, verb: str
) -> None:
    folder = make_adapter()
    house = prepare(small_disk / "registry", folder)
    fill(small_disk / "filler")
    said = ""
    try:
        VERBS[verb](house, folder)
    except RegistryUnavailable as error:
        said = str(error)
    if said:
        assert "No space left on device" in said
        assert "Free some space" in said
    seen = state(house.location)
    assert seen in (BEFORE, AFTER[verb])
    if verb in ("publish", "delete"):
        assert said, "there is no room for that"
        assert seen == BEFORE
    (small_disk / "filler").unlink()
    if seen == BEFORE:
        VERBS[verb](house, folder)
    assert state(house.location) == AFTER[verb]
    house.publish("support", folder, base=BASE)
    assert list((small_disk / "registry").rglob(".staging-*")) == []


SCRIPT = """
import sys
from pathlib import Path
from adapters.errors import RegistryUnavailable
from adapters.housekeeping import Housekeeping
from tests.adapters.test_full_disk import VERBS
house = Housekeeping.open(sys.argv[1])
try:
    VERBS[sys.argv[2]](house, Path(sys.argv[3]))
except RegistryUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_where_no_byte_can_be_written_nothing_changes(
    tmp_path: Path, adapter_folder: Path, verb: str
) -> None:
    """A limit on the size of files stands in for the disk."""
    house = prepare(tmp_path / "registry", adapter_folder)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, house.location, verb, str(adapter_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 0, done.stderr
    assert "Cannot write the registry at" in done.stdout
    assert "File too large" in done.stdout
    assert state(house.location) == BEFORE
    VERBS[verb](house, adapter_folder)
    assert state(house.location) == AFTER[verb]
    assert list((tmp_path / "registry").rglob(".staging-*")) == []


# -- what is fetched from the Hub ---------------------------------------------------------------


def test_a_version_of_the_hub_that_finds_no_room_here_is_fetched_once_there_is(
    hub: Hub, small_disk: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    Housekeeping.open(f"hf://{ORG}").publish("support", make_adapter(), base=BASE)
    home = small_disk / "home"
    monkeypatch.setenv("ADAPTERS_HOME", str(home))
    manifest = Housekeeping.open(f"hf://{ORG}").resolve("support").manifest
    fill(small_disk / "filler")
    with pytest.raises(RegistryUnavailable, match=r"No space left on device.*Free some space"):
        _ = Housekeeping.open(f"hf://{ORG}").resolve("support").path
    assert not [each for each in home.rglob("*") if re.fullmatch("[0-9a-f]{40}", each.name)]
    (small_disk / "filler").unlink()
    path = Housekeeping.open(f"hf://{ORG}").resolve("support").path
    assert differences(path, manifest.files) == []
    assert list(home.rglob("*.part")) == []


def test_a_pull_into_a_registry_without_room_leaves_nothing_torn(
    hub: Hub, small_disk: Path, make_adapter: MakeAdapter
) -> None:
    source = Housekeeping.open(f"hf://{ORG}")
    version = source.publish("support", make_adapter(), base=BASE)
    target = prepare(small_disk / "registry", make_adapter(seed=1))
    fill(small_disk / "filler")
    with pytest.raises(RegistryUnavailable, match=r"Cannot write the registry at.*Free some space"):
        target.receive(version)
    assert state(target.location) == BEFORE
    (small_disk / "filler").unlink()
    assert target.receive(version).number == 3
    assert list((small_disk / "registry").rglob(".staging-*")) == []


def test_a_cache_that_cannot_be_written_serves_what_is_in_it(
    hub: Hub, small_disk: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERS_HOME", str(small_disk / "home"))
    house = Housekeeping.open(f"hf://{ORG}")
    house.publish("support", make_adapter(), base=BASE)
    assert house.resolve("support").manifest
    other = Housekeeping.open(f"hf://{ORG}")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert other.verify("support").path.is_dir()
    with pytest.raises(RegistryUnavailable, match=r"Read-only file system.*ADAPTERS_HOME"):
        other.publish("support", make_adapter(seed=1), base=BASE)
    assert [version.number for version in other.versions("support")] == [1]
