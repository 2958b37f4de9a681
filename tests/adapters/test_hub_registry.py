"""The registry on the Hub: what is beyond the contract of all backends.

Accidents on the way, aliases as branches for other tools, the cache, and what is never said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from adapters.backends import backend_for
from adapters.backends.hub import HubBackend
from adapters.backends.hub_calls import Calls
from adapters.errors import (
    Conflict,
    InvalidAdapter,
    InvalidName,
    NotFound,
    RegistryUnavailable,
    UsageError,
)
from adapters.files import differences
from adapters.housekeeping import Housekeeping
from adapters.registry import Registry
from adapters.transfer import transfer
from tests.conftest import BASE, MakeAdapter
from tests.contract.registry_backends import JOURNAL, NAME, publish
from tests.hub.faults import Fault
from tests.hub.server import ORG, READ_TOKEN, WRITE_TOKEN, Hub

REPO = f"{ORG}/{NAME}"
ROOT = Path(__file__).parents[2]


def new_backend(*, patience_s: float = 30, fresh_s: float = 0) -> HubBackend:
    return HubBackend(
        ORG, fresh_s=fresh_s, calls=Calls(ORG, patience_s=patience_s, first_pause_s=0.005)
    )


@pytest.fixture
def backend(hub: Hub) -> HubBackend:
    return new_backend()


@pytest.fixture
def registry(backend: HubBackend) -> Registry:
    return Registry(backend)


def titles(revision: str = "main") -> list[str]:
    return [commit.title for commit in reversed(HfApi().list_repo_commits(REPO, revision=revision))]


def tags() -> dict[str, str]:
    return {ref.name: ref.target_commit for ref in HfApi().list_repo_refs(REPO).tags}


# -- accidents --------------------------------------------------------------------------------

ACCIDENTS = [
    Fault("status", status=409),
    Fault("status", status=412),
    Fault("status", status=429, retry_after_s=0.01),
    Fault("status", status=500),
    Fault("lost request"),
    Fault("lost reply"),
    Fault("lost reply", path="/commit/", times=2),
    Fault("lost reply", path="/(tag|branch)/"),
    Fault("status", path="/(tag|branch)/", status=503),
    Fault("status", path="/(tag|branch)/", status=409),
    Fault("status", path="/repos/create", status=409),
    Fault("status", "GET", "/(refs|tree|commits)", 3, status=502),
    Fault("lost reply", path="/repos/create"),
]


@pytest.mark.parametrize("fault", ACCIDENTS, ids=lambda f: f"{f.kind} {f.status} {f.path}")
def test_what_an_accident_interrupts_is_done_once(
    backend: HubBackend, hub: Hub, adapter_folder: Path, fault: Fault
) -> None:
    hub.faults.add(Fault(**vars(fault)))
    assert publish(backend, adapter_folder) == 1
    hub.faults.add(Fault(**vars(fault)))
    backend.append(NAME, JOURNAL, {"n": 1}, expect=0)
    assert hub.faults.happened
    assert titles() == ["initial commit", "support@v1"]
    assert backend.numbers(NAME) == [1]
    assert backend.read(NAME, JOURNAL) == [{"n": 1}]
    assert len(titles("production")) == 2


def test_several_writers_under_accidents_publish_each_version_once(
    hub: Hub, adapter_folder: Path
) -> None:
    publish(new_backend(), adapter_folder)
    hub.faults.draw_by_chance(0.3, seed=5)
    numbers: list[int] = []
    writers, rounds = 6, 3

    def write(writer: int) -> None:
        backend = new_backend(patience_s=60)
        for turn in range(rounds):
            numbers.append(publish(backend, adapter_folder))
            backend.append(NAME, JOURNAL, {"writer": writer, "turn": turn})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hub.faults.draw_by_chance(0, seed=0)
    assert hub.faults.happened > writers
    backend = new_backend()
    last = 1 + writers * rounds
    assert sorted(numbers) == list(range(2, last + 1))
    assert backend.numbers(NAME) == list(range(1, last + 1))
    assert titles()[1:] == [f"support@v{n}" for n in range(1, last + 1)], "one commit each"
    for number in backend.numbers(NAME):
        version = backend.open(NAME, number)
        assert differences(version.path, version.manifest.files) == []
    lines = backend.read(NAME, JOURNAL)
    assert len(lines) == writers * rounds
    for writer in range(writers):
        assert [x["turn"] for x in lines if x["writer"] == writer] == list(range(rounds))


def test_sixteen_processes_under_accidents_get_sixteen_numbers(
    hub: Hub, adapter_folder: Path, tmp_path: Path
) -> None:
    hub.faults.draw_by_chance(0.3, seed=16)
    race = [sys.executable, "-m", "tests.contract.registry_backends", "race", "hub"]
    command = [*race, str(tmp_path), str(adapter_folder), "16", "1"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    hub.faults.draw_by_chance(0, seed=0)
    assert hub.faults.happened > 16
    assert sorted(json.loads(done.stdout)["numbers"]) == list(range(1, 17))
    assert titles()[1:] == [f"support@v{n}" for n in range(1, 17)]
    assert new_backend().numbers(NAME) == list(range(1, 17))
    lines = [(line["writer"], line["turn"]) for line in new_backend().read(NAME, JOURNAL)]
    assert sorted(lines) == [(writer, turn) for writer in range(16) for turn in range(10)]


def test_a_keeper_that_is_killed_leaves_nothing_torn_on_the_hub(
    hub: Hub, adapter_folder: Path
) -> None:
    """KILLS=200 in the environment asks for more instants."""
    keeper = [sys.executable, "-m", "tests.adapters.keepers", "kill", f"hf://{ORG}"]
    kills = os.environ.get("KILLS", "20")
    done = subprocess.run(
        [*keeper, str(adapter_folder), kills], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    published = [entry["done"] for entry in told if entry["verb"] == "publish"]
    deleted = {entry["done"] for entry in told if entry["verb"] == "delete"}
    house = Housekeeping(new_backend())
    house._backend.sweep(NAME)
    living = [version.number for version in house.versions(NAME)]
    buried = {int(tag.partition("-v")[2]) for tag in tags() if tag.startswith("_deleted-v")}
    assert len(set(published)) == len(published), "each number is given once"
    assert sorted({*living, *buried}) == list(range(1, max(living) + 1)), "one after another"
    assert not buried & set(living)
    assert set(published) <= {*living, *buried}
    assert deleted <= buried
    assert titles()[1:] == [f"support@v{n}" for n in range(1, max(living) + 1)], "one commit each"
    assert [verdict.damage for verdict in house.examine() if verdict.damage] == []
    assert set(house.aliases(NAME).values()) <= set(living)


def test_of_two_who_create_the_repo_at_once_each_gets_a_number(
    backend: HubBackend, hub: Hub, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, create = new_backend(), backend._calls.create_repo

    def overtaken(name: str, *, private: bool) -> None:
        assert publish(other, adapter_folder) == 1
        create(name, private=private)

    monkeypatch.setattr(backend._calls, "create_repo", overtaken)
    assert publish(backend, adapter_folder) == 2
    assert titles()[1:] == ["support@v1", "support@v2"]


def test_a_version_whose_writer_died_before_naming_it_is_named_by_the_next(
    backend: HubBackend, hub: Hub, adapter_folder: Path
) -> None:
    hub.faults.add(Fault("status", path="/tag/", status=403))
    with pytest.raises(RegistryUnavailable, match="403"):
        publish(backend, adapter_folder)
    assert backend.numbers(NAME) == []
    assert publish(new_backend(), adapter_folder) == 2
    assert backend.numbers(NAME) == [1, 2]
    hub.faults.add(Fault("status", path="/tag/", status=403))
    with pytest.raises(RegistryUnavailable, match="403"):
        publish(backend, adapter_folder)
    backend.sweep(NAME)
    assert backend.numbers(NAME) == [1, 2, 3]


def test_a_deletion_that_was_interrupted_stands_and_is_finished(
    backend: HubBackend, hub: Hub, adapter_folder: Path
) -> None:
    publish(backend, adapter_folder)
    hub.faults.add(Fault("status", "DELETE", "/tag/v1", status=403))
    with pytest.raises(RegistryUnavailable, match="403"):
        backend.delete(NAME, 1, {"why": "a test"})
    assert "v1" in tags()
    assert backend.numbers(NAME) == []
    with pytest.raises(NotFound, match="was deleted"):
        backend.open(NAME, 1)
    backend.sweep(NAME)
    assert set(tags()) == {"_deleted-v1"}
    assert backend.read(NAME, "tombstones") == [{"why": "a test", "version": 1}]


def test_the_hub_out_of_reach_is_said_so_in_time(hub: Hub, adapter_folder: Path) -> None:
    hub.faults.add(Fault("status", "GET", "/support/refs", 1000, status=503))
    with pytest.raises(RegistryUnavailable, match=r"503.*Wait a while"):
        publish(new_backend(patience_s=0.1), adapter_folder)
    hub.faults.add(Fault("lost request", "GET", "/other/refs", 1000))
    with pytest.raises(RegistryUnavailable, match="out of reach"):
        new_backend(patience_s=0.1).numbers("other")
    hub.faults.add(Fault("status", "POST", "/commit/", 1000, status=412))
    with pytest.raises(Conflict, match="other writers were first"):
        new_backend(patience_s=0.1).append("tone", JOURNAL, {})


def test_the_hubs_limit_is_waited_for_once(backend: HubBackend, hub: Hub) -> None:
    hub.faults.add(Fault("status", "GET", "/support/refs", status=429, reset_s=1))
    began = time.monotonic()
    assert backend.numbers(NAME) == []
    assert time.monotonic() - began >= 1
    assert [request for request in hub.requests if "refs" in request] == [
        f"GET /api/models/{REPO}/refs"
    ] * 2


# -- aliases and other tools ------------------------------------------------------------------


def test_whoever_loads_the_branch_of_an_alias_gets_its_version(
    registry: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folders = [make_adapter(seed=n) for n in range(2)]
    (folders[0] / "chat_template.jinja").write_text("{{ messages }}")
    for folder in folders:
        registry.publish(NAME, folder, base=BASE)

    def check(revision: str, folder: Path) -> None:
        local = Path(HfApi().snapshot_download(REPO, revision=revision, cache_dir=tmp_path / "hf"))
        theirs = {p.name for p in local.iterdir()} - {".gitattributes", "manifest.json"}
        ours = {path.name for path in folder.iterdir()}
        assert theirs - ours <= {"alias.json", "README.md"}
        for path in folder.iterdir():
            assert (local / path.name).read_bytes() == path.read_bytes()

    registry.promote(f"{NAME}@v1")
    check("production", folders[0])
    registry.promote(f"{NAME}@v2", reason="better")
    check("production", folders[1])
    registry.rollback(NAME)
    check("production", folders[0])
    check("v2", folders[1])
    expected = ["promote v1", "promote v2", "rollback v1"]
    assert titles("production")[1:] == [f"aliases/production: {said}" for said in expected]
    assert [move.reason for move in registry.history(NAME)] == ["", "better", ""]
    assert [entry.action for entry in registry.log(NAME)] == ["publish"] * 2 + [
        "promote",
        "promote",
        "rollback",
    ]


def test_an_alias_that_points_nowhere_any_more_holds_no_files(
    backend: HubBackend, adapter_folder: Path
) -> None:
    publish(backend, adapter_folder)
    for to in (1, None):
        backend.append(NAME, JOURNAL, {"to": to})
    left = HfApi().list_repo_files(REPO, revision="production")
    assert sorted(left) == [".gitattributes", "alias.json"]
    backend.append(NAME, JOURNAL, {"to": ["no", "number"]})
    assert [line["to"] for line in backend.read(NAME, JOURNAL)] == [1, None, ["no", "number"]]


def test_of_two_who_move_an_alias_upon_one_history_one_is_first(
    registry: Registry, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        registry.publish(NAME, adapter_folder, base=BASE)
    other = Registry(new_backend())
    history = registry.history

    def overtaken(*arguments: str) -> object:
        moves = history(*arguments)
        other.promote(f"{NAME}@v2")
        return moves

    monkeypatch.setattr(registry, "history", overtaken)
    with pytest.raises(Conflict, match="changed meanwhile"):
        registry.promote(f"{NAME}@v1")
    assert other.aliases(NAME) == {"production": 2}


def test_a_hub_that_shortens_messages_loses_no_line(backend: HubBackend, hub: Hub) -> None:
    lines = [{"n": 1, "evidence": "x" * 5000}, {"n": 2, "evidence": {}}]
    for line in lines:
        backend.append(NAME, JOURNAL, line)
    repo = hub.repos[REPO]
    for sha, commit in repo.commits.items():
        repo.commits[sha] = type(commit)(**{**vars(commit), "message": commit.message[:100]})
    assert new_backend().read(NAME, JOURNAL) == lines


@pytest.mark.parametrize("alias", ["main", "a..b", "ends.lock", "dot.", "0" * 40])
def test_an_alias_that_git_cannot_have_is_refused(backend: HubBackend, alias: str) -> None:
    assert backend.read(NAME, f"aliases/{alias}") == []
    with pytest.raises(InvalidName, match="no branch"):
        backend.append(NAME, f"aliases/{alias}", {})


def test_a_model_card_that_the_hub_refuses_is_said_so(
    backend: HubBackend, adapter_folder: Path
) -> None:
    (adapter_folder / "README.md").write_text("---\n: broken\n---\n")
    with pytest.raises(InvalidAdapter, match=r"support@v1.*README\.md"):
        publish(backend, adapter_folder)
    assert backend.numbers(NAME) == []


def test_names_that_the_hub_does_not_allow_are_refused(
    backend: HubBackend, adapter_folder: Path
) -> None:
    with pytest.raises(InvalidName, match="the Hub allows no such name"):
        publish(backend, adapter_folder, "sup--port")


# -- many repos ------------------------------------------------------------------------------


def test_repos_that_are_no_adapters_are_left_out(backend: HubBackend, adapter_folder: Path) -> None:
    HfApi().create_repo(f"{ORG}/a-model-of-theirs")
    HfApi().create_repo(f"{ORG}/NotAName")
    publish(backend, adapter_folder)
    assert backend.names() == [NAME]
    edit = CommitOperationAdd("notes.txt", b"by hand, on main")
    HfApi().create_commit(REPO, [edit], commit_message="by hand")
    assert publish(backend, adapter_folder) == 2
    assert "notes.txt" not in HfApi().list_repo_files(REPO, revision="v2")


def test_a_process_trusts_for_a_while_what_it_saw(hub: Hub, adapter_folder: Path) -> None:
    reader = new_backend(fresh_s=1000)
    publish(new_backend(), adapter_folder)
    assert reader.numbers(NAME) == [1]
    publish(new_backend(), adapter_folder)
    asked = len(hub.requests)
    assert reader.numbers(NAME) == [1]
    assert len(hub.requests) == asked
    assert publish(reader, adapter_folder) == 3
    assert reader.numbers(NAME) == [1, 2, 3], (
        "its own writing it sees at once, and what came before"
    )


def test_a_listing_costs_a_call_and_one_for_each_adapter(
    hub: Hub, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that looks all the time stays within what the Hub allows in five minutes."""
    for n in range(50):
        HfApi().create_repo(f"{ORG}/a-model-of-theirs-{n}")
    publish(new_backend(), adapter_folder, "a0")
    for n in range(1, 48):
        hub.repos[f"{ORG}/a{n}"] = copied = copy(hub.repos[f"{ORG}/a0"])
        copied.id = f"{ORG}/a{n}"
    backend, now_s = HubBackend(ORG), [0.0]
    monkeypatch.setattr("adapters.backends.hub.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    asked = len(hub.requests)
    assert len(backend.names()) == 48
    assert len(hub.requests) - asked == 1 + 48
    for now_s[0] in range(1, 300):
        assert len(backend.names()) == 48
    assert len(hub.requests) - asked == 10 * (1 + 48) <= 500


def test_a_registry_whose_repos_are_hidden_is_not_taken_for_an_empty_one(
    registry: Registry, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.names() == [], "the token is of a member, so it is empty"
    registry.publish(NAME, adapter_folder, base=BASE)
    with pytest.raises(RegistryUnavailable, match=r"the token is not of it.*hf auth login"):
        Registry(HubBackend("elsewhere")).names()
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
    for look in (
        lambda there: there.names(),
        lambda there: there.resolve(NAME),
        lambda there: transfer(there, NAME, Registry.open(os.environ["ADAPTERS_HOME"])),
    ):
        with pytest.raises(RegistryUnavailable, match=r"there is no token.*hf auth login"):
            look(Registry(new_backend()))


# -- who may, and what is never said ----------------------------------------------------------


def test_repos_are_private_unless_asked_otherwise(hub: Hub, adapter_folder: Path) -> None:
    publish(new_backend(), adapter_folder)
    assert HfApi().repo_info(REPO).private is True
    publish(HubBackend(ORG, private=False, calls=Calls(ORG)), adapter_folder, "tone")
    assert HfApi().repo_info(f"{ORG}/tone").private is False


def test_a_token_that_may_not_write_is_found_out_beforehand_and_never_shown(
    backend: HubBackend, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.check_writable()
    publish(backend, adapter_folder)
    said = []
    for token, doings in {
        READ_TOKEN: [backend.check_writable, lambda: publish(backend, adapter_folder)],
        "": [backend.check_writable, lambda: publish(backend, adapter_folder)],
    }.items():
        monkeypatch.setenv("HF_TOKEN", token)
        for do in doings:
            with pytest.raises(RegistryUnavailable, match="hf auth login") as refused:
                do()
            said.append(str(refused.value))
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with pytest.raises(RegistryUnavailable, match="not of elsewhere"):
        HubBackend("elsewhere").check_writable()
    assert not any("hf_" in each or "http" in each.replace("HTTP", "") for each in said)


@pytest.mark.parametrize("location", ["hf://", "hf://a/b", "hf://../x", "hf://-a", "s3://bucket"])
def test_a_location_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(UsageError, match="hf://your-org"):
        backend_for(location)
