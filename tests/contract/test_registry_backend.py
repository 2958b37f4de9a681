"""What `RegistryBackend` promises, asked of every implementation through the port alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters.backends import RegistryBackend
from adapters.errors import Conflict, NotFound, RegistryUnavailable, UsageError
from adapters.files import differences, sha256_file, version_files
from adapters.types import File, Manifest
from tests.contract.registry_backends import JOURNAL, KINDS, NAME, Kind, manifest, publish

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def accidents(kind: str, request: pytest.FixtureRequest) -> Kind:
    if kind == "hub":
        request.getfixturevalue("hub")
    return KINDS[kind]


@pytest.fixture
def backend(accidents: Kind, place: Path) -> RegistryBackend:
    return accidents.open(place)


def start(scenario: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.contract.registry_backends", scenario]
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> dict[str, list[int]]:
    output, _ = process.communicate()
    assert process.returncode == 0
    return dict(json.loads(output))


def assert_whole(backend: RegistryBackend, number: int) -> None:
    version = backend.open(NAME, number)
    assert version.number == number
    assert version.manifest.files
    assert differences(version.path, version.manifest.files) == []


# -- versions ---------------------------------------------------------------------------------


def test_an_empty_registry(backend: RegistryBackend, place: Path) -> None:
    assert backend.names() == []
    assert backend.numbers(NAME) == []
    assert backend.read(NAME, JOURNAL) == []
    assert backend.journals(NAME, "aliases") == []
    with pytest.raises(NotFound, match="does not exist"):
        backend.open(NAME, 1)
    assert not place.exists(), "reading creates nothing"


def test_numbers_are_consecutive_from_one(
    backend: RegistryBackend, accidents: Kind, place: Path, adapter_folder: Path
) -> None:
    assert [publish(backend, adapter_folder) for _ in range(3)] == [1, 2, 3]
    assert publish(backend, adapter_folder, "tone") == 1
    other = accidents.open(place)
    assert publish(other, adapter_folder) == 4
    assert backend.numbers(NAME) == other.numbers(NAME) == [1, 2, 3, 4]
    assert backend.names() == ["support", "tone"]


def test_a_higher_number_may_be_asked_for_and_none_comes_twice(
    backend: RegistryBackend, adapter_folder: Path
) -> None:
    def ask(at_least: int) -> int:
        paths = ["adapter_config.json"]
        return backend.publish(
            NAME, adapter_folder, paths, partial(manifest, NAME), at_least=at_least
        ).number

    assert [ask(3), ask(1), ask(4), ask(9)] == [3, 4, 5, 9]
    backend.delete(NAME, 9, {})
    assert [ask(9), publish(backend, adapter_folder)] == [10, 11]
    assert backend.numbers(NAME) == [3, 4, 5, 10, 11]
    assert_whole(backend, 3)


def test_a_version_is_what_was_given(backend: RegistryBackend, adapter_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in adapter_folder.iterdir()}
    publish(backend, adapter_folder)
    version = backend.open(NAME, 1)
    given = manifest(NAME, 1, version.manifest.files)
    assert version.manifest == replace(given, publish_id=version.manifest.publish_id)
    assert {path: (version.path / path).read_bytes() for path in version.manifest.files} == before
    assert {path.name: path.read_bytes() for path in adapter_folder.iterdir()} == before
    assert_whole(backend, 1)


def test_only_the_paths_named_are_taken(backend: RegistryBackend, adapter_folder: Path) -> None:
    (adapter_folder / "notes.txt").write_text("mine")
    paths = ["adapter_config.json"]
    version = backend.publish(
        NAME, adapter_folder, paths, lambda n, files: manifest(NAME, n, files)
    )
    assert list(version.manifest.files) == paths
    assert_whole(backend, 1)


def test_a_version_without_weights_is_one_like_any_other(
    backend: RegistryBackend, accidents: Kind, place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "serving.json").write_text('{"system": "Be brief."}')

    def prompt(number: int, files: Mapping[str, File]) -> Manifest:
        chosen = {"system": "Be brief."}
        return replace(manifest(NAME, number, files), kind="prompt", serving=chosen)

    for _ in range(2):
        backend.publish(NAME, folder, version_files(folder), prompt)
    for reader in (backend, accidents.open(place)):
        assert_whole(reader, 2)
        found = reader.open(NAME, 2)
        assert (found.manifest.kind, list(found.manifest.files)) == ("prompt", ["serving.json"])
        assert found.manifest.serving == {"system": "Be brief."}
    backend.delete(NAME, 2, {})
    backend.sweep(NAME)
    assert backend.numbers(NAME) == [1]
    assert_whole(backend, 1)


def test_nothing_is_seen_of_a_version_before_it_is_whole(
    backend: RegistryBackend, accidents: Kind, place: Path, adapter_folder: Path
) -> None:
    seen: list[object] = []

    def look_while_it_is_written(number: int, files: Mapping[str, File]) -> Manifest:
        for reader in (backend, accidents.open(place)):
            seen.extend([reader.names(), reader.numbers(NAME)])
            with pytest.raises(NotFound):
                reader.open(NAME, number)
        return manifest(NAME, number, files)

    backend.publish(NAME, adapter_folder, ["adapter_config.json"], look_while_it_is_written)
    assert len(seen) >= 4
    assert [each for each in seen if each] == []
    assert backend.numbers(NAME) == [1]


def test_a_publication_that_fails_leaves_nothing(
    backend: RegistryBackend, adapter_folder: Path
) -> None:
    def fail(number: int, files: Mapping[str, File]) -> Manifest:
        raise KeyboardInterrupt

    def no_json(number: int, files: Mapping[str, File]) -> Manifest:
        return Manifest(
            NAME, number, "", "id", "", files, manifest(NAME, 1, {}).base, {"r": object}
        )

    with pytest.raises(KeyboardInterrupt):
        backend.publish(NAME, adapter_folder, ["adapter_config.json"], fail)
    with pytest.raises(UsageError, match="JSON"):
        backend.publish(NAME, adapter_folder, ["adapter_config.json"], no_json)
    assert backend.names() == []
    assert publish(backend, adapter_folder) == 1


def test_many_processes_write_at_once(
    backend: RegistryBackend, accidents: Kind, kind: str, place: Path, adapter_folder: Path
) -> None:
    writers, rounds = accidents.crowd
    process = start("race", kind, place, adapter_folder, writers, rounds)
    checked: set[int] = set()
    while process.poll() is None:  # readers see whole versions at every instant, and no gaps
        numbers = backend.numbers(NAME)
        assert numbers == list(range(1, len(numbers) + 1))
        for number in set(numbers) - checked:
            assert_whole(backend, number)
            checked.add(number)
    numbers = told(process)["numbers"]
    assert sorted(numbers) == list(range(1, writers * rounds + 1))
    assert backend.numbers(NAME) == sorted(numbers)
    lines = backend.read(NAME, JOURNAL)
    assert len(lines) == writers * 10 * rounds
    for writer in range(writers):
        turns = [line["turn"] for line in lines if line["writer"] == writer]
        assert turns == list(range(10 * rounds)), "no line is lost, each writer's are in order"


def test_many_threads_publish_one_name(backend: RegistryBackend, adapter_folder: Path) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(publish(backend, adapter_folder)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == backend.numbers(NAME) == [1, 2, 3, 4, 5, 6]


def test_a_killed_writer_leaves_a_whole_version_or_none(
    backend: RegistryBackend, kind: str, place: Path, adapter_folder: Path
) -> None:
    kills = 20
    done = told(start("kill", kind, place, adapter_folder, kills))
    numbers = backend.numbers(NAME)
    assert numbers == list(range(1, len(numbers) + 1)), "a kill uses up no number"
    assert set(done["numbers"]) <= set(numbers), "what was acknowledged is there"
    assert len(numbers) <= len(done["numbers"]) + kills
    for number in numbers:
        assert_whole(backend, number)
    turns = [line["turn"] for line in backend.read(NAME, JOURNAL)]
    assert turns == sorted(turns)
    for turn in range(kills):
        acknowledged = done["lines"].count(turn)
        assert acknowledged <= turns.count(turn) <= acknowledged + 1
    number = publish(backend, adapter_folder)  # no lock is left behind
    assert number in (len(numbers) + 1, len(numbers) + 2), "it may finish what the last one began"
    assert backend.numbers(NAME) == list(range(1, number + 1))
    backend.append(NAME, JOURNAL, {"turn": kills}, expect=len(turns))


def test_the_number_of_a_deleted_version_is_never_used_again(
    backend: RegistryBackend, accidents: Kind, place: Path, adapter_folder: Path
) -> None:
    for _ in range(2):
        publish(backend, adapter_folder)
    assert backend.open(NAME, 2).number == 2
    backend.delete(NAME, 2, {"why": "a test"})
    assert backend.numbers(NAME) == [1]
    for reader in (backend, accidents.open(place)):
        with pytest.raises(NotFound, match="was deleted"):
            reader.open(NAME, 2)
    assert publish(backend, adapter_folder) == 3
    accidents.open(place).delete(NAME, 1, {"why": "a test"})
    backend.delete(NAME, 3, {"why": "a test"})
    assert backend.names() == []
    assert publish(backend, adapter_folder) == 4


def test_only_what_is_there_can_be_deleted(
    backend: RegistryBackend, place: Path, adapter_folder: Path
) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        backend.delete(NAME, 1, {})
    assert not place.exists()
    publish(backend, adapter_folder)
    with pytest.raises(UsageError, match="JSON"):
        backend.delete(NAME, 1, {"why": float("nan")})
    assert_whole(backend, 1)
    backend.delete(NAME, 1, {})
    with pytest.raises(NotFound, match="was deleted"):
        backend.delete(NAME, 1, {})


def test_sweeping_leaves_what_is_whole(backend: RegistryBackend, adapter_folder: Path) -> None:
    assert backend.sweep(NAME) == 0
    for _ in range(2):
        publish(backend, adapter_folder)
    assert backend.sweep(NAME) == 0
    backend.delete(NAME, 1, {})
    backend.sweep(NAME)
    assert backend.sweep(NAME) == 0
    assert backend.numbers(NAME) == [2]
    assert_whole(backend, 2)


def test_the_bytes_of_a_deleted_version_stay_while_it_is_held(
    backend: RegistryBackend, adapter_folder: Path
) -> None:
    publish(backend, adapter_folder)
    version = backend.open(NAME, 1)
    path, files = version.path, version.manifest.files
    backend.delete(NAME, 1, {})
    assert publish(backend, adapter_folder) == 2
    backend.sweep(NAME, held={1})
    assert {name: sha256_file(path / name) for name in files} == {
        name: file.sha256 for name, file in files.items()
    }
    with pytest.raises(NotFound, match="was deleted"):
        backend.open(NAME, 1)


def test_a_version_that_cannot_be_read_hides_no_other_and_can_be_deleted(
    backend: RegistryBackend, accidents: Kind, place: Path, adapter_folder: Path
) -> None:
    for _ in range(3):
        publish(backend, adapter_folder)
    accidents.spoil(place, NAME, 2)
    reader = accidents.open(place)
    assert reader.numbers(NAME) == [1, 2, 3]
    with pytest.raises(RegistryUnavailable) as refused:
        reader.open(NAME, 2)
    assert refused.value.fix
    for number in (1, 3):
        assert_whole(reader, number)
    reader.delete(NAME, 2, {"why": "a test"})
    for each in (reader, accidents.open(place)):
        assert each.numbers(NAME) == [1, 3]
        with pytest.raises(NotFound, match="was deleted"):
            each.open(NAME, 2)
    assert publish(reader, adapter_folder) == 4


def test_a_killed_deletion_leaves_a_whole_version_or_none(
    backend: RegistryBackend, kind: str, place: Path, adapter_folder: Path
) -> None:
    """KILLS=200 in the environment asks for more instants."""
    kills = int(os.environ.get("KILLS", "20"))
    done = told(start("kill_deleting", kind, place, adapter_folder, kills))
    assert done["torn"] == []
    assert len(set(done["published"])) == len(done["published"]), "no number comes twice"
    assert done["published"] == sorted(done["published"])
    left = backend.numbers(NAME)
    assert set(left) & set(done["deleted"]) == set(), "what was said to be deleted stays so"
    assert len(left) <= kills
    number = publish(backend, adapter_folder)
    assert number > max([0, *done["published"], *left]), (
        "no number of a deleted version comes again"
    )
    backend.sweep(NAME)
    whole = backend.numbers(NAME)
    assert set(whole) >= {*left, number}
    assert set(whole) & set(done["deleted"]) == set()
    assert len(whole) <= len(left) + 2, "it may finish what the last one began"
    for each in whole:
        assert_whole(backend, each)


# -- journals ---------------------------------------------------------------------------------

LINES: list[dict[str, Any]] = [
    {"n": 1, "reason": "two\nlines, a tab\t, \u2028 and \r"},
    {"n": 2, "reason": "süß 🙂", "nested": {"list": [1, 2.5, None, True]}},
    {"n": 3, "reason": ""},
]


def test_a_journal_keeps_every_line_in_order(
    backend: RegistryBackend, accidents: Kind, place: Path
) -> None:
    for number, line in enumerate(LINES, 1):
        backend.append(NAME, JOURNAL, line)
        assert backend.read(NAME, JOURNAL) == LINES[:number]
        assert accidents.open(place).read(NAME, JOURNAL) == LINES[:number]
    backend.append(NAME, "aliases/canary", {"n": 9})
    backend.append(NAME, "log", {"n": 9})
    backend.append("tone", JOURNAL, {"n": 9})
    assert backend.read(NAME, JOURNAL) == LINES
    assert backend.journals(NAME, "aliases") == ["aliases/canary", "aliases/production"]
    assert backend.journals(NAME, "experiments") == []
    assert backend.names() == [], "journals alone make no adapter"


def test_a_reader_sees_what_another_process_appends(
    backend: RegistryBackend, accidents: Kind, place: Path
) -> None:
    writer = accidents.open(place)
    for number in range(1, 6):
        writer.append(NAME, JOURNAL, {"n": number})
        assert [line["n"] for line in backend.read(NAME, JOURNAL)] == list(range(1, number + 1))


def test_what_a_reader_does_with_its_lines_changes_none(backend: RegistryBackend) -> None:
    backend.append(NAME, JOURNAL, {"n": 1})
    backend.read(NAME, JOURNAL).clear()
    assert backend.read(NAME, JOURNAL) == [{"n": 1}]


@pytest.mark.parametrize(
    "torn", [b"{", b'{"n": 2, "reason": "cut sh', '{"n": 2, "r": "ü'.encode()[:-1]]
)
def test_a_torn_last_line_is_ignored_and_healed(
    backend: RegistryBackend, accidents: Kind, place: Path, torn: bytes
) -> None:
    backend.append(NAME, JOURNAL, {"n": 1})
    accidents.tear(place, NAME, JOURNAL, torn)
    for reader in (backend, accidents.open(place)):
        assert reader.read(NAME, JOURNAL) == [{"n": 1}]
    backend.append(NAME, JOURNAL, {"n": 3}, expect=1)
    for reader in (backend, accidents.open(place)):
        assert reader.read(NAME, JOURNAL) == [{"n": 1}, {"n": 3}]


def test_an_append_that_expects_another_state_is_a_conflict(
    backend: RegistryBackend, accidents: Kind, place: Path
) -> None:
    backend.append(NAME, JOURNAL, {"n": 1}, expect=0)
    accidents.open(place).append(NAME, JOURNAL, {"n": 2}, expect=1)
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="changed meanwhile"):
            backend.append(NAME, JOURNAL, {"n": 3}, expect=stale)
    assert backend.read(NAME, JOURNAL) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_a_line_that_is_no_json_is_refused(backend: RegistryBackend, value: object) -> None:
    with pytest.raises(UsageError, match="JSON"):
        backend.append(NAME, JOURNAL, {"n": value})
    assert backend.read(NAME, JOURNAL) == []


def test_writing_may_be_nested_and_is_let_go(
    backend: RegistryBackend, adapter_folder: Path
) -> None:
    with backend.writing(NAME):
        with backend.writing(NAME):
            backend.append(NAME, JOURNAL, {"n": 1})
        assert publish(backend, adapter_folder) == 1
    with pytest.raises(ZeroDivisionError), backend.writing(NAME):
        raise ZeroDivisionError
    backend.append(NAME, JOURNAL, {"n": 2})


def test_whether_it_can_be_written_is_found_out_beforehand(
    backend: RegistryBackend, adapter_folder: Path
) -> None:
    backend.check_writable()
    assert backend.names() == []
    assert publish(backend, adapter_folder) == 1
