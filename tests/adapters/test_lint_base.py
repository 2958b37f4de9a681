"""Bases of an architecture that is not known here: their weights' headers tell the modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from adapters.lint import check_adapter
from tests.conftest import LLAMA, PROJECTIONS, MakeAdapter, lora_tensors

STRANGE = {**LLAMA, "model_type": "unheard-of"}


def write_base(folder: Path, *, dtype: str = "float16", shards: int = 1) -> Path:
    """Write weights of these sizes, each layer in a file of its own where there are two shards."""
    index = {}
    for shard in range(shards):
        file = f"model-{shard}.safetensors" if shards > 1 else "model.safetensors"
        layers = [shard] if shards > 1 else range(LLAMA["num_hidden_layers"])
        weights = {
            f"model.layers.{layer}.{name}.weight": numpy.zeros((size_out, size_in), dtype)
            for layer in layers
            for name, (size_in, size_out) in PROJECTIONS.items()
        }
        weights[f"model.layers.{shard}.input_layernorm.weight"] = numpy.zeros(32, dtype)
        weights["model.embed_tokens.weight"] = numpy.zeros((64, 32), dtype)
        save_file(weights, folder / file)
        index |= dict.fromkeys(weights, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_all_modules_match(adapter_folder: Path, tmp_path: Path, shards: int) -> None:
    report = check_adapter(adapter_folder, STRANGE, base_path=write_base(tmp_path, shards=shards))
    assert report.findings == ()
    assert report.matched == len(report.modules) == 14
    assert [warning.check for warning in report.warnings] == ["unchecked"]


@pytest.mark.parametrize(
    ("left_out", "renamed", "check"),
    [
        ("1.mlp.up_proj", ("", ""), "missing"),
        ("-", ("mlp.up_proj", "mlp.other"), "base"),
        ("-", ("model.layers", "layers"), "base"),
    ],
)
def test_what_does_not_match(
    make_adapter: MakeAdapter,
    tmp_path: Path,
    left_out: str,
    renamed: tuple[str, str],
    check: str,
) -> None:
    tensors = lora_tensors(0)
    folder = make_adapter(
        tensors={
            **dict.fromkeys(tensors),
            **{n.replace(*renamed): v for n, v in tensors.items() if left_out not in n},
        }
    )
    report = check_adapter(folder, STRANGE, base_path=write_base(tmp_path))
    assert check in {finding.check for finding in report.findings}


@pytest.mark.parametrize(
    ("config", "dtype"), [({}, "uint8"), ({"text_config": {}}, "float16")], ids=["4-bit", "parts"]
)
def test_weights_that_are_not_laid_out_as_modules_tell_nothing(
    adapter_folder: Path, tmp_path: Path, config: Mapping[str, object], dtype: str
) -> None:
    base = write_base(tmp_path, dtype=dtype)
    report = check_adapter(adapter_folder, {**STRANGE, **config}, base_path=base)
    assert (report.findings, report.matched) == ((), None)


def test_half_a_base_tells_nothing(adapter_folder: Path, tmp_path: Path) -> None:
    (write_base(tmp_path, shards=2) / "model-1.safetensors").unlink()
    report = check_adapter(adapter_folder, STRANGE, base_path=tmp_path)
    assert (report.findings, report.matched) == ((), None)
