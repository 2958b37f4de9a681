"""What is never published: each adapter that vLLM would refuse, choke on, or serve wrongly."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from adapters.errors import AdaptersError, InvalidAdapter, Rejected
from adapters.lint import check_adapter, read_base_config
from adapters.registry import Registry
from adapters.weights import read_header
from tests.conftest import BASE, LLAMA, PROJECTIONS, RANK, MakeAdapter, key, lora_tensors

pytestmark = pytest.mark.timeout(60)  # a pipe in the folder must not hang anything

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LINEAR = [module.rpartition(".")[2] for module in PROJECTIONS]
A, B = key("self_attn.q_proj", "A"), key("self_attn.q_proj", "B")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


def refusal(registry: Registry, folder: Path) -> str:
    """Publish what must be refused; return what is said once it is certain nothing is left."""
    with pytest.raises(InvalidAdapter) as refused:
        registry.publish("support", folder, base=BASE)
    assert not Path(registry.location).exists()
    assert refused.value.exit_code == 4
    assert refused.value.http_status == 400
    assert "\n" not in str(refused.value)
    return str(refused.value)


def zeros(*shape: int, dtype: str = "float32") -> numpy.ndarray:
    return numpy.zeros(shape, dtype)


def ones(*shape: int, dtype: str = "float32") -> numpy.ndarray:
    return numpy.ones(shape, dtype)


def with_value(value: float, dtype: str = "float32") -> numpy.ndarray:
    values = ones(32, RANK, dtype=dtype)
    values[7, 1] = value
    return values


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "Train with a LoraConfig"),
        ({"peft_type": "ADALORA"}, "Train with a LoraConfig"),
        ({"peft_type": None}, "Train with a LoraConfig"),
        ({"r": 0}, "Train with r ≤ 512"),
        ({"r": -4}, "Train with r ≤ 512"),
        ({"r": 513}, "Train with r ≤ 512"),
        ({"r": "4"}, "Train with r ≤ 512"),
        ({"r": 4.0}, "Train with r ≤ 512"),
        ({"r": True}, "Train with r ≤ 512"),
        ({"r": None}, "Train with r ≤ 512"),
        ({"r": 8}, "Correct r"),
        ({"lora_alpha": 0}, "Use e.g. 2 × r"),
        ({"lora_alpha": -8}, "Use e.g. 2 × r"),
        ({"lora_alpha": "8"}, "Use e.g. 2 × r"),
        ({"lora_alpha": 1e38}, "Use e.g. 2 × r"),
        ({"lora_alpha": None}, "Use e.g. 2 × r"),
        ({"target_modules": None}, "target_modules"),
        ({"use_dora": True}, "Train without use_dora"),
        ({"modules_to_save": ["lm_head"]}, "Train without modules_to_save"),
        ({"trainable_token_indices": [1]}, "Train without trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "Train without layer_replication"),
        ({"lora_bias": True}, "Train without lora_bias"),
        ({"bias": "all"}, "Train with bias='none'"),
        ({"alora_invocation_tokens": [1]}, "Train without alora_invocation_tokens"),
        ({"target_parameters": ["experts.w1"]}, "Train without target_parameters"),
        ({"arrow_config": {"top_k": 2}}, "Train without arrow_config"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": ["olora"]}, "path_initial_model_for_weight_conversion"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"lora_alhpa": 8}, "lora_alhpa"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 0}}, "Give each a number"),
        ({"rank_pattern": {"q_proj": 8}}, "Correct r or rank_pattern"),
        ({"rank_pattern": {".*_proj": 8}}, "Correct r or rank_pattern"),
        ({"alpha_pattern": {"q_proj": "16"}}, "Give each a number"),
        ({"alpha_pattern": {"q_proj)": 16}}, "Name modules plainly"),
    ],
)
def test_configurations(
    registry: Registry, make_adapter: MakeAdapter, config: Mapping[str, Any], said: str
) -> None:
    assert said in refusal(registry, make_adapter(config=config))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"peft_type": "LORA"} trailing',
        b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}',
        b'{"peft_type": "LORA", "r": 4, "lora_alpha": -Infinity}',
        b'{"r": ' + b"9" * 5000 + b"}",
        b'{"name": "\xff\xfe"}',
        "{}".encode("utf-16"),
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 60_000,
        b'{"peft_type": "LORA", "peft_type": "LORA"}',
        b'{"peft_type": "LORA", "padding": "' + b"x" * (64 << 10) + b'"}',
    ],
    ids=lambda content: str(content[:24]),
)
def test_configurations_that_cannot_be_read(
    registry: Registry, adapter_folder: Path, content: bytes
) -> None:
    (adapter_folder / CONFIG).write_bytes(content)
    said = refusal(registry, adapter_folder)
    assert f"{CONFIG} cannot be read" in said
    assert "Write it with save_pretrained() again." in said


def test_a_scale_that_is_too_large_for_a_float(registry: Registry, adapter_folder: Path) -> None:
    path = adapter_folder / CONFIG
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 1e999'))
    assert "lora_alpha: inf is not a scale" in refusal(registry, adapter_folder)


# -- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({B: with_value(numpy.nan)}, "holds NaN or infinity"),
        ({B: with_value(numpy.inf)}, "holds NaN or infinity"),
        ({B: with_value(-numpy.inf, "float16")}, "holds NaN or infinity"),
        ({A: None}, "has only one of lora_A and lora_B"),
        ({B: None}, "has only one of lora_A and lora_B"),
        ({A: ones(RANK + 1, 32), B: ones(32, RANK + 1)}, "rank 5 where r says 4"),
        ({A: ones(RANK + 1, 32)}, "do not multiply"),
        ({A: ones(RANK)}, "do not multiply"),
        ({A: ones(RANK, 32, 1)}, "do not multiply"),
        ({A: zeros(0, 32), B: zeros(32, 0)}, "rank 0 where r says 4"),
        ({A: ones(RANK, 32, dtype="int32")}, "Save as float"),
        ({A: ones(RANK, 32, dtype="float64")}, "Save as float"),
        ({"base_model.model.model.embed_tokens.weight": ones(64, 32)}, "vLLM would drop it"),
        ({A.replace("lora_A.weight", "lora_A.default.weight"): ones(RANK, 32)}, "vLLM would drop"),
        ({A.replace("lora_A", "lora_magnitude_vector"): ones(32)}, "vLLM would drop it"),
        ({A.removeprefix("base_model.model."): ones(RANK, 32)}, "vLLM would drop it"),
    ],
)
def test_tensors(
    registry: Registry,
    make_adapter: MakeAdapter,
    tensors: Mapping[str, numpy.ndarray | None],
    said: str,
) -> None:
    assert said in refusal(registry, make_adapter(tensors=tensors))


@pytest.mark.parametrize("side", ["A", "B"])
def test_adapters_that_change_nothing(
    registry: Registry, make_adapter: MakeAdapter, side: str
) -> None:
    still = {
        name: numpy.zeros_like(values)
        for name, values in lora_tensors(0).items()
        if f"lora_{side}" in name
    }
    assert "answers as the base" in refusal(registry, make_adapter(tensors=still))


def test_bfloat16_is_looked_into(registry: Registry, adapter_folder: Path) -> None:
    """NumPy has no bfloat16, so the file is written by hand."""
    size = 2 * RANK * 32

    def write(b: bytes) -> None:
        header = json.dumps(
            {
                A: {"dtype": "BF16", "shape": [RANK, 32], "data_offsets": [0, size]},
                B: {"dtype": "BF16", "shape": [32, RANK], "data_offsets": [size, 2 * size]},
            }
        ).encode()
        whole = struct.pack("<Q", len(header)) + header + b"\x80\x3f" * (size // 2) + b
        (adapter_folder / WEIGHTS).write_bytes(whole)

    one, nan, infinity, minus_zero = b"\x80\x3f", b"\xc0\x7f", b"\x80\xff", b"\x00\x80"
    for value in (nan, infinity):
        write(one * (size // 2 - 1) + value)
        assert "holds NaN or infinity" in refusal(registry, adapter_folder)
    write(minus_zero * (size // 2))
    assert "answers as the base" in refusal(registry, adapter_folder)
    write(one * (size // 2))
    assert registry.publish("support", adapter_folder, base=BASE).manifest.peft["dtype"] == "BF16"


def test_no_tensor_at_all(registry: Registry, adapter_folder: Path) -> None:
    save_file({}, adapter_folder / WEIGHTS)
    assert "holds no tensor" in refusal(registry, adapter_folder)


def header_of(length: int) -> Callable[[bytes], bytes]:
    return lambda content: struct.pack("<Q", length) + content[8:]


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def rewrite(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        encoded = json.dumps(header).encode()
        return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]

    return rewrite


def nested(content: bytes) -> bytes:
    header = b'{"a":' * 100_000
    return struct.pack("<Q", len(header)) + header


def padded(content: bytes) -> bytes:
    """Spaces are allowed after a header, but not without end."""
    (length,) = struct.unpack("<Q", content[:8])
    more = 17 << 20
    return (
        struct.pack("<Q", length + more)
        + content[8 : 8 + length]
        + b" " * more
        + (content[8 + length :])
    )


def overlap(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = header[B]["data_offsets"]


def twice(content: bytes) -> bytes:
    """The same tensor twice, at the same place: parsers take one or the other without a word."""
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip()
    entry = json.dumps({A: json.loads(header)[A]}).encode()[1:-1]
    longer = header[:-1] + b", " + entry + b"}"
    return struct.pack("<Q", len(longer)) + longer + content[8 + length :]


SPOILT: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[:7],
    "truncated": lambda content: content[:-100],
    "trailing": lambda content: content + b"trailing",
    "zeros": lambda content: bytes(len(content)),
    "pickle": lambda content: pickle.dumps({"weight": [1, 2, 3]}),
    "header of 2^62 bytes": header_of(2**62),
    "header of 2^64-1 bytes": header_of(2**64 - 1),
    "header of 90 MB": header_of(90 << 20),
    "no header": header_of(0),
    "header padded to 17 MB": padded,
    "nested header": nested,
    "overlap": rewritten(overlap),
    "a name that stands twice": twice,
    "hole": rewritten(lambda header: header.pop(A)),
    "huge shape": rewritten(lambda header: header[A].update(shape=[2**40, 2**40])),
    "negative shape": rewritten(lambda header: header[A].update(shape=[-1, 32])),
    "no shape": rewritten(lambda header: header[A].pop("shape")),
    "unknown type": rewritten(lambda header: header[A].update(dtype="F13")),
}


@pytest.mark.parametrize("how", SPOILT)
def test_files_that_are_not_whole(registry: Registry, adapter_folder: Path, how: str) -> None:
    path = adapter_folder / WEIGHTS
    path.write_bytes(SPOILT[how](path.read_bytes()))
    said = refusal(registry, adapter_folder)
    assert "is not a whole safetensors file" in said
    assert "Write or copy it again." in said


# -- the folder -------------------------------------------------------------------------------


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / f"{folder.name}-elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / f"{folder.name}-elsewhere")


def piped(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


def socketed(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path may not be long
    try:
        socket.socket(socket.AF_UNIX).bind("README.md")
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (linked, "is not a plain file"),
        (piped, "is not a plain file"),
        (socketed, "is not a plain file"),
        (lambda folder: (folder / "README.md").mkdir(), "is not a plain file"),
        (lambda folder: (folder / "README.md").symlink_to("/etc/passwd"), "is not a plain file"),
        (lambda folder: (folder / "adapter_model.bin").write_bytes(b""), "is a pickle"),
        (lambda folder: (folder / "training_args.pt").write_bytes(b""), "is a pickle"),
        (lambda folder: (folder / "optimizer.pkl").write_bytes(b""), "is a pickle"),
        (lambda folder: (folder / "run.py").write_text(""), "does not belong in an adapter"),
        (lambda folder: (folder / ".hidden").write_text(""), "does not belong in an adapter"),
        (lambda folder: (folder / CONFIG).unlink(), f"has no {CONFIG}"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    ],
)
def test_files_that_are_no_adapter(
    registry: Registry, adapter_folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(adapter_folder)
    assert said in refusal(registry, adapter_folder)


def test_no_folder(registry: Registry, tmp_path: Path) -> None:
    assert "is not a folder" in refusal(registry, tmp_path / "none")
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(registry, tmp_path / "file")


def test_a_file_that_cannot_be_opened_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match=r"none cannot be read: No such file or directory\."):
        read_header(tmp_path / "none")


def test_a_pickle_is_not_even_opened(registry: Registry, adapter_folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(adapter_folder.parent / "sentinel"),))

    (adapter_folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload()))
    assert "safe_serialization=True" in refusal(registry, adapter_folder)
    assert not (adapter_folder.parent / "sentinel").exists()


# -- what is served as it should be -----------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"use_rslora": True}, {}),
        ({"lora_alpha": 7.5}, {}),
        ({"init_lora_weights": "gaussian"}, {}),
        ({"target_modules": r".*\.(q|k|v|o|gate|up|down)_proj"}, {}),
        ({"loftq_config": {}, "use_dora": False, "modules_to_save": None}, {}),
        (
            {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 2}},
            {A: ones(2, 32), B: ones(32, 2)},
        ),
        ({}, {A: ones(RANK, 32, dtype="float16"), B: ones(32, RANK, dtype="float16")}),
        ({}, {B: zeros(32, RANK)}),
    ],
)
def test_sound_adapters(
    make_adapter: MakeAdapter,
    config: Mapping[str, Any],
    tensors: Mapping[str, numpy.ndarray | None],
) -> None:
    assert check_adapter(make_adapter(config=config, tensors=tensors), LLAMA).findings == ()


def test_every_finding_is_told_up_to_a_handful(
    registry: Registry, make_adapter: MakeAdapter
) -> None:
    spoilt = {name: None for name in lora_tensors(0) if "lora_B" in name}
    said = refusal(registry, make_adapter(tensors=spoilt))
    assert said.count("has only one of") == 5
    assert f"And {len(spoilt) - 5} more." in said


# -- the base ---------------------------------------------------------------------------------


def moved(folder: Path, change: Callable[[str], str]) -> Path:
    """Rename every tensor."""
    path = folder / WEIGHTS
    save_file({change(name): values for name, values in load_file(path).items()}, path)
    return folder


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"num_hidden_layers": 1}, "the base has 1 layers, 0 to 0"),
        ({"hidden_size": 64}, "maps 32 to 32 where the base maps 64 to 32"),
        ({"num_key_value_heads": 4}, "maps 32 to 16 where the base maps 32 to 32"),
        ({"num_attention_heads": 8}, "maps 32 to 32 where the base maps 32 to 64"),
        ({"head_dim": 16}, "maps 32 to 16 where the base maps 32 to 32"),
        ({"intermediate_size": 64}, "where the base maps 32 to 64"),
        ({"model_type": "unheard-of", "num_hidden_layers": 1}, "the base has 1 layers"),
    ],
)
def test_another_base(adapter_folder: Path, base: Mapping[str, Any], said: str) -> None:
    findings = check_adapter(adapter_folder, {**LLAMA, **base}).findings
    assert findings
    assert all(finding.fix for finding in findings)
    assert any(said in finding.message for finding in findings)
    assert check_adapter(adapter_folder).findings == (), "unknown base: nothing to compare"


@pytest.mark.parametrize(
    "base",
    [
        {},
        {"head_dim": None},
        {"model_type": "mistral"},
        {"model_type": "qwen3"},
        {"model_type": "unheard-of", "hidden_size": 999},
    ],
)
def test_the_right_base(adapter_folder: Path, base: Mapping[str, Any]) -> None:
    assert check_adapter(adapter_folder, {**LLAMA, **base}).findings == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("model.layers.", "layers."),
        lambda name: name.replace("model.layers.", "model.language_model.layers."),
        lambda name: name.replace("self_attn.", "attention."),
        lambda name: name.replace("layers.1.", "layers.999."),
    ],
)
def test_modules_that_the_base_does_not_have(
    adapter_folder: Path, change: Callable[[str], str]
) -> None:
    """vLLM 0.32 loads each of these without a word and answers as the base."""
    assert check_adapter(moved(adapter_folder, change), LLAMA).findings


def test_embeddings_where_vllm_serves_them(make_adapter: MakeAdapter) -> None:
    prefix = "base_model.model."
    folder = make_adapter(
        config={"target_modules": [*LINEAR, "embed_tokens", "lm_head"]},
        tensors={
            f"{prefix}model.embed_tokens.lora_embedding_A": ones(RANK, 64),
            f"{prefix}model.embed_tokens.lora_embedding_B": ones(32, RANK),
            f"{prefix}lm_head.lora_A.weight": ones(RANK, 32),
            f"{prefix}lm_head.lora_B.weight": ones(64, RANK),
        },
    )
    assert check_adapter(folder, LLAMA).findings == ()
    assert {f.where for f in check_adapter(folder, {**LLAMA, "model_type": "qwen2"}).findings} == {
        "model.embed_tokens",
        "lm_head",
    }
    assert check_adapter(folder, {**LLAMA, "vocab_size": 65}).findings


@pytest.mark.parametrize("content", ["", "[]", "{", '{"hidden_size": NaN}'])
def test_a_base_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Rejected, match="Name the folder of a whole base"):
        read_base_config(tmp_path)


def test_a_base_that_lacks_its_sizes(adapter_folder: Path) -> None:
    with pytest.raises(AdaptersError, match="lacks 'hidden_size'"):
        check_adapter(adapter_folder, {"model_type": "llama", "num_hidden_layers": 2})
