"""Many genuine adapters, quickly: seeded PEFT LoRA on a base, published into a registry.

They are not trained, so they say nothing sensible; their shapes, sizes and effects on the
answers are those of trained ones, which is what load and identity need.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from adapters import bases
from adapters.registry import Registry
from adapters.types import Version


def publish(registry: Registry, count: int, *, base: str = "tiny", r: int = 16) -> list[Version]:
    """Publish `count` adapters, `fleet-0` …, each of its own seed; return their versions."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    found = bases.resolve(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(found.path),
        LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=2 * r, target_modules="all-linear"),
    )
    versions = []
    for number in range(count):
        torch.manual_seed(number)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter.data, std=0.05)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's names local paths
            versions.append(
                registry.publish(f"fleet-{number}", Path(folder), base=found.model, tags=["load"])
            )
    return versions
