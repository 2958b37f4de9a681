"""Many genuine adapters, quickly: seeded PEFT LoRA on a base, published into a registry.

They are not trained, so they say nothing sensible; their shapes, sizes and effects on the
answers are those of trained ones, which is what load and identity need.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapters import bases, canary
from adapters.files import CANARY_FILE
from adapters.registry import Registry
from adapters.types import Version


class Maker:
    """Writes PEFT folders with random weights, every one of its own seed."""

    def __init__(self, base: str = "tiny", r: int = 16) -> None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        self.base = bases.resolve(base)
        self._model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(self.base.path),
            LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=2 * r, target_modules="all-linear"),
        )

    def write(self, folder: Path, seed: int) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` into a folder."""
        import torch

        torch.manual_seed(seed)
        for key, parameter in self._model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter.data, std=0.1)
        self._model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's names local paths

    def record(self, folder: Path) -> None:
        """Write into a folder how what was written last answers the canary."""
        from train.canary import answers

        (folder / CANARY_FILE).write_bytes(canary.to_bytes(answers(self._model)))


def publish(
    registry: Registry, names: Sequence[str], *, base: str = "tiny", r: int = 16
) -> list[Version]:
    """Publish a version of each name, every one of its own seed; return them in order."""
    maker, versions = Maker(base, r), []
    for seed, name in enumerate(names):
        with tempfile.TemporaryDirectory() as folder:
            maker.write(Path(folder), seed)
            maker.record(Path(folder))
            model = maker.base.model
            versions.append(registry.publish(name, Path(folder), base=model, tags=["load"]))
    return versions
