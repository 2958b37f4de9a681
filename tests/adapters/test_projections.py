"""The modules and sizes told of a base are those of transformers, and those that vLLM serves."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

from adapters.mixtures import FUSED
from adapters.projections import _LIKE_LLAMA, EMBEDDINGS, sizes

DENSE = sorted(_LIKE_LLAMA.keys() - FUSED - {"qwen2_moe"})
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VLLM = importlib.util.find_spec("vllm")
assert VLLM
assert VLLM.origin
MODELS = Path(VLLM.origin).parent / "model_executor" / "models"


@pytest.mark.parametrize("model_type", DENSE)
def test_sizes_are_those_of_transformers(model_type: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[model_type](**SIZES)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    theirs = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    theirs["model.embed_tokens"] = (64, 32)
    ours = sizes(json.loads(config.to_json_string()))
    assert ours.items() <= theirs.items()
    left_out = {name.rpartition(".")[2] for name in theirs.keys() - ours.keys()}
    known = {*EMBEDDINGS} - {*_LIKE_LLAMA[model_type]}
    assert left_out == known | ({"gate_up_proj"} if model_type == "glm4" else set())


@pytest.mark.parametrize("model_type", DENSE)
def test_vllm_serves_lora_on_these_embeddings(model_type: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    entry = rf'"{architecture}": \(\s*"(\w+)",\s*"(\w+)",?\s*\)'
    (found,) = set(re.findall(entry, (MODELS / "registry.py").read_text()))
    module, name = ("transformers/base", "Base") if found[0] == "transformers" else found
    assert embeddings(module, name) == {*_LIKE_LLAMA[model_type]}


def embeddings(module: str, name: str) -> set[str]:
    """Return `embedding_modules` of a class of vLLM that serves LoRA, from its source."""
    tree = ast.parse((MODELS / f"{module}.py").read_text())
    (found,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    bases = {base.id for base in found.bases if isinstance(base, ast.Name)}
    assert bases & {"SupportsLoRA", "LlamaForCausalLM"}
    for node in found.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "embedding_modules":
            return {*ast.literal_eval(node.value)}
    return embeddings("llama", "LlamaForCausalLM") if "LlamaForCausalLM" in bases else set()
