"""A merger is the weighted sum of its parents' ΔW, whatever their ranks and scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from typer.testing import CliRunner

from adapters import bases
from adapters.cli import app
from adapters.deltas import Delta, read_deltas
from adapters.errors import AdaptersError, BaseMismatch, NotFound, Rejected, UsageError
from adapters.registry import Registry
from adapters.types import Version
from train.merge import Merge, merge

Publish = Callable[..., Version]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bases.resolve("tiny").path)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


@pytest.fixture
def publish(registry: Registry, model: Any, tmp_path: Path) -> Publish:
    """Publish a genuine PEFT adapter of its own seed."""
    import torch
    from peft import LoraConfig, get_peft_model

    def make(name: str, seed: int = 0, **options: Any) -> Version:
        torch.manual_seed(seed)
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **options})
        adapted = get_peft_model(model, config)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter.data)
        folder = tmp_path / f"{name}-{seed}"
        adapted.save_pretrained(folder)
        adapted.unload()
        found = bases.resolve("tiny")
        return registry.publish(name, folder, base=found.model, base_path=found.path)

    return make


def dense(delta: Delta | None) -> numpy.ndarray | float:
    return 0.0 if delta is None else delta.scale * delta.b @ delta.a


def assert_weighted_sum(merged: Version, *parents: tuple[Version, float]) -> None:
    result = read_deltas(merged.path)
    read = [(read_deltas(parent.path), weight) for parent, weight in parents]
    assert result.keys() == {module for deltas, _ in read for module in deltas}
    for module, delta in result.items():
        wanted = sum(weight * dense(deltas.get(module)) for deltas, weight in read)
        apart = numpy.linalg.norm(dense(delta) - wanted) / numpy.linalg.norm(wanted)
        assert apart < 1e-5, module


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_exact_methods_add_what_the_parents_do(
    registry: Registry, publish: Publish, method: str
) -> None:
    one = publish("one", 1, use_rslora=True)
    two = publish(
        "two", 2, r=6, target_modules=["q_proj", "down_proj"], alpha_pattern={"q_proj": 3}
    )
    asked = Merge((one.ref, two.ref), (0.7, -0.3), "both", method)
    merged = merge(asked, registry)
    assert_weighted_sum(merged, (one, 0.7), (two, -0.3))
    assert merged.manifest.metrics["merge_error"] < 1e-5
    assert merged.manifest.parents == (one.engine_name, two.engine_name)
    assert merged.manifest.base == one.manifest.base
    assert merged.manifest.lint["passed"]


def test_peft_reads_it_as_the_sum(registry: Registry, publish: Publish, model: Any) -> None:
    import torch
    from peft import PeftModel

    one, two = publish("one", 1, use_rslora=True), publish("two", 2, r=6)
    merged = merge(Merge((one.ref, two.ref), (1.0, 0.5), "both"), registry)
    loaded = PeftModel.from_pretrained(model, merged.path)
    module = loaded.base_model.model.model.layers[3].self_attn.q_proj
    theirs = module.get_delta_weight("default").detach()
    wanted = sum(
        weight * dense(read_deltas(version.path)["model.layers.3.self_attn.q_proj"])
        for version, weight in ((one, 1.0), (two, 0.5))
    )
    loaded.unload()
    torch.testing.assert_close(theirs, torch.tensor(wanted).float(), rtol=1e-4, atol=1e-4)


def test_svd_cut_to_a_rank_is_off_by_less_the_higher_it_is(
    registry: Registry, publish: Publish
) -> None:
    one, two = publish("one", 1), publish("two", 2)
    asked = Merge((one.ref, two.ref), (1.0, 1.0), "both", "svd")
    errors = [
        merge(replace(asked, r=r), registry).manifest.metrics["merge_error"] for r in (2, 4, 8)
    ]
    assert errors[0] > errors[1] > 0.05
    assert errors[2] < 1e-5


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties"])
def test_factorwise_methods_tell_how_rough_they_are_and_repeat(
    registry: Registry, publish: Publish, method: str
) -> None:
    one, two = publish("one", 1), publish("two", 2, use_rslora=True)
    asked = Merge((one.ref, two.ref), (0.5, 0.5), "both", method)
    first, again = merge(asked, registry), merge(asked, registry)
    assert first.manifest.metrics["merge_error"] > 0.05
    assert first.manifest.digest == again.manifest.digest


def test_linear_of_one_adapter_with_itself_is_itself(registry: Registry, publish: Publish) -> None:
    """PEFT's own inflates rsLoRA inputs by √r here."""
    one = publish("one", 1, use_rslora=True)
    merged = merge(Merge((one.ref, one.ref), (0.25, 0.25), "same", "linear"), registry)
    assert_weighted_sum(merged, (one, 1.0))  # (√¼+√¼)² = 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"refs": ("one",)}, UsageError),
        ({"weights": (1.0,)}, UsageError),
        ({"weights": (1.0, 0.0)}, UsageError),
        ({"weights": (1.0, float("nan"))}, UsageError),
        ({"method": "average"}, UsageError),
        ({"r": 4}, UsageError),
        ({"density": 0.0}, UsageError),
        ({"refs": ("one", "nobody")}, NotFound),
        ({"refs": ("one", "wide"), "method": "linear"}, Rejected),
        ({"refs": ("wide", "widest")}, Rejected),
        ({"name": "../x"}, UsageError),
    ],
)
def test_what_is_refused_publishes_nothing(
    registry: Registry, publish: Publish, changes: dict[str, Any], error: type[AdaptersError]
) -> None:
    publish("one", 1)
    publish("two", 2)
    publish("wide", 3, r=8)
    if "widest" in changes.get("refs", ()):
        publish("widest", 4, r=508)
    with pytest.raises(error) as refused:
        merge(replace(Merge(("one", "two"), (1.0, 1.0), "both"), **changes), registry)
    assert refused.value.fix
    assert "both" not in registry.names()


def test_versions_of_two_bases(registry: Registry, publish: Publish) -> None:
    one = publish("one", 1)
    base = replace(one.manifest.base, id="another/base", revision="0" * 40)
    registry.publish("stranger", one.path, base=base)
    with pytest.raises(BaseMismatch, match="another/base"):
        merge(Merge(("one", "stranger"), (1.0, 1.0), "both"), registry)


def test_the_command(registry: Registry, publish: Publish) -> None:
    publish("one", 1)
    publish("two", 2)
    arguments = ["merge", "one", "two@v1", "--weights", "0.7 0.3", "--name", "both", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--registry", registry.location])
    content = json.loads(done.stdout)
    assert content["engine_name"].startswith("both@v1+")
    assert content["merge_error"] < 1e-5
