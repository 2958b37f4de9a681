"""The registry as the server sees it: followed, and kept where it cannot be read."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import pytest

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from serve.routes.follower import _INTERVAL_S, Follower
from serve.routes.snapshot import EMPTY, take
from tests.serve.conftest import Publish
from tests.waiting import wait


def test_a_registry_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert take(Registry.open(tmp_path / "nowhere")) == EMPTY


def test_it_holds_versions_aliases_and_the_running_experiment(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    phase = registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    adapter = take(registry).adapters["support"]
    assert dict(adapter.versions) == {1: support[0], 2: support[1]}
    assert dict(adapter.aliases) == {"production": 1}
    assert (adapter.phase, adapter.latest) == (phase, 2)


def test_versions_are_named_by_the_plain_name_an_alias_or_an_experiment(
    registry: Registry, publish: Publish
) -> None:
    for _ in range(6):
        publish("support")
    registry.promote("support@v2")
    assert take(registry).adapters["support"].named() == {2, 6}
    arms = (Arm("v1", 1, 40), Arm("v4", 4, 30), Arm("base", None, 30))
    registry.start_experiment("support", arms)
    assert take(registry).adapters["support"].named() == {1, 2, 4, 6}


def test_an_adapter_that_cannot_be_read_stands_as_before_and_harms_no_other(
    registry: Registry, support: tuple[Version, Version], publish: Publish
) -> None:
    before = take(registry)
    journal = support[0].path.parent / "aliases" / "production.jsonl"
    journal.write_bytes(b"{ not json }\n")
    publish("another")
    after = take(Registry.open(registry.location), before)
    assert after.adapters["support"] == before.adapters["support"]
    assert "another" in after.adapters
    assert "production.jsonl" in after.troubles[0]


def test_a_version_that_cannot_be_read_keeps_no_other_from_being_served(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    before = take(registry)
    manifest = support[1].path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    anew = Registry.open(registry.location)
    started = take(anew)
    assert list(started.adapters["support"].versions) == [1]
    assert "v2/manifest.json cannot be understood" in started.troubles[0]
    assert take(anew, before).adapters == before.adapters, "it was read while it could be"


def test_a_registry_that_cannot_be_read_keeps_the_last_snapshot(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    before = take(registry)
    home = Path(registry.location) / "adapters"
    home.rename(home.with_name("away"))
    home.write_text("a file where the folder was")
    after = take(registry, before)
    assert after.adapters == before.adapters
    assert len(after.troubles) == 1


def test_the_follower_sees_what_changes(registry: Registry, publish: Publish) -> None:
    with Follower(registry, interval_s=0.01) as follower:
        assert follower.current == EMPTY
        version = publish("support")
        wait(lambda: "support" in follower.current.adapters)
        first = follower.current
        registry.promote(version.ref)
        wait(lambda: follower.current.adapters["support"].aliases == {"production": 1})
        assert first.adapters["support"].aliases == {}, "a snapshot never changes"


def test_by_default_it_looks_several_times_a_second(registry: Registry, publish: Publish) -> None:
    assert _INTERVAL_S < 0.5
    with Follower(registry) as follower:
        publish("support")
        wait(lambda: "support" in follower.current.adapters)


def test_trouble_is_logged_once_and_its_end_once(
    registry: Registry, support: tuple[Version, Version], caplog: pytest.LogCaptureFixture
) -> None:
    home = Path(registry.location) / "adapters"
    with caplog.at_level(logging.WARNING), Follower(registry, interval_s=0.01) as follower:
        home.rename(home.with_name("away"))
        home.write_text("a file where the folder was")
        wait(lambda: bool(follower.current.troubles))
        time.sleep(0.2)
        assert len(caplog.records) == 1
        assert "support" in follower.current.adapters
        home.unlink()
        home.with_name("away").rename(home)
        wait(lambda: not follower.current.troubles)
    assert len(caplog.records) == 2


def test_a_fault_of_ours_does_not_end_the_following(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Follower(registry, interval_s=0.01) as follower:
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "names", lambda self: 1 / 0)
            time.sleep(0.1)
        publish("support")
        wait(lambda: "support" in follower.current.adapters)


def test_a_deleted_adapter_goes(registry: Registry, support: tuple[Version, Version]) -> None:
    with Follower(registry, interval_s=0.01) as follower:
        home = support[0].path.parent
        for version in support:
            version.path.chmod(0o755)
        shutil.rmtree(home)
        wait(lambda: not follower.current.adapters)


def test_what_has_not_changed_is_the_same_object(
    registry: Registry, support: tuple[Version, Version], publish: Publish
) -> None:
    publish("tone")
    before = take(registry)
    assert take(registry, before) is before
    registry.promote("support@v1")
    after = take(registry, before)
    assert after.adapters["support"].aliases == {"production": 1}
    assert after.adapters["tone"] is before.adapters["tone"]
