"""What tells two versions apart, and nothing where they are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from typer.testing import CliRunner

from adapters.cli import app
from adapters.diff import compare
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter, key


@pytest.fixture
def registry(tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    """`support`: v1, v2 with the same files, v3 of another seed, v4 without one module."""
    registry = Registry.open(tmp_path / "registry")
    for seed, rate, dropped in ((0, 1e-4, ()), (0, 3e-4, ()), (1, 1e-4, ()), (0, 1e-4, "AB")):
        tensors = {key("mlp.up_proj", side): None for side in dropped}
        folder = make_adapter(seed=seed, tensors=tensors)
        registry.publish("support", folder, base=BASE, recipe={"learning_rate": rate})
    return registry


def test_equal_versions_differ_in_nothing(registry: Registry) -> None:
    v1 = registry.resolve("support@v1")
    found = compare(v1, v1)
    assert not any((found.base, found.recipe, found.dataset, found.metrics, found.modules))


def test_the_same_weights_under_another_recipe(registry: Registry) -> None:
    found = compare(registry.resolve("support@v1"), registry.resolve("support@v2"))
    assert found.recipe == {"learning_rate": (1e-4, 3e-4)}
    assert found.modules == ()


def test_other_weights_module_by_module(registry: Registry) -> None:
    found = compare(registry.resolve("support@v1"), registry.resolve("support@v3"))
    assert len(found.modules) == 14
    for change in found.modules:
        assert change.left_norm != change.right_norm
        assert 0.5 < change.relative < 2  # independent draws stand about at right angles


def test_a_module_that_one_side_lacks_is_wholly_apart(registry: Registry) -> None:
    found = compare(registry.resolve("support@v1"), registry.resolve("support@v4"))
    changes = {change.module: change for change in found.modules}
    lacking = changes.pop("model.layers.0.mlp.up_proj")
    assert (lacking.right_norm, lacking.relative) == (None, 1.0)
    assert [change.relative for change in changes.values()] == pytest.approx([0] * 13, abs=1e-9)


def test_the_scale_counts(registry: Registry, make_adapter: MakeAdapter) -> None:
    louder = registry.publish("support", make_adapter(config={"lora_alpha": 16}), base=BASE)
    found = compare(registry.resolve("support@v1"), louder)
    assert found.peft == {"lora_alpha": (8, 16)}
    assert numpy.allclose([change.relative for change in found.modules], 0.5)


def test_the_command_in_words_and_as_json(registry: Registry) -> None:
    where = ["--registry", registry.location]
    said = CliRunner().invoke(app, ["diff", "support@v1", "support@v2", *where])
    assert "learning_rate" in said.output
    assert "0.0003" in said.output
    printed = CliRunner().invoke(app, ["diff", "support@v1", "support@v3", *where, "--json"])
    content = json.loads(printed.output)
    assert content["left"].startswith("support@v1+")
    assert {"module", "left_norm", "right_norm", "relative"} == content["modules"][0].keys()
    same = CliRunner().invoke(app, ["diff", "support@v1", "support@v1", *where])
    assert "are the same" in same.output
