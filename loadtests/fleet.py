"""Many genuine adapters, quickly: seeded PEFT LoRA on a base, published into a registry.

They are not trained, so they say nothing sensible; their shapes, sizes and effects on the
answers are those of trained ones, which is what load and identity need.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapters import bases
from adapters.registry import Registry
from adapters.types import Version


def publish(
    registry: Registry, names: Sequence[str], *, base: str = "tiny", r: int = 16
) -> list[Version]:
    """Publish a version of each name, every one of its own seed; return them in order."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    found = bases.resolve(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(found.path),
        LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=2 * r, target_modules="all-linear"),
    )
    versions = []
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter.data, std=0.1)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's names local paths
            versions.append(registry.publish(name, Path(folder), base=found.model, tags=["load"]))
    return versions
