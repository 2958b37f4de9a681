"""Adapters that began by changing their base, with the initial weights kept; and others to fix.

As PEFT's documentation tells people to: the adapter is saved once before training, with
`init_lora_weights=True`, here as `…-initial` beside the folder. What they return is what was
trained, on the base as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from transformers import PreTrainedModel

from tests.e2e.lint_kinds import Write, base_model, draw, lora_config, other

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def initial_of(folder: Path) -> Path | None:
    """Return where a kind has left its initial weights, if it has."""
    place = folder.parent / f"{folder.name}-initial"
    return place if place.is_dir() else None


def trained(
    folder: Path, config: LoraConfig, base: PreTrainedModel | None = None
) -> torch.nn.Module:
    """Save an adapter before and after it is trained; return the live model."""
    torch.manual_seed(1)
    model, init = get_peft_model(base or base_model(), config), config.init_lora_weights
    for place in (folder.parent / f"{folder.name}-initial", folder):
        model.peft_config["default"].init_lora_weights = True if place != folder else init
        model.save_pretrained(place, save_embedding_layers=False)
        (place / "README.md").unlink(missing_ok=True)
        if place != folder:
            draw(model)
    return model.eval()


def kept(init: str, **options: Any) -> Callable[[Path], torch.nn.Module]:
    def write(folder: Path) -> torch.nn.Module:
        return trained(folder, lora_config(init_lora_weights=init, **options))

    return write


def corda(folder: Path) -> torch.nn.Module:
    from peft.tuners.lora.corda import preprocess_corda

    model = base_model()
    config = lora_config(
        init_lora_weights="corda", target_modules=ATTENTION, corda_config=CordaConfig()
    )

    def run() -> None:
        torch.manual_seed(2)
        model(input_ids=torch.randint(5, 2000, (1, 512)))

    preprocess_corda(model, config, run_model=run)
    return trained(folder, config, model)


def lora_ga(folder: Path) -> torch.nn.Module:
    from peft.tuners.lora.loraga import preprocess_loraga

    model, config = base_model(), lora_config(init_lora_weights="lora_ga", target_modules=ATTENTION)
    config.lora_ga_config = peft.LoraGAConfig()

    def step() -> None:
        tokens = torch.arange(5, 37)[None]
        model(input_ids=tokens, labels=tokens).loss.backward()

    preprocess_loraga(model, config, step)
    return trained(folder, config, model)


def quantised(init: str) -> Callable[[Path], torch.nn.Module]:
    """The initialisation computed from a base in NF4, converted by PEFT and run on the base."""

    def write(folder: Path) -> torch.nn.Module:
        base = base_model()
        for module in base.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                packed, state = bnb.quantize_4bit(module.weight.data, quant_type="nf4")
                module.weight.data = bnb.dequantize_4bit(packed, state)
        model = trained(folder, lora_config(init_lora_weights=init), base)
        model.save_pretrained(
            folder / "converted",
            path_initial_model_for_weight_conversion=str(initial_of(folder)),
        )
        converted = PeftModel.from_pretrained(base_model(), folder / "converted")
        for path in (folder / "converted").iterdir():
            path.unlink()
        (folder / "converted").rmdir()
        return converted.eval()

    return write


# fmt: off
KINDS: Mapping[str, Write] = {
    "corda, initial kept": corda,
    "lora_ga, initial kept": lora_ga,
    "pissa_niter, initial kept": kept("pissa_niter_2", target_modules=ATTENTION),
    "pissa, rslora and patterns": kept("pissa", use_rslora=True, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 4}, alpha_pattern={"q_proj": 3}),  # noqa: E501
    "olora of a quantised base": quantised("olora"),
    "hra": other("HRAConfig", r=4, target_modules=["q_proj", "o_proj"]),
    "delora": other("DeloraConfig", target_modules=["q_proj", "down_proj"]),
}
# fmt: on
FIXED: Mapping[str, str] = {
    kind: kind for kind in (*KINDS, "velora", "monteclora", "kasa", "bd_lora")
}
"""As `lint_kinds.FIXED`."""
