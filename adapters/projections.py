"""Which modules of a base LoRA may change, and their sizes, from the base's config.json alone.

Covers the dense decoders laid out as Llama is. Of any other architecture only the number of
layers is known here; vLLM checks the rest when it loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.errors import Rejected

_LIKE_LLAMA = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"})
_WITH_EMBEDDINGS = frozenset({"llama", "qwen3"})
"""Where vLLM serves LoRA on the embeddings too (`embedding_modules` of its model class)."""
_LAYER = re.compile(r"model\.layers\.(?P<layer>[0-9]{1,6})\.(?P<inner>.+)")


def problem(config: Mapping[str, Any], module: str, size_in: int, size_out: int) -> str:
    """Say why a LoRA pair of these sizes does not fit a module of the base; empty where it does.

    `size_in`, `size_out`: features that A takes and that B gives; of an embedding, `size_in` is
    the vocabulary.

    Raises:
        Rejected: the base's configuration lacks what its architecture needs.
    """
    found = _LAYER.fullmatch(module)
    layers = config.get("num_hidden_layers")
    if found and isinstance(layers, int) and int(found["layer"]) >= layers:
        return f"the base has {layers} layers, 0 to {layers - 1}"
    if not knows(config):
        return ""
    try:
        sizes = _layer_sizes(config) if found else _outer_sizes(config)
    except (KeyError, TypeError) as error:
        raise Rejected(
            f"The base's config.json lacks {error}.", fix="Name a whole base."
        ) from error
    expected = sizes.get(found["inner"] if found else module)
    if expected is None:
        return f"no LoRA module of a {config['model_type']} base; vLLM would drop it"
    if (size_in, size_out) != expected:
        return f"maps {size_in} to {size_out} where the base maps {expected[0]} to {expected[1]}"
    return ""


def knows(config: Mapping[str, Any]) -> bool:
    """Say whether all modules of this base are known here."""
    return config.get("model_type") in _LIKE_LLAMA


def every(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of each module that LoRA may change; nothing where they are not known.

    Raises:
        Rejected: the base's configuration lacks what its architecture needs.
    """
    if not knows(config):
        return
    try:
        inner, outer = _layer_sizes(config), _outer_sizes(config)
        for layer in range(config["num_hidden_layers"]):
            yield from (f"model.layers.{layer}.{name}" for name in inner)
        yield from outer
    except (KeyError, TypeError) as error:
        raise Rejected(
            f"The base's config.json lacks {error}.", fix="Name a whole base."
        ) from error


def _layer_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (in, out) of each projection of one layer."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, intermediate),
        "mlp.up_proj": (hidden, intermediate),
        "mlp.down_proj": (intermediate, hidden),
    }


def _outer_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    if config["model_type"] not in _WITH_EMBEDDINGS:
        return {}
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    return {"model.embed_tokens": (vocabulary, hidden), "lm_head": (hidden, vocabulary)}
