"""The true ΔW of an adapter of any kind: PEFT merges it into its base, and the base is subtracted.

This is DoRA's with its magnitude (PEFT's own converter leaves that out), and that of PiSSA and
OLoRA, whose changed base PEFT computes again. Needs the memory of the base in float32 and of one
module.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from adapters.errors import Rejected
from adapters.files import WEIGHTS_FILE
from adapters.lint import read_base_config
from adapters.projections import every

# fmt: off
TYPES = (
    "LORA", "ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA",
    "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT",
)
# fmt: on
"""Those whose ΔW is fixed, and which PEFT merges into what it runs; a test holds each to it."""
_PROMPTS = "adds to the prompt or to attention, which no ΔW does"
WITHOUT_DELTA: Mapping[str, str] = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"), _PROMPTS
    ),
    **dict.fromkeys(("CPT", "CARTRIDGE", "ADAPTION_PROMPT"), _PROMPTS),
    **dict.fromkeys(("XLORA", "POLY", "LILY", "SHADOW"), "has no fixed ΔW for each projection"),
    "BEFT": "trains biases, which LoRA has not",
    "LN_TUNING": "trains norms, which LoRA has not",
    "TRAINABLE_TOKENS": "trains tokens, which LoRA on projections has not",
}
FIELDS = ("use_dora", "kasa_config", "use_bdlora", "init_lora_weights")
"""Of a LoraConfig: what vLLM does not serve and PEFT merges."""
INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica", "pissa", "olora")
"""Those that leave the base as it is, or that PEFT computes from it alone and always the same."""


def deltas(folder: Path, base: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield ΔW (out, in), float32, of each changed projection, one at a time.

    Shows progress on stderr at a terminal.

    Raises:
        Rejected: PEFT cannot merge it, or it changes what LoRA on projections does not.
    """
    config = read_base_config(base)
    if config.get("quantization_config"):
        raise Rejected(
            f"{base} is quantised, so nothing can be merged into it.",
            fix="Name the base that it was quantised from: --base B",
        )
    known, count = set(every(config)), 0
    with ExitStack() as files:
        originals = _originals(base, files)
        merged = _merged(folder, base, originals)
        for name in tqdm(
            list(merged),
            unit="tensor",
            desc="converting",
            file=sys.stderr,
            disable=None,
            leave=False,
        ):
            after = merged.pop(name)
            before = originals[name].get_tensor(name).float()
            if torch.equal(after, before):
                continue
            module = name.removesuffix(".weight")
            if module not in known or not name.startswith("model.layers."):
                raise _not_converted(folder, name)
            if not after.isfinite().all():
                raise Rejected(f"{folder} gives NaN or infinity in {module}.", fix="Train anew.")
            count += 1
            yield module, after.sub_(before)
    if not count:
        raise Rejected(f"{folder} changes nothing.", fix="Save it after training.")


def _originals(base: Path, files: ExitStack) -> dict[str, Any]:
    """Return the open file that holds each of the base's weights: mapped, and not read yet."""
    opened = [
        files.enter_context(safe_open(path, framework="pt"))
        for path in sorted(base.glob("*.safetensors"))
    ]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


def _not_converted(folder: Path, name: str) -> Rejected:
    return Rejected(
        f"{folder} changes {name}, which is not converted.", fix="Train a LoRA on projections."
    )


def _merged(folder: Path, base: Path, originals: Collection[str]) -> dict[str, Tensor]:
    """Return the base's weights, float32, with the whole adapter merged into them.

    Only those that the base's files hold by that name: the experts of a mixture are stacked on
    loading. Of the others it is only made sure that they are as before.
    """
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors that lack, which is refused here
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = _others(model, originals)
        try:
            peft = PeftModel.from_pretrained(model, folder)
            taken = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
            with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
                unknown = taken ^ set(file.keys())
            merged = peft.merge_and_unload()
        except Exception as error:  # PEFT raises whatever its many methods do
            said = (str(error).splitlines() or [""])[0]
            raise Rejected(
                f"PEFT cannot merge {folder}: {type(error).__name__}: {said}", fix="Train a LoRA."
            ) from error
    if unknown:
        raise Rejected(
            f"{folder} and its configuration do not agree on {min(unknown)}.",
            fix="Save it again with save_pretrained().",
        )
    after = _others(merged, originals)
    if before.keys() != after.keys():
        raise Rejected(f"{folder} changes the base's layout.", fix="Train a LoRA.")
    if changed := sorted(name for name in before if before[name] != after[name]):
        raise _not_converted(folder, changed[0])
    return {n: value.data for n, value in merged.named_parameters() if n in originals}


def _others(model: torch.nn.Module, originals: Collection[str]) -> dict[str, int | float]:
    """Return, of each parameter by name, 0, or a hash where it is not among `originals`."""
    return {
        name: 0 if name in originals else torch.hash_tensor(value.data).view(torch.int64).item()
        for name, value in model.named_parameters()
    }
