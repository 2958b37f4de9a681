"""Which modules of a base LoRA may change, and their sizes, from the base's config.json alone.

Covers the decoders laid out as Llama is, dense or with experts. Of any other architecture only
the number of layers is known here; vLLM checks the rest when it loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.errors import Rejected
from adapters.mixtures import feed_forward

EMBEDDINGS = ("embed_tokens", "lm_head")
_LIKE_LLAMA: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "qwen3", "granite", "ernie4_5", "hyperclovax"), EMBEDDINGS),
    **dict.fromkeys(("phi3", "nemotron", "apertus", "qwen3_moe", "mixtral"), EMBEDDINGS),
    **dict.fromkeys(("cohere", "cohere2", "olmo2", "olmo3", "smollm3"), EMBEDDINGS[:1]),
    **dict.fromkeys(("seed_oss", "hunyuan_v1_dense", "arcee", "glm"), EMBEDDINGS[:1]),
    "starcoder2": EMBEDDINGS[:1],
    **dict.fromkeys(("mistral", "ministral3", "qwen2", "qwen2_moe", "glm4"), ()),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), ()),
}
"""By `model_type`: on which of the embeddings vLLM serves LoRA (`embedding_modules`).

Each dense one was tried on vLLM 0.32 with random weights: LoRA on every projection alone and on
all of them answered as PEFT does, on these embeddings too, and on others was refused. (Of gemma2
every projection alone; on all together its greedy tokens part from those of transformers.)
"""
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_JOINED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "phi3": {
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": _GATE_UP,
    },
    "glm": {"mlp.gate_up_proj": _GATE_UP},
    "glm4": {"": _GATE_UP},  # one in transformers, two to vLLM's LoRA: it refuses either
    **{key: {"": _GATE_UP[:1]} for key in ("nemotron", "apertus", "arcee")},
    "starcoder2": {
        "": _GATE_UP[:1],
        "mlp.c_fc": ("mlp.up_proj",),
        "mlp.c_proj": ("mlp.down_proj",),
    },
}
"""By `model_type`: what it calls projections or joins of them; under "" those it does not have."""
_LAYER = re.compile(r"model\.layers\.(?P<layer>[0-9]{1,6})\.(?P<inner>.+)")


def problem(
    config: Mapping[str, Any],
    known: Mapping[str, tuple[int, int]],
    module: str,
    size_in: int,
    size_out: int,
) -> str:
    """Say why a LoRA pair of these sizes does not fit a module of the base; empty where it does.

    `known`: as `sizes`. `size_in`, `size_out`: features that A takes and that B gives; of an
    embedding, `size_in` is the vocabulary.
    """
    found = _LAYER.fullmatch(module)
    layers = config.get("num_hidden_layers")
    if found and isinstance(layers, int) and int(found["layer"]) >= layers:
        return f"the base has {layers} layers, 0 to {layers - 1}"
    if not known:
        return ""
    if module not in known:
        return f"no LoRA module of a {config.get('model_type')} base; vLLM would drop it"
    if (size_in, size_out) != known[module]:
        expected_in, expected_out = known[module]
        return f"maps {size_in} to {size_out} where the base maps {expected_in} to {expected_out}"
    return ""


def knows(config: Mapping[str, Any]) -> bool:
    """Say whether all modules of this base are known here."""
    return config.get("model_type") in _LIKE_LLAMA


def sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (in, out) of each module that LoRA may change; empty where they are not known.

    Raises:
        Rejected: the base's configuration lacks what its architecture needs.
    """
    if not knows(config):
        return {}
    try:
        return {
            f"model.layers.{layer}.{name}": size
            for layer in range(config["num_hidden_layers"])
            for name, size in _layer_sizes(config, layer).items()
        } | _outer_sizes(config)
    except (KeyError, TypeError) as error:
        raise Rejected(
            f"The base's config.json lacks {error}.", fix="Name a whole base."
        ) from error


def every(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of each module that LoRA may change; as `sizes`."""
    yield from sizes(config)


def _layer_sizes(config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, int]]:
    """Return (in, out) of each projection of one layer."""
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    found = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        **feed_forward(config, layer),
    }
    for name, parts in _JOINED.get(config["model_type"], {}).items():
        joined = [found.pop(part) for part in parts]
        if name:
            found[name] = (joined[0][0], sum(size_out for _, size_out in joined))
    return found


def _outer_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    found = {"embed_tokens": (vocabulary, hidden), "lm_head": (hidden, vocabulary)}
    paths = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
    return {paths[name]: found[name] for name in _LIKE_LLAMA[config["model_type"]]}
