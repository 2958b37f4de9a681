"""Adapters on mixtures of experts: three tiny bases, and what PEFT and others save for them.

Since transformers 5 the experts of a layer are two 3-D parameters, and PEFT saves one pair of
factors for all of them; files from before it hold a pair for each projection of each expert.
Both layouts are here, whole and broken.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.e2e.lint_kinds import TINY, Tensors, draw, each, lora_config, without

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FUSED = ["experts.gate_up_proj", "experts.down_proj"]
HIDDEN, INNER, DENSE, SHARED, EXPERTS, RANK = 64, 48, 96, 80, 4, 4
QUERIES, KEYS = 64, 32
_SIZES = {
    "vocab_size": 2048,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_QWEN = {
    **_SIZES,
    "num_experts": EXPERTS,
    "moe_intermediate_size": INNER,
    "intermediate_size": DENSE,
    "mlp_only_layers": [1],
}
BASES: Mapping[str, Mapping[str, Any]] = {
    "qwen3_moe": {**_QWEN, "head_dim": 32},
    "qwen2_moe": {**_QWEN, "shared_expert_intermediate_size": SHARED},
    "mixtral": {**_SIZES, "num_local_experts": EXPERTS, "intermediate_size": INNER},
}
NAMES = {"mixtral": ("w1", "w3", "w2")}
OLD_BLOCKS = {"mixtral": "block_sparse_moe"}
"""What a mixture is called before transformers 5, and in vLLM."""
MIXED_LAYERS = {"mixtral": (0, 1, 2)}


@cache
def _base(model_type: str, changes: tuple[tuple[str, Any], ...]) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **{**BASES[model_type], **dict(changes)})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float().eval()


def base_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """Return the base of this type, in float32 and of random weights; or one of other sizes."""
    return copy.deepcopy(_base(model_type, tuple(changes.items())))


def write_base(model_type: str, folder: Path) -> None:
    """Save a base, with the tokenizer of `tiny`."""
    base_model(model_type).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder)


Write = Callable[[str, Path], None]
"""Writes a folder for a base of this type."""


def lora(changes: Mapping[str, Any] = {}, **options: Any) -> Write:
    """What PEFT saves, on a base with changes."""

    def write(model_type: str, folder: Path) -> None:
        plain = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ATTENTION}
        torch.manual_seed(1)
        base = base_model(model_type, **changes)
        model = get_peft_model(base, lora_config(**{**plain, **options}))
        draw(model, 0.15)
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

    return write


def single(
    change: Callable[[Tensors], object] = lambda _: None,
    *,
    experts: int = EXPERTS,
    inner: int = INNER,
    block: str = "",
    names: tuple[str, ...] = (),
    attention: bool = True,
    others: Mapping[str, tuple[int, int]] = {},
    **fields: Any,
) -> Write:
    """A file from before transformers 5: pairs for each expert, for `others` by path, changed."""

    def write(model_type: str, folder: Path) -> None:
        gate, up, down = names or NAMES.get(model_type, ("gate_proj", "up_proj", "down_proj"))
        mixture = block or OLD_BLOCKS.get(model_type, "mlp")
        sizes = dict(others)
        for layer in range(3) if attention else ():
            sizes[f"layers.{layer}.self_attn.q_proj"] = HIDDEN, QUERIES
            sizes[f"layers.{layer}.self_attn.v_proj"] = HIDDEN, KEYS
        for layer in MIXED_LAYERS.get(model_type, (0, 2)):
            for expert in range(experts):
                at = f"layers.{layer}.{mixture}.experts.{expert}"
                sizes[f"{at}.{gate}"] = sizes[f"{at}.{up}"] = HIDDEN, inner
                sizes[f"{at}.{down}"] = inner, HIDDEN
        torch.manual_seed(2)
        tensors = {}
        for module, (size_in, size_out) in sizes.items():
            name = f"base_model.model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = 0.15 * torch.randn(RANK, size_in)
            tensors[f"{name}.lora_B.weight"] = 0.15 * torch.randn(size_out, RANK)
        change(tensors)
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "target_modules": sorted({module.rpartition(".")[2] for module in sizes}),
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))

    return write


def cut(part: str, rank: int) -> Callable[[Tensors], None]:
    """Give what has this in its name another rank."""

    def change(tensors: Tensors) -> None:
        for name, value in tensors.items():
            if part in name:
                tensors[name] = (value[:rank] if "lora_A" in name else value[:, :rank]).clone()

    return change


def stripped(write: Write, *parts: str, **fields: Any) -> Write:
    """The same without the tensors that have all of these in their names."""

    def write_less(model_type: str, folder: Path) -> None:
        write(model_type, folder)
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        if parts:
            without(*parts)(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))

    return write_less


_ROUTERS = {f"layers.{layer}.block_sparse_moe.gate": (HIDDEN, EXPERTS) for layer in range(3)}
_PERCEPTRON = {
    "layers.1.mlp.gate_proj": (HIDDEN, DENSE),
    "layers.1.mlp.up_proj": (HIDDEN, DENSE),
    "layers.1.mlp.down_proj": (DENSE, HIDDEN),
}
_PROJECTIONS = ["gate_proj", "up_proj", "down_proj"]
# fmt: off
COMMON: Mapping[str, Write] = {
    "attention": lora(),
    "rank_pattern, alpha_pattern, rslora": lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, use_rslora=True),  # noqa: E501
    "an expression": lora(target_modules=r".*self_attn\.(q|v)_proj"),
    "layers_to_transform": lora(layers_to_transform=[0, 2]),
    "embed_tokens": lora(target_modules=["q_proj", "embed_tokens"]),
    "lm_head": lora(target_modules=["q_proj", "lm_head"]),
    "all-linear": lora(target_modules="all-linear"),
    "experts' parameters": lora(target_parameters=FUSED),
    "a layer's attention missing": stripped(lora(), ".layers.1."),
    "an expert's pairs each": single(),
    "smaller base": lora({"hidden_size": 32, "head_dim": 32}),
    "more layers": lora({"num_hidden_layers": 4}),
    "fewer layers": lora({"num_hidden_layers": 2}),
}
QWEN3: Mapping[str, Write] = {
    **COMMON,
    "router": lora(target_parameters=["gate.weight"]),
    "router, experts' parameters": lora(target_parameters=["gate.weight", *FUSED]),
    "experts alone": single(attention=False),
    "experts in bfloat16": single(each("lora", lambda value: value.bfloat16())),
    "experts by expression": single(target_modules=r".*\.(q_proj|v_proj|gate_proj|up_proj|down_proj)"),  # noqa: E501
    "experts by paths": single(target_modules=["q_proj", "v_proj", *(f"experts.{n}.{name}" for n in range(EXPERTS) for name in _PROJECTIONS)]),  # noqa: E501
    "experts and dense layers": single(others=_PERCEPTRON),
    "experts not targeted": single(target_modules=["q_proj", "v_proj"]),
    "experts with alpha_pattern for down": single(alpha_pattern={"down_proj": 3}),
    "experts with alpha_pattern for gate": single(alpha_pattern={"gate_proj": 3}),
    "experts with alpha_pattern for one": single(alpha_pattern={"experts.1.down_proj": 3}),
    "experts with rank_pattern for down": single(cut(".down_proj.", 2), rank_pattern={"down_proj": 2}),  # noqa: E501
    "experts with rslora": single(use_rslora=True),
    "an expert missing": single(without(".experts.2.")),
    "an expert's projection missing": single(without("layers.0", ".experts.1.up_proj")),
    "an expert's B missing": single(without("layers.0", ".experts.1.up_proj.lora_B")),
    "a layer's experts missing": single(without("layers.2", ".experts.")),
    "down_proj alone": stripped(single(), "gate_proj", target_modules=["q_proj", "v_proj", "down_proj"]),  # noqa: E501
    "an expression for one layer": stripped(stripped(lora(target_modules=["q_proj"]), ".layers.1."), ".layers.2.", target_modules=r".*layers\.0\..*q_proj"),  # noqa: E501
    "an expert too many": single(experts=EXPERTS + 1),
    "fewer experts": single(experts=EXPERTS - 1),
    "smaller experts": single(inner=INNER - 8),
}
MIXTRAL: Mapping[str, Write] = {
    **COMMON,
    "router": lora(target_parameters=["gate.weight"]),
    "router of old": single(without(".experts."), others=_ROUTERS, target_modules=["q_proj", "v_proj", "gate"]),  # noqa: E501
    "router of old by parameter": single(without(".experts."), others=_ROUTERS, target_modules=["q_proj", "v_proj"], target_parameters=["gate.weight"]),  # noqa: E501
    "router of old with alpha_pattern": single(others=_ROUTERS, alpha_pattern={"gate": 40}),
    "experts and router": single(others=_ROUTERS),
    "experts with alpha_pattern for w2": single(alpha_pattern={"w2": 3}),
    "experts under the new name": single(block="mlp"),
    "experts by the new names": single(names=("gate_proj", "up_proj", "down_proj")),
}
QWEN2: Mapping[str, Write] = {
    **COMMON,
    "router": lora(target_parameters=["gate.weight"]),
    "router alone": lora(target_modules=[], target_parameters=["gate.weight"]),
    "router as a module": stripped(lora(target_parameters=["gate.weight"]), target_modules=[*ATTENTION, "gate"], target_parameters=None),  # noqa: E501
    "shared expert": lora(target_modules=["q_proj", *(f"shared_expert.{n}" for n in _PROJECTIONS)]),
    "shared expert's up_proj alone": lora(target_modules=["shared_expert.up_proj"]),
    "shared expert and dense layers": lora(target_modules=["q_proj", *_PROJECTIONS]),
    "shared expert's gate": lora(target_modules=["q_proj", "shared_expert_gate"]),
    "smaller shared expert": lora({"shared_expert_intermediate_size": 64}, target_modules=["q_proj", "shared_expert.up_proj"]),  # noqa: E501
}
# fmt: on
KINDS: Mapping[str, Mapping[str, Write]] = {
    "qwen3_moe": QWEN3,
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2,
}
