"""The recipe: every choice of a training run, under the names PEFT, TRL and transformers use.

A default lives here and nowhere else. A key that is not known is refused, never ignored.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from adapters.errors import UsageError, nearest

METHODS = ("qlora", "lora")
ALL_LINEAR = "all-linear"


_RANGES: dict[str, tuple[float, float]] = {
    "test_size": (0, 0.5),
    "r": (1, 512),
    "lora_alpha": (1e-3, 1e5),
    "lora_dropout": (0, 0.9),
    "max_length": (8, 1 << 20),
    "num_train_epochs": (1e-3, 1e4),
    "max_steps": (-1, 1 << 31),
    "per_device_train_batch_size": (1, 1 << 16),
    "gradient_accumulation_steps": (1, 1 << 16),
    "learning_rate": (1e-9, 1),
    "warmup_steps": (0, 1 << 31),
    "weight_decay": (0, 10),
    "max_grad_norm": (0, 1e6),
    "seed": (0, (1 << 32) - 1),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run trains. Sources: `peft.LoraConfig`, `trl.SFTConfig`, `BitsAndBytesConfig`."""

    method: Literal["qlora", "lora"] = "qlora"
    """`qlora`: the base in NF4 with double quantisation (arXiv 2305.14314). `lora`: as it is.

    Of a mixture bitsandbytes leaves the experts as they are: little memory is saved.
    """

    # The dataset's columns
    prompt_column: str | None = None
    completion_column: str | None = None
    test_size: float = 0.05
    """Share of the rows that is held out, 0 to 0.5. A row's side depends on its text alone."""

    # The adapter (peft.LoraConfig)
    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    """`all-linear` (all but the head; of a mixture of experts the attention), or modules' names."""
    use_rslora: bool = False

    # The run (trl.SFTConfig)
    max_length: int = 1024
    """Tokens a row may have; longer rows are cut at the end, and counted."""
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 2e-4
    """About ten times full fine-tuning's (https://thinkingmachines.ai/blog/lora)."""
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03
    """Below 1: that share of all steps."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    gradient_checkpointing: bool | None = None
    """None: on a GPU, where memory is short; not on a CPU, where time is."""
    train_sampling_strategy: str = "group_by_length"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what types cannot say.

        Raises:
            UsageError: a value out of its range.
        """
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}.", fix=f"Use {low} to {high}.")
        if self.method not in METHODS:
            raise UsageError(f"No method {self.method!r}.", fix=f"Use {' or '.join(METHODS)}.")

    def as_json(self) -> dict[str, Any]:
        """Return every choice, defaults included: what the manifest keeps."""
        return asdict(self)


def read_recipe(path: Path | None, flags: Mapping[str, Any]) -> Recipe:
    """Return the defaults, overridden by a YAML file, overridden by flags.

    Raises:
        UsageError: the file cannot be read, holds an unknown key (the nearest is named) or a
            value of the wrong type or range.
    """
    chosen = _read_yaml(path) if path else {}
    kinds = typing.get_type_hints(Recipe)
    for key, value in chosen.items():
        if key not in kinds:
            raise UsageError(
                f"{path}: no recipe key {key!r}.",
                fix=nearest(key, kinds) or f"The keys are {', '.join(kinds)}.",
            )
        chosen[key] = _as(kinds[key], value, f"{path}: {key}")
    merged = {**chosen, **flags}
    if isinstance(names := merged.get("target_modules"), str) and names != ALL_LINEAR:
        merged["target_modules"] = tuple(name.strip() for name in names.split(","))
    return Recipe(**merged)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", fix="Write YAML, KEY: VALUE."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} is not a recipe.", fix="Write one KEY: VALUE a line.")
    return content


def _as(kind: Any, value: Any, where: str) -> Any:
    """Return `value` as a field's type; YAML reads 3e-4 as text and [q_proj] as a list."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if option is bool and isinstance(value, bool):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                continue
        if option is str and isinstance(value, str):
            return value
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(str(each) for each in value)
    raise UsageError(f"{where} is {value!r}.", fix=f"It takes {_name(kind)}.")


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


KEYS = tuple(field.name for field in fields(Recipe))
