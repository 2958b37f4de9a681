"""Whether files that are whole make sense: with each other, with the base, within bounds."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from adapters.lint import check_adapter
from tests.adapters.test_lint import CONFIG, LINEAR, WEIGHTS, A, B, ones, piped, with_value
from tests.conftest import LLAMA, RANK, MakeAdapter, key, lora_tensors

pytestmark = pytest.mark.timeout(60)


def test_findings_of_every_kind_are_told_at_once(make_adapter: MakeAdapter) -> None:
    folder = make_adapter(
        config={"use_dora": True, "bias": "all"},
        tensors={
            B: with_value(numpy.nan),
            key("mlp.up_proj", "A"): None,
            key("mlp.up_proj", "A").removeprefix("base_model."): ones(RANK, 32),
        },
    )
    found = check_adapter(folder, {**LLAMA, "num_hidden_layers": 1}).findings
    assert {finding.check for finding in found} == {"field", "key", "pair", "base", "value"}
    assert all(finding.consequence and finding.fix for finding in found)


def test_the_cheap_part_reads_no_weights(make_adapter: MakeAdapter) -> None:
    folder = make_adapter(tensors={B: with_value(numpy.nan)})
    assert check_adapter(folder, values=False).findings == ()
    assert check_adapter(folder).findings


@pytest.mark.parametrize(
    ("config", "left_out", "check"),
    [
        ({"target_modules": ["q_proj"]}, (), "target"),
        ({"exclude_modules": ["layers.1.mlp.up_proj"]}, (), "target"),
        ({"layers_to_transform": [0]}, (), "target"),
        ({"layers_to_transform": 1}, (), "target"),
        ({}, ("layers.1.",), "missing"),
        ({}, ("mlp.up_proj",), "missing"),
        ({"layers_to_transform": [0]}, ("layers.1.",), None),
        ({"layers_to_transform": 0, "layers_pattern": "layers"}, ("layers.1.",), None),
        ({"exclude_modules": ["up_proj"]}, ("mlp.up_proj",), None),
        ({"target_modules": [m for m in LINEAR if m != "up_proj"]}, ("mlp.up_proj",), None),
        ({"layers_to_transform": 1, "layers_pattern": ["h", "layer."]}, ("layers.0.",), None),
        ({"target_modules": "All-Linear"}, (), None),
        ({"target_modules": "all-linear"}, ("mlp.up_proj",), "missing"),
        ({"target_modules": r".*_proj"}, ("mlp.up_proj",), "missing"),
        ({"target_modules": r".*(?<!up)_proj"}, ("mlp.up_proj",), None),
        ({"target_modules": r".*attn\.._proj"}, (), "target"),
        ({"target_modules": r".*1.*", "exclude_modules": r".*up.*"}, ("s.0.", "up_proj"), None),
        ({"exclude_modules": r".*\.1\..*"}, (), "target"),
        ({"target_modules": [m for m in LINEAR if m != "up_proj"]}, (), "target"),
        (
            {
                "target_modules": [m for m in LINEAR if m != "up_proj"],
                "target_parameters": ["mlp.up_proj.weight"],
            },
            (),
            None,
        ),
        (
            {"target_modules": None, "target_parameters": [f"{m}.weight" for m in LINEAR]},
            ("o_proj",),
            "missing",
        ),
    ],
)
def test_tensors_are_those_that_the_configuration_targets(
    make_adapter: MakeAdapter,
    config: Mapping[str, Any],
    left_out: tuple[str, ...],
    check: str | None,
) -> None:
    gone = {name: None for name in lora_tensors(0) if any(part in name for part in left_out)}
    found = check_adapter(make_adapter(config=config, tensors=gone), LLAMA).findings
    assert {finding.check for finding in found} == ({check} if check else set())


@pytest.mark.parametrize(
    ("dtype", "value", "refused"),
    [
        ("float16", 7e4, True),
        ("float16", 4e4, True),  # vLLM stores scale × B, and the scale is 2
        ("float16", 3e4, False),
        ("bfloat16", 7e4, False),
        ("bfloat16", 2e38, True),
        (None, 1e38, False),
    ],
)
def test_values_that_overflow_in_the_type_that_they_are_cast_to(
    make_adapter: MakeAdapter, dtype: str | None, value: float, refused: bool
) -> None:
    folder = make_adapter(tensors={B: with_value(value)})
    found = check_adapter(folder, {**LLAMA, "dtype": dtype}).findings
    assert [finding.where for finding in found] == ([B] if refused else [])


def test_values_that_vanish_in_the_type_that_they_are_cast_to(make_adapter: MakeAdapter) -> None:
    faint = {n: v * 1e-9 for n, v in lora_tensors(0).items() if "lora_B" in n}
    folder = make_adapter(tensors={n: v.astype("float32") for n, v in faint.items()})
    assert check_adapter(folder, LLAMA).findings == ()
    found = check_adapter(folder, {**LLAMA, "dtype": "float16"}).findings
    assert [finding.check for finding in found] == ["zero"]


@pytest.mark.parametrize("module", ["mlp.experts.0.up_proj", "mlp.experts", "mlp.gate"])
def test_experts_of_an_unknown_base_are_refused(make_adapter: MakeAdapter, module: str) -> None:
    tensors = {key(module, "A"): ones(RANK, 32), key(module, "B"): ones(48, RANK)}
    folder = make_adapter(tensors=tensors, config={"target_modules": r".*"})
    found = check_adapter(folder, {**LLAMA, "model_type": "olmoe"}).findings
    assert [finding.check for finding in found] == ["experts"]


@pytest.mark.parametrize(
    ("named", "base", "refused"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", True),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", True),
        ("/c/models--Qwen--Qwen3-0.6B/snapshots/" + "0" * 40, "Qwen/Qwen3-1.7B", True),
        ("/c/models--Qwen--Qwen3-0.6B/snapshots/" + "0" * 40, "Qwen/Qwen3-0.6B", False),
        ("unsloth/Qwen3-0.6B-unsloth-bnb-4bit", "Qwen/Qwen3-0.6B", False),
        ("unsloth/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", False),
        ("/home/somebody/llama", "Qwen/Qwen3-0.6B", False),
        ("Qwen/Qwen3-0.6B", "/srv/bases/ours", False),
        (None, "Qwen/Qwen3-0.6B", False),
        (["x"], "Qwen/Qwen3-0.6B", False),
    ],
)
def test_the_base_it_names(
    make_adapter: MakeAdapter, named: object, base: str, refused: bool
) -> None:
    folder = make_adapter(config={"base_model_name_or_path": named})
    found = check_adapter(folder, base_id=base).findings
    assert [finding.check for finding in found] == (["identity"] if refused else [])


@pytest.mark.parametrize(
    ("config", "base", "warned"),
    [
        ({"revision": "a" * 40}, f"/c/models--x--y/snapshots/{'b' * 40}", True),
        ({"revision": "a" * 40}, f"/c/models--x--y/snapshots/{'a' * 40}", False),
        ({"revision": "a" * 40}, "/srv/bases/y", False),
        ({"revision": "main"}, f"/c/models--x--y/snapshots/{'b' * 40}", False),
        (
            {"base_model_name_or_path": f"/d/models--x--y/snapshots/{'a' * 40}"},
            f"/c/models--x--y/snapshots/{'b' * 40}",
            True,
        ),
    ],
)
def test_another_commit_of_the_base_is_a_warning(
    make_adapter: MakeAdapter, config: Mapping[str, Any], base: str, warned: bool
) -> None:
    report = check_adapter(make_adapter(config=config), LLAMA, base_id="x/y", base_path=Path(base))
    assert report.findings == ()
    assert [warning.where for warning in report.warnings] == ["revision"] * warned


@pytest.mark.parametrize(
    ("change", "rank", "matched"), [({}, 4, 14), ({"num_hidden_layers": 1}, 4, 7)]
)
def test_what_a_server_needs(
    adapter_folder: Path, change: Mapping[str, Any], rank: int, matched: int
) -> None:
    report = check_adapter(adapter_folder, {**LLAMA, **change})
    assert (report.peft["r"], report.max_lora_rank) == (rank, 8)
    assert (len(report.modules), report.matched) == (14, matched)
    assert check_adapter(adapter_folder).matched is None


EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize("named", [["embed_tokens"], ["lm_head"], "embed_tokens"])
@pytest.mark.parametrize(("asked", "tied"), [(True, True), (True, False), (False, True)])
def test_tied_embeddings_are_both_adapted_where_that_was_asked_for(
    make_adapter: MakeAdapter, named: object, asked: bool, tied: bool
) -> None:
    folder = make_adapter(
        config={"target_modules": named, "ensure_weight_tying": asked},
        tensors={
            **dict.fromkeys(lora_tensors(0)),
            f"{EMBEDDING}.lora_embedding_A": ones(RANK, 64),
            f"{EMBEDDING}.lora_embedding_B": ones(32, RANK),
            "base_model.model.lm_head.lora_A.weight": ones(RANK, 32),
            "base_model.model.lm_head.lora_B.weight": ones(64, RANK),
        },
    )
    found = check_adapter(folder, {**LLAMA, "tie_word_embeddings": tied}).findings
    assert bool(found) != (asked and tied)


@pytest.mark.parametrize(
    ("name", "dtype", "change", "check"),
    [
        (f"{EMBEDDING}.base_layer.weight", "float32", 0.0, None),
        (f"{EMBEDDING}.base_layer.weight", "float16", 0.0, "copy"),  # which rounds
        (f"{EMBEDDING}.base_layer.weight", "float32", 1e-3, "copy"),
        ("base_model.model.lm_head.base_layer.weight", "float32", 0.0, None),  # which is tied
        (f"{EMBEDDING}.weight", "float32", 0.0, "key"),  # of a vocabulary that was resized
        ("base_model.model.model.norm.base_layer.weight", "float32", 0.0, "key"),
    ],
)
def test_embeddings_that_peft_saved_are_the_base_s_own(
    make_adapter: MakeAdapter,
    tmp_path: Path,
    name: str,
    dtype: str,
    change: float,
    check: str | None,
) -> None:
    own = numpy.random.default_rng(5).normal(size=(64, 32)).astype("float32")
    config = {**LLAMA, "tie_word_embeddings": True}
    save_file({"model.embed_tokens.weight": own}, tmp_path / "model.safetensors")
    theirs = own.copy()
    theirs[63, 31] += change
    folder = make_adapter(
        config={"target_modules": [*LINEAR, "embed_tokens"]},
        tensors={
            f"{EMBEDDING}.lora_embedding_A": ones(RANK, 64),
            f"{EMBEDDING}.lora_embedding_B": ones(32, RANK),
            name: theirs.astype(dtype),
        },
    )
    found = check_adapter(folder, config, base_path=tmp_path).findings
    assert [finding.check for finding in found] == ([check] if check else [])
    alone = check_adapter(folder, config)
    if check in (None, "copy"):
        assert alone.findings == ()
        assert [warning.where for warning in alone.warnings] == [name]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy, safetensors
from adapters.lint import check_folder
from tests.conftest import LLAMA
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (256 << 20),) * 2)
print([f.check for f in check_folder(Path(sys.argv[1]), LLAMA).findings][:3])
"""


def large_config(folder: Path) -> None:
    with (folder / CONFIG).open("r+b") as stream:
        stream.truncate(100 << 20)


def many_tensors(folder: Path) -> None:
    entries = {
        key("self_attn.q_proj", "A", layer=n): {
            "dtype": "F32",
            "shape": [0, 32],
            "data_offsets": [0, 0],
        }
        for n in range(100_000)
    }
    header = json.dumps(entries).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)


def one_large_tensor(folder: Path) -> None:
    size = 2 << 30
    header = json.dumps({A: {"dtype": "F32", "shape": [size >> 2], "data_offsets": [0, size]}})
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header.encode())
        stream.truncate(8 + len(header) + size)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (large_config, "file"),
        (many_tensors, "pair"),
        (one_large_tensor, "pair"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 8 + bytes(90 << 20)), "file"),
        (lambda folder: (folder / "adapter_model.sаfetensors").touch(), "file"),  # Cyrillic а
        (lambda folder: piped(folder), "file"),
    ],
    ids=["config", "tensors", "tensor", "header", "look-alike", "pipe"],
)
def test_time_and_memory_are_bounded(
    adapter_folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """A quarter of a gigabyte beyond what Python and NumPy need, and a few seconds."""
    spoil(adapter_folder)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(adapter_folder)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert said in done.stdout, done.stderr
