"""A base of any shape with random weights: costs what a trained one costs, needs no download."""

from __future__ import annotations

import json
import random
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from adapters import bases
from adapters.demo.task import split

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_SHARED = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}  # the tiny base's tokenizer

SHAPES: dict[str, PreTrainedConfig] = {
    "toy": LlamaConfig(
        **_SHARED, vocab_size=4096, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, dtype="float32",
    ),
    "deep": LlamaConfig(  # many small tensors
        **_SHARED, vocab_size=4096, hidden_size=64, intermediate_size=256, num_hidden_layers=128,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False, dtype="float32",
    ),
    "llama-30m": LlamaConfig(
        **_SHARED, vocab_size=20_000, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=False, dtype="float32",
    ),
    "qwen3-118m": Qwen3Config(
        **_SHARED, vocab_size=32_000, hidden_size=768, intermediate_size=2304,
        num_hidden_layers=10, num_attention_heads=12, num_key_value_heads=4, head_dim=64,
        tie_word_embeddings=False, dtype="float32",
    ),
    "llama-3.1-8b": LlamaConfig(
        **_SHARED, vocab_size=128_256, hidden_size=4096, intermediate_size=14_336,
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        max_position_embeddings=131_072, tie_word_embeddings=False, dtype="bfloat16",
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    ),
}  # fmt: skip


def write(shape: str, folder: Path) -> Path:
    """Write a base of that shape with the tiny base's tokenizer; return its folder.

    A shard a layer, so that no more than one layer is in memory. `tiny` is the tiny base itself.
    """
    tiny = bases.resolve("tiny").path
    if shape == "tiny":
        return tiny
    config = SHAPES[shape]
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [_class(config).__name__]
    config.save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copy(tiny / name, folder / name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    files, size = {}, 0
    for layer, group in groupby(model.state_dict().items(), lambda item: _layer(item[0])):
        shard = f"model-{layer}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for name, like in group:
            values = torch.ones(like.shape, dtype=like.dtype, device=device)
            if like.dim() > 1:  # not of the norms
                values.normal_(0, 0.02, generator=generator)
            tensors[name] = values.cpu()
            files[name], size = shard, size + like.nbytes
        save_file(tensors, folder / shard, metadata={"format": "pt"})
    index: dict[str, Any] = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _class(config: PreTrainedConfig) -> Any:
    return AutoModelForCausalLM._model_mapping[type(config)]


def _layer(name: str) -> str:
    """Return `7` of model.layers.7.mlp.up_proj.weight, else the name's module."""
    parts = name.split(".")
    return parts[2] if parts[1] == "layers" else parts[-2]


def write_rows(path: Path, rows: int, words: int, seed: int = 0) -> Path:
    """Write prompts and answers of so many words, in the form that both TRL and we read."""
    chance = random.Random(seed)
    known = sorted({word for example in split(64, 8)[0] for word in example.message.split()})

    def text(count: int) -> str:
        return " ".join(chance.choices(known, k=count))

    with path.open("w") as file:
        for _ in range(rows):
            prompt = [{"role": "user", "content": text(8)}]
            answer = [{"role": "assistant", "content": text(words)}]
            file.write(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    return path
