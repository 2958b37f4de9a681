"""Reward models and other classifiers: a head, saved whole beside LoRA.

vLLM takes such an adapter in an engine that classifies, and puts its head in the place of the
base's (`vllm.lora.layers.classifier`). An engine that generates has no such head and refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.lint.findings import Finding
from adapters.weights import Tensor

CLASSIFIER = "SEQ_CLS"
"""PEFT's task type."""
HEAD_KEY = "base_model.model.score.weight"
"""The head's tensor, (labels, hidden)."""
_HEADS = ("score", "classifier")
"""PEFT names both; decoder-only classifiers have the first."""


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Say whether an adapter_config.json is of a classifier whose head vLLM serves."""
    saved = config.get("modules_to_save")
    return (
        config.get("task_type") == CLASSIFIER
        and isinstance(saved, list)
        and _HEADS[0] in saved
        and all(name in _HEADS for name in saved)
    )


def check_head(
    tensors: Mapping[str, Tensor], base_config: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """Find what is wrong with a classifier's head; say what kind of server takes it."""
    head = tensors.get(HEAD_KEY)
    if head is None:
        yield Finding("missing", HEAD_KEY, "the head was not saved", "Save it with PEFT.")
        return
    hidden = (base_config or {}).get("hidden_size")
    if len(head.shape) != 2 or (hidden and head.shape[1] != hidden):
        yield Finding(
            "base",
            HEAD_KEY,
            f"{head.shape} where the base has a hidden size of {hidden}",
            "Train on this base, or name the right one.",
        )
        return
    if head.dtype not in ("F32", "F16", "BF16"):
        yield Finding("type", HEAD_KEY, f"{head.dtype} is not served", "Save as float.")
    overrides: dict[str, Any] = {"num_labels": head.shape[0]}
    if architectures := (base_config or {}).get("architectures"):
        named = str(architectures[0]).replace("ForCausalLM", "ForSequenceClassification")
        overrides["architectures"] = [named]
    yield Finding(
        "classifier",
        "task_type",
        "a classifier or reward model: it gives numbers, no text",
        "Serve it with `vllm serve BASE --enable-lora --runner pooling --convert classify "
        f"--hf-overrides '{json.dumps(overrides)}'`.",
    )
