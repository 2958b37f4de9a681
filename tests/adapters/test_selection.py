"""Which versions `list` shows, and in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapters.cli import app
from adapters.errors import UsageError
from adapters.registry import Registry
from adapters.selection import Condition, order, select
from adapters.types import BaseModel
from tests.conftest import BASE, MakeAdapter

OTHER = BaseModel("/srv/other", "sha256:" + "9" * 64, "1" * 64, "2" * 64, "3" * 64)


@pytest.fixture
def registry(tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    registry = Registry.open(tmp_path / "registry")
    folder = make_adapter()
    for name, base, loss, tags in (
        ("support", BASE, 1.5, ["nightly"]),
        ("support", BASE, 0.5, ["nightly", "reviewed"]),
        ("tone", OTHER, None, ["reviewed"]),
    ):
        metrics = {"eval_loss": loss} if loss else {}
        registry.publish(name, folder, base=base, metrics=metrics, tags=tags)
    return registry


def listed(registry: Registry, *arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["list", *arguments, "--json", "--registry", registry.location])
    return [row["version"] for row in json.loads(done.stdout)]


def test_filters(registry: Registry) -> None:
    assert listed(registry, "--all") == ["support@v1", "support@v2", "tone@v1"]
    assert listed(registry, "--base", "other") == ["tone@v1"]
    assert listed(registry, "--base", OTHER.id) == ["tone@v1"]
    assert listed(registry, "--tag", "reviewed") == ["support@v2", "tone@v1"]
    assert listed(registry, "--tag", "reviewed", "--tag", "nightly") == ["support@v2"]
    assert listed(registry, "--metric", "eval_loss < 1.2") == ["support@v2"]
    assert listed(registry, "--metric", "eval_loss>0", "--metric", "eval_loss<=0.5") == [
        "support@v2"
    ]
    assert listed(registry, "tone", "--metric", "eval_loss>0") == []


def test_each_adapter_stands_for_the_version_its_name_means(registry: Registry) -> None:
    assert listed(registry) == ["support@v2", "tone@v1"]
    registry.promote("support@v1")
    assert listed(registry) == ["support@v1", "tone@v1"]


def test_order(registry: Registry) -> None:
    assert listed(registry, "--all", "--sort", "eval_loss") == [
        "support@v2",
        "support@v1",
        "tone@v1",
    ]
    assert listed(registry, "--all", "--sort", "-eval_loss") == [
        "support@v1",
        "support@v2",
        "tone@v1",
    ]
    assert listed(registry, "--sort", "-name")[0] == "tone@v1"
    versions = registry.versions("support")
    assert order(versions, "-version") == versions[::-1]


@pytest.mark.parametrize("text", ["", "eval_loss", "eval_loss<", "<1", "eval_loss<low", "a b<1"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(UsageError, match="no condition"):
        Condition.parse(text)


def test_a_key_that_is_none_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(UsageError, match="Did you mean eval_loss"):
        order(registry.versions("support"), "evalloss")


@given(bound=st.floats(allow_nan=False, allow_infinity=False), sign=st.sampled_from("<>="))
def test_every_number_can_be_a_bound(bound: float, sign: str) -> None:
    assert Condition.parse(f"m{sign}{bound!r}") == Condition("m", sign, bound)


def test_nothing_asked_for_selects_everything(registry: Registry) -> None:
    versions = registry.versions("support")
    assert select(versions) == versions
