"""Adapters of every kind, saved by PEFT on the tiny base: what it can write, and what goes wrong.

Each of `KINDS` writes one folder. All weights are drawn at random and large enough to change
the answers, so "served as PEFT serves it" and "left out without a word" look different.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adapters import bases

TINY = bases.resolve("tiny").path
BASE_ID = "switchyard/tiny"
"""As which lint knows it."""
Tensors = dict[str, torch.Tensor]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}"
    r"\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
"""What its `get_peft_regex` writes for a text model."""
Write = Callable[[Path], torch.nn.Module | None]
"""Writes a folder; returns the live model where what PEFT loads from the folder is another."""


@cache
def _tiny() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


def base_model(**changes: Any) -> PreTrainedModel:
    """Return the tiny base in float32; or one of other sizes, of random weights."""
    if changes:
        config = AutoConfig.from_pretrained(TINY, **changes)
        return AutoModelForCausalLM.from_config(config).eval()
    return copy.deepcopy(_tiny())


def draw(model: torch.nn.Module, size: float = 0.1) -> None:
    """Move everything that would be trained by random values of this standard deviation."""
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn_like(parameter)


def saved(
    folder: Path,
    config: peft.PeftConfig,
    base: PreTrainedModel | None = None,
    *,
    size: float = 0.1,
    embeddings: bool | str = False,
) -> torch.nn.Module:
    """Save what this configuration gives on a base; return the live model."""
    torch.manual_seed(1)
    model = get_peft_model(base or base_model(), config)
    draw(model, size)
    model.save_pretrained(folder, save_embedding_layers=embeddings)
    (folder / "README.md").unlink(missing_ok=True)
    return model.eval()


def lora_config(**options: Any) -> LoraConfig:
    plain = {"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    return LoraConfig(**{**plain, **options})


def lora(**options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        saved(folder, lora_config(**options))

    return write


def with_embeddings(change: float = 0.0) -> Callable[[Path], None]:
    """LoRA on embeddings as PEFT saves it unless told not to: the base's own weights beside it."""

    def write(folder: Path) -> None:
        config = lora_config(target_modules=["q_proj", "embed_tokens"])
        saved(folder, config, embeddings="auto")
        path = folder / "adapter_model.safetensors"
        content = load_file(path)
        (own,) = (name for name in content if name.endswith(".base_layer.weight"))
        content[own] = content[own] + change
        save_file(content, path, metadata={"format": "pt"})

    return write


def other(kind: str, size: float = 0.1, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        saved(folder, getattr(peft, kind)(task_type="CAUSAL_LM", **options), size=size)

    return write


def converted(init: str) -> Callable[[Path], None]:
    """The initialisation that changes the base, converted on saving as PEFT advises."""

    def write(folder: Path) -> None:
        model = get_peft_model(base_model(), lora_config(init_lora_weights=init))
        initial = folder.parent / f"{folder.name}-initial"
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial)
        model.peft_config["default"].init_lora_weights = init
        draw(model)
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
        (folder / "README.md").unlink(missing_ok=True)

    return write


def lora_ga(folder: Path) -> torch.nn.Module:
    """LoRA-GA, not converted: the base it was trained on is not the one that is served."""
    from peft.tuners.lora.loraga import preprocess_loraga

    linear = ["q_proj", "k_proj", "v_proj", "o_proj"]  # it does not know "all-linear"
    model, config = base_model(), lora_config(init_lora_weights="lora_ga", target_modules=linear)
    config.lora_ga_config = peft.LoraGAConfig()

    def step() -> None:
        tokens = torch.arange(5, 37)[None]
        model(input_ids=tokens, labels=tokens).loss.backward()

    preprocess_loraga(model, config, step)
    return saved(folder, config, model)


def on_sizes(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        saved(folder, lora_config(), base_model(**changes))

    return write


def spoilt(
    tensors: Callable[[Tensors], object] = lambda _: None, **fields: Any
) -> Callable[[Path], None]:
    """A plain adapter, with its tensors changed in place and fields of its configuration set."""

    def write(folder: Path) -> None:
        saved(folder, lora_config())
        path = folder / "adapter_model.safetensors"
        content = {name: value.clone() for name, value in load_file(path).items()}
        tensors(content)
        save_file(content, path, metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))

    return write


def renamed(old: str, new: str) -> Callable[[Tensors], None]:
    def rename(content: Tensors) -> None:
        for name in list(content):
            content[name.replace(old, new)] = content.pop(name)

    return rename


def without(*parts: str) -> Callable[[Tensors], None]:
    def drop(content: Tensors) -> None:
        for name in [name for name in content if all(part in name for part in parts)]:
            del content[name]

    return drop


def extra_layer(content: Tensors) -> None:
    for name in [name for name in content if ".layers.4." in name]:
        content[name.replace(".layers.4.", ".layers.99.")] = content[name].clone()


def each(part: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(content: Tensors) -> None:
        for name in content:
            if part in name:
                content[name] = value(content[name])

    return change


def one_nan(content: Tensors) -> None:
    content[min(name for name in content if "lora_B" in name)][0, 0] = torch.nan


# fmt: off
KINDS: Mapping[str, Write] = {
    # LoRA's options that stay plain B·A·x·scale
    "plain": lora(),
    "rank 1": lora(r=1),
    "rank 64": lora(r=64),
    "rslora": lora(use_rslora=True),
    "rank_pattern": lora(rank_pattern={"q_proj": 4, "layers.1.mlp.up_proj": 16}),
    "alpha_pattern": lora(alpha_pattern={"q_proj": 4, "down_proj": 40}),
    "rank and alpha_pattern, rslora": lora(rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 9}, use_rslora=True),  # noqa: E501
    "ranks from the root": lora(rank_pattern={"^model.layers.0.self_attn.q_proj": 3, "q_proj": 5}),
    "ranks by expressions": lora(rank_pattern={".*q.proj": 4, r"layers\.[0-2]\..*": 12, "v.pro.": 2}),  # noqa: E501
    "ranks in an order that PEFT does not save": lora(rank_pattern={"q_proj": 4, ".*_proj": 12}),
    "scales by expressions": lora(alpha_pattern={r"(.*)(up|down)_pro.": 40, r"model\.layers\.4\..*": 3}),  # noqa: E501
    "ranks that are not the tensors'": spoilt(rank_pattern={r"layers\.[34]\..*": 4}),
    "scales by another order": spoilt(alpha_pattern={"_proj": 64, ".*_proj": 4, "q_proj": 99}),
    "layers_to_transform": lora(target_modules=["q_proj", "up_proj", "down_proj"], layers_to_transform=[1, 3, 4]),  # noqa: E501
    "q and v only": lora(target_modules=["q_proj", "v_proj"]),
    "a regular expression": lora(target_modules=r".*\.(k|o)_proj"),
    "a regular expression with a module's tensors missing": spoilt(without(".layers.2.", "up_proj"), target_modules=r".*_proj"),  # noqa: E501
    "a regular expression that leaves tensors out": spoilt(target_modules=r".*\.(k|o)_proj"),
    "a regular expression for some layers": lora(target_modules=r"model\.layers\.[13]\..*\.(q|up)_proj"),  # noqa: E501
    "an expression to exclude": lora(exclude_modules=r".*layers\.[0-3]\..*"),
    "as Unsloth writes it": lora(target_modules=UNSLOTH),
    "all-linear, kept": spoilt(target_modules="all-linear"),
    "all-linear, with a module's tensors missing": spoilt(without(".layers.2.", "up_proj"), target_modules="all-linear"),  # noqa: E501
    "layers_pattern": lora(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 2], layers_pattern="lay.rs"),  # noqa: E501
    "whole paths": lora(target_modules=["model.layers.0.mlp.down_proj", "model.layers.2.self_attn.k_proj"]),  # noqa: E501
    "exclude_modules": lora(target_modules=["q_proj", "gate_proj"], exclude_modules=["layers.0.mlp.gate_proj"]),  # noqa: E501
    "embed_tokens": lora(target_modules=["q_proj", "embed_tokens"]),
    "embed_tokens, with the base's": with_embeddings(),
    "embed_tokens, with another base's": with_embeddings(change=0.05),
    "embed_tokens, tied": lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
    "lm_head": lora(target_modules=["q_proj", "lm_head"]),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "mica": lora(init_lora_weights="mica"),
    "eva": lora(init_lora_weights="eva", eva_config=peft.EvaConfig()),
    "float16": spoilt(each("lora", lambda value: value.half())),
    "bfloat16": spoilt(each("lora", lambda value: value.bfloat16())),
    "pissa, converted": converted("pissa"),
    "olora, converted": converted("olora"),
    # LoRA's options that are something else
    "dora": lora(use_dora=True, target_modules=["q_proj", "v_proj"]),
    "bias": lora(bias="all"),
    "lora_bias": lora(lora_bias=True, target_modules=["q_proj"]),
    "modules_to_save": lora(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "trainable_token_indices": lora(trainable_token_indices=[5, 6, 7]),
    "layer_replication": lora(layer_replication=[[0, 3], [1, 5]]),
    "pissa": lora(init_lora_weights="pissa", target_modules=["q_proj", "up_proj"]),
    "olora": lora(init_lora_weights="olora", target_modules=["q_proj", "up_proj"]),
    "lora_ga": lora_ga,
    "alora": lora(alora_invocation_tokens=[9, 9, 9]),
    "target_parameters": lora(target_modules=["k_proj"], target_parameters=["down_proj.weight"]),
    "bd_lora": lora(target_modules=["q_proj", "o_proj"], use_bdlora=peft.BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2)),  # noqa: E501
    "velora": lora(velora_config=peft.VeloraConfig()),
    "monteclora": lora(monteclora_config=peft.MontecloraConfig()),
    "kasa": lora(kasa_config=peft.KasaConfig()),
    # other types
    "vera": other("VeraConfig", 1.0, target_modules=["q_proj", "o_proj"]),
    "loha": other("LoHaConfig", 0.3, target_modules=["q_proj", "o_proj"]),
    "lokr": other("LoKrConfig", target_modules=["q_proj"]),
    "ia3": other("IA3Config", 1.0, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),  # noqa: E501
    "oft": other("OFTConfig", target_modules=["q_proj"]),
    "miss": other("MissConfig", 0.3, target_modules=["q_proj", "o_proj"]),
    "adalora": other("AdaLoraConfig", 0.5, target_modules=["q_proj", "o_proj"], total_step=10),
    "prefix tuning": other("PrefixTuningConfig", num_virtual_tokens=4),
    "prompt tuning": other("PromptTuningConfig", num_virtual_tokens=4),
    # what went wrong on the way
    "prefix without model.": spoilt(renamed("model.model.layers", "model.layers")),
    "prefix of a language model": spoilt(renamed("model.model.layers", "model.model.language_model.layers")),  # noqa: E501
    "no base_model.model.": spoilt(renamed("base_model.model.", "")),
    "a layer's tensors missing": spoilt(without(".layers.2.")),
    "a module's tensors missing": spoilt(without(".layers.2.", "up_proj")),
    "a layer too many": spoilt(extra_layer),
    "B missing": spoilt(without(".layers.1.self_attn.q_proj", "lora_B")),
    "A missing": spoilt(without(".layers.1.self_attn.q_proj", "lora_A")),
    "zero B": spoilt(each("lora_B", torch.zeros_like)),
    "more tensors than are targeted": spoilt(target_modules=["q_proj"]),
    "more layers than are targeted": spoilt(layers_to_transform=[0]),
    "r is not the tensors'": spoilt(r=4),
    "r above the tensors'": spoilt(r=16),
    "another alpha": spoilt(lora_alpha=4),
    "another base's name": spoilt(base_model_name_or_path="switchyard/small"),
    "arrow_config": spoilt(arrow_config={"top_k": 2}),
    "smaller base": on_sizes(hidden_size=96, intermediate_size=256),
    "smaller intermediate size": on_sizes(intermediate_size=256),
    "larger base": on_sizes(hidden_size=384, intermediate_size=1024),
    "more layers": on_sizes(num_hidden_layers=7),
    "fewer layers": on_sizes(num_hidden_layers=3),
    "NaN": spoilt(one_nan),
    "infinity": spoilt(each("lora_B", lambda value: value * torch.inf)),
}
# fmt: on


OF_ANOTHER_BASE = frozenset({"another base's name"})
"""Which say that they were trained on another base: it would be right not to serve them on this
one even where vLLM's answers are those of PEFT on this one."""

FIXED: Mapping[str, str] = {
    **{kind: kind for kind in ("dora", "pissa", "olora", "vera", "loha", "lokr", "ia3", "oft")},
    **{kind: kind for kind in ("miss", "adalora")},
    "prefix without model.": "plain",
    "prefix of a language model": "plain",
    "no base_model.model.": "plain",
}
"""Kinds that `--fix` converts, and the kind that was meant."""


def write_all(
    place: Path, kinds: Mapping[str, Write]
) -> tuple[dict[str, Path], dict[str, torch.nn.Module]]:
    """Write kinds; return the folders by kind, in their order, and live models."""
    folders, live = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of what is meant here
        for number, (kind, write) in enumerate(kinds.items()):
            folders[kind] = place / str(number)
            if model := write(folders[kind]):
                live[kind] = model
    return folders, live
