"""How what was trained answers the canary (`adapters.canary`): servers compare theirs with it."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from adapters.canary import CHOICES, Answers, prompts, to_bytes
from adapters.files import CANARY_FILE, CONFIG_FILE

_LARGEST_BYTES = 2 << 30
"""The largest base whose weights are read once more for this."""


def record(base: Path, folder: Path) -> None:
    """Write the canary's answers beside an adapter's weights.

    The base is loaded as it is served, which a quantised one that trained is not: on the CPU, in
    float32. Nothing is written for a base above 2 GiB, or for what generates no text.
    """
    config = json.loads((folder / CONFIG_FILE).read_text())
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    if config.get("task_type") != "CAUSAL_LM" or not 0 < weights <= _LARGEST_BYTES:
        return
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gc.collect()  # what trained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(model, folder)
    (folder / CANARY_FILE).write_bytes(to_bytes(answers(adapted)))


def answers(model: Any) -> Answers:
    """Answer the canary by a causal language model, whatever adapter it has on."""
    vocabulary = model.config.get_text_config().vocab_size
    was_training = model.training
    model.eval()
    said = []
    with torch.no_grad():
        for prompt in prompts(vocabulary):
            ids = torch.tensor([prompt], device=next(model.parameters()).device)
            logprobs = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
            best = logprobs.topk(min(CHOICES, len(logprobs)))
            said.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    model.train(was_training)
    return tuple(said)
