"""The recipe: every choice of a training run, under the names PEFT, TRL and transformers use.

A key's type, range, meaning and default stand here and nowhere else: the flags of `adapters train`
are made from them. A key that is not known is refused, never ignored.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from adapters.errors import UsageError, nearest
from train.unservable import refusal

ALL_LINEAR = "all-linear"
ALL = "all"
LOW_RANK = ("qlora", "lora", "qdora", "dora", "pissa", "olora")
"""Tuners whose outcome is a version; see `train.tuners`."""
QUANTISED = ("qlora", "qdora")
CONVERTED = ("qdora", "dora", "pissa", "olora")
"""Those that vLLM does not serve as they are trained; see `train.plain`."""
TUNERS = (*LOW_RANK, "full")
PURPOSES = {
    "sft": ("sft",), "dpo": ("preference",), "reward": ("preference",),
    "kto": ("kto", "preference"), "grpo": ("prompt", "sft"), "rloo": ("prompt", "sft"),
}  # fmt: skip
"""What rows each method learns from (`train.rows.forms.Form.purpose`)."""
ROW_KEYS = (
    "form", "prompt_column", "completion_column", "test_size", "max_length", "too_long",
    "near_duplicates", "near_duplicate_threshold", "max_cut", "max_malformed", "max_masked",
    "max_too_long",
)  # fmt: skip
"""Keys that say how a dataset is read."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a recipe key means, and between what it may lie."""

    help: str
    low: float | None = None
    high: float | None = None
    methods: Mapping[str, Any] = field(default_factory=dict)
    """Of a key whose default the method decides: the methods that use it, with each one's default.
    It is refused with any other method."""
    tuners: Mapping[str, Any] = field(default_factory=dict)
    """The same of a key whose default the tuner decides."""


BY_METHOD: Any = None
"""A key's default where `Key.methods` has it; None with a method that does not use the key."""
BY_TUNER: Any = None
"""The same of `Key.tuners`."""

_LORA_RATES = {
    "sft": 2e-4, "dpo": 1e-5, "kto": 1e-5, "grpo": 1e-5, "rloo": 1e-5, "reward": 1e-4,
}  # fmt: skip
"""About ten times full fine-tuning's (https://thinkingmachines.ai/blog/lora)."""
_FULL_RATES = {
    "sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "grpo": 1e-6, "rloo": 1e-6,
}  # fmt: skip
_ONLINE = ("grpo", "rloo")
_SPEAKING = ("sft", "dpo", "kto", *_ONLINE)
_LOSSES = {
    "dpo": (
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
        "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ),
    "kto": ("kto", "apo_zero_unpaired"),
    "grpo": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
}  # fmt: skip
"""What `loss_type` takes, as TRL 1.16 has them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run trains. Sources: `peft.LoraConfig`, `trl`'s configs, `BitsAndBytesConfig`."""

    method: Annotated[
        Literal["sft", "dpo", "kto", "grpo", "rloo", "reward"],
        Key("Answers, preferences, desirable or not, rewards of what it says; a reward model."),
    ] = "sft"
    tuner: Annotated[
        str,
        Key(
            "qlora (NF4 base), lora, rsLoRA and LoRA+ by keys below; dora, qdora, pissa, olora: "
            "published as plain LoRA; full: a model."
        ),
    ] = "qlora"
    """`qlora`, `qdora`: the base in NF4 with double quantisation (arXiv 2305.14314).

    Of a mixture bitsandbytes leaves the experts as they are: little memory is saved.
    """

    # The rows
    form: Annotated[str | None, Key("alpaca, messages, sharegpt, …; else it is detected.")] = None
    prompt_column: Annotated[str | None, Key("Column of the prompts.")] = None
    completion_column: Annotated[str | None, Key("Column of the answers.")] = None
    test_size: Annotated[float, Key("Share of rows held out.", 0, 0.5)] = 0.05
    """A row's side depends on its prompt alone, so adding rows moves none."""
    max_length: Annotated[int, Key("Tokens a row may have.", 8, 1 << 20)] = 1024
    too_long: Annotated[Literal["cut", "drop"], Key("What becomes of longer rows.")] = "cut"
    near_duplicates: Annotated[
        Literal["keep", "drop", "ignore"], Key("Flag them, leave them out, or do not look.")
    ] = "keep"
    near_duplicate_threshold: Annotated[float, Key("Share of 5-grams in common.", 0.5, 1)] = 0.9
    max_cut: Annotated[float | None, Key("Largest share of rows that may be cut.", 0, 1)] = None
    max_malformed: Annotated[float | None, Key("… that may be malformed.", 0, 1)] = 0.0
    max_masked: Annotated[float | None, Key("… that may lose their answer whole.", 0, 1)] = None
    max_too_long: Annotated[float | None, Key("… that may be too long.", 0, 1)] = None

    # The method (trl.DPOConfig, KTOConfig, GRPOConfig, RLOOConfig, RewardConfig)
    beta: Annotated[
        float,
        Key("Holds it to the base.", 0, 100, {"dpo": 0.1, "kto": 0.1, "grpo": 0.0, "rloo": 0.05}),
    ] = BY_METHOD
    loss_type: Annotated[
        str, Key("TRL's name.", methods={"dpo": "sigmoid", "kto": "kto", "grpo": "dapo"})
    ] = BY_METHOD
    label_smoothing: Annotated[
        float, Key("Share of preferences that may be wrong.", 0, 0.5, {"dpo": 0.0})
    ] = BY_METHOD
    desirable_weight: Annotated[float, Key("Of what is desirable.", 0, 1e3, {"kto": 1.0})] = (
        BY_METHOD
    )
    undesirable_weight: Annotated[float, Key("Of what is not.", 0, 1e3, {"kto": 1.0})] = BY_METHOD
    center_rewards_coefficient: Annotated[
        float, Key("Draws rewards to 0 on average; 0.01 is usual.", 0, 1, {"reward": 0.0})
    ] = BY_METHOD
    reward: Annotated[
        tuple[str, ...],
        Key(
            "exact_match, regex:PATTERN, json_schema:FILE, length:LOW-HIGH, FILE.py:FUNCTION.",
            methods=dict.fromkeys(_ONLINE, ()),
        ),
    ] = BY_METHOD
    reward_weights: Annotated[
        tuple[float, ...], Key("One a reward, in their order.", methods=dict.fromkeys(_ONLINE, ()))
    ] = BY_METHOD
    num_generations: Annotated[
        int, Key("Answers tried a prompt.", 2, 1 << 16, {"grpo": 8, "rloo": 2})
    ] = BY_METHOD
    max_completion_length: Annotated[
        int, Key("Tokens an answer may have.", 1, 1 << 20, dict.fromkeys(_ONLINE, 512))
    ] = BY_METHOD
    temperature: Annotated[
        float, Key("Of the answers tried.", 1e-3, 100, dict.fromkeys(_ONLINE, 1.0))
    ] = BY_METHOD
    top_p: Annotated[float, Key("Of the answers tried.", 1e-3, 1, dict.fromkeys(_ONLINE, 1.0))] = (
        BY_METHOD
    )
    top_k: Annotated[
        int, Key("Of the answers tried; 0 takes all.", 0, 1 << 31, dict.fromkeys(_ONLINE, 0))
    ] = BY_METHOD
    num_iterations: Annotated[
        int, Key("Steps on the same answers.", 1, 1 << 16, dict.fromkeys(_ONLINE, 1))
    ] = BY_METHOD
    epsilon: Annotated[
        float, Key("Clips the policy's ratio.", 0, 10, dict.fromkeys(_ONLINE, 0.2))
    ] = BY_METHOD
    mask_truncated_completions: Annotated[
        bool, Key("Learn nothing of unfinished answers.", methods=dict.fromkeys(_ONLINE, False))
    ] = BY_METHOD
    scale_rewards: Annotated[
        Literal["group", "batch", "none"],
        Key("Whose deviation rewards are divided by.", methods={"grpo": "group"}),
    ] = BY_METHOD

    # The adapter (peft.LoraConfig)
    r: Annotated[int, Key("Rank.", 1, 512, tuners=dict.fromkeys(LOW_RANK, 16))] = BY_TUNER
    lora_alpha: Annotated[
        float, Key("Scale: alpha / r.", 1e-3, 1e5, tuners=dict.fromkeys(LOW_RANK, 32))
    ] = BY_TUNER
    lora_dropout: Annotated[
        float, Key("Share of inputs dropped.", 0, 0.9, tuners=dict.fromkeys(LOW_RANK, 0.0))
    ] = BY_TUNER
    target_modules: Annotated[
        str | tuple[str, ...],
        Key(
            "all-linear, or names: q_proj,v_proj; with full also all parameters: all.",
            tuners={**dict.fromkeys(LOW_RANK, ALL_LINEAR), "full": ALL},
        ),
    ] = BY_TUNER
    """`all-linear`: all but the head; of a mixture of experts the attention."""
    use_rslora: Annotated[
        bool,
        Key("Scale by alpha / √r (arXiv 2312.03732).", tuners=dict.fromkeys(LOW_RANK, False)),
    ] = BY_TUNER
    loraplus_lr_ratio: Annotated[
        float | None,
        Key(
            "LoRA+ (arXiv 2402.12354): B learns so many times as fast; 16 is usual.",
            1, 1e4, tuners=dict.fromkeys(LOW_RANK),
        ),
    ] = BY_TUNER  # fmt: skip
    convert_rank: Annotated[
        int | None,
        Key(
            "Rank of the plain LoRA that is published; else exact, of DoRA up to 64.",
            1, 512, tuners=dict.fromkeys(CONVERTED),
        ),
    ] = BY_TUNER  # fmt: skip

    # The run (transformers.TrainingArguments, trl.SFTConfig)
    num_train_epochs: Annotated[float, Key("Passes over the rows.", 1e-3, 1e4)] = 3.0
    max_steps: Annotated[int, Key("Overrides the epochs; -1 does not.", -1, 1 << 31)] = -1
    per_device_train_batch_size: Annotated[int, Key("Rows a step.", 1, 1 << 16)] = 8
    gradient_accumulation_steps: Annotated[int, Key("Batches a step.", 1, 1 << 16)] = 1
    auto_find_batch_size: Annotated[
        bool, Key("Take the largest batch that fits, and accumulate less: a step's rows stay.")
    ] = False
    num_processes: Annotated[
        int, Key("Processes, one a GPU; each takes so many batches a step.", 1, 1 << 10)
    ] = 1
    learning_rate: Annotated[
        float, Key("At its peak; with --tuner full a tenth.", 1e-9, 1, _LORA_RATES)
    ] = BY_METHOD
    lr_scheduler_type: Annotated[str, Key("transformers' name.")] = "cosine"
    warmup_steps: Annotated[float, Key("Below 1: share of all.", 0, 1 << 31)] = 0.03
    weight_decay: Annotated[float, Key("AdamW's.", 0, 10)] = 0.0
    max_grad_norm: Annotated[float, Key("Clips gradients.", 0, 1e6)] = 1.0
    optim: Annotated[str, Key("transformers' name.")] = "adamw_torch"
    gradient_checkpointing: Annotated[
        bool | None, Key("Less memory, more time. Else on a GPU only.")
    ] = None
    train_sampling_strategy: Annotated[
        str,
        Key(
            "transformers' name.",
            methods=dict.fromkeys(("sft", "dpo", "reward"), "group_by_length"),
        ),
    ] = BY_METHOD
    packing: Annotated[
        bool,
        Key("Rows share sequences of max_length, unseen by each other.", methods={"sft": False}),
    ] = BY_METHOD
    eval_steps: Annotated[
        float | None, Key("Validate every so many steps; below 1: share of all.", 1e-6, 1 << 31)
    ] = None
    load_best_model_at_end: Annotated[
        bool, Key("Publish the weights of the lowest eval_loss, not the last.")
    ] = False
    early_stopping_patience: Annotated[
        int | None, Key("Validations without a better one that end it; the best is kept.", 1, 1e6)
    ] = None
    save_steps: Annotated[int, Key("Steps between checkpoints.", 1, 1 << 31)] = 100
    max_loss_spike: Annotated[
        float,
        Key(
            "Stops at a loss of so many times the running median; 0 does not.",
            0,
            1e6,
            dict.fromkeys(("sft", "dpo", "kto", "reward"), 5.0),
        ),
    ] = BY_METHOD
    full_determinism: Annotated[
        bool, Key("The same bits each time: slower kernels on a GPU, one thread on a CPU.")
    ] = False
    seed: Annotated[int, Key("One seed, one adapter.", 0, (1 << 32) - 1)] = 0

    # What comes out (transformers.GenerationConfig, TrainingArguments)
    generate_eval: Annotated[
        bool,
        Key(
            "Write answers to held-out rows: exact match, BLEU, ROUGE, valid JSON.",
            methods=dict.fromkeys(_SPEAKING, False),
        ),
    ] = BY_METHOD
    max_new_tokens: Annotated[
        int, Key("Tokens such an answer may have.", 1, 1 << 20, dict.fromkeys(_SPEAKING, 256))
    ] = BY_METHOD
    max_predict_samples: Annotated[
        int, Key("Rows that are so answered.", 1, 1 << 31, dict.fromkeys(_SPEAKING, 256))
    ] = BY_METHOD
    report_to: Annotated[
        tuple[str, ...], Key("tensorboard, wandb, mlflow: transformers' names.")
    ] = ()

    def __post_init__(self) -> None:
        """Fill in the method's and the tuner's own defaults; check what types cannot say.

        Raises:
            UsageError: a value out of its range or its choices, or of a key that the method or
                the tuner does not use; a tuner whose outcome vLLM does not serve.
        """
        if self.tuner not in TUNERS:
            raise refusal(self.tuner, TUNERS)
        if self.method == "reward" and self.tuner not in ("qlora", "lora"):
            form = "keeps its base's form" if self.tuner == "full" else "is made plain LoRA"
            raise UsageError(
                f"A reward model has a head of its own; what --tuner {self.tuner} trains {form}, "
                "without one.",
                fix=f"Use --tuner {'qlora' if self.quantised else 'lora'}.",
            )
        for name, (kind, key) in keys().items():
            value = getattr(self, name)
            if value is not None and key.methods and self.method not in key.methods:
                raise UsageError(
                    f"--method {self.method} does not use {name}.",
                    fix=f"Leave it out, or use --method {' or '.join(key.methods)}.",
                )
            if value is not None and key.tuners and self.tuner not in key.tuners:
                raise UsageError(
                    f"--tuner {self.tuner} does not use {name}.",
                    fix=f"Leave it out, or use --tuner {' or '.join(key.tuners)}.",
                )
            if value is None:
                full = (self.tuner, name) == ("full", "learning_rate")
                by_method = _FULL_RATES if full else key.methods
                value = by_method.get(self.method, key.tuners.get(self.tuner))
                object.__setattr__(self, name, value)
            choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
            if name == "loss_type":
                choices = _LOSSES.get(self.method, ())
            if choices and value is not None and value not in choices:
                hint = nearest(str(value), choices) or f"Use {' or '.join(choices)}."
                raise UsageError(f"No {name} {value!r}.", fix=hint)
            low, high = key.low, key.high
            if None not in (low, high, value) and not low <= value <= high:
                raise UsageError(f"{name} is {value}.", fix=f"Use {low} to {high}.")
        if self.target_modules == ALL and self.tuner != "full":
            raise UsageError(
                "LoRA has no factors of embeddings and norms here.",
                fix=f"Use --target-modules {ALL_LINEAR}, or --tuner full.",
            )

    @property
    def quantised(self) -> bool:
        """Whether the base's linear layers are in NF4 while it trains."""
        return self.tuner in QUANTISED

    def may_be_lost(self) -> dict[str, float | None]:
        """Return the largest shares of rows that may be lost, for `Receipt.check`."""
        return {
            name: getattr(self, name)
            for name in ("max_cut", "max_malformed", "max_masked", "max_too_long")
        }

    def as_json(self) -> dict[str, Any]:
        """Return every choice, defaults included: what the manifest keeps."""
        return asdict(self)


@cache
def keys() -> dict[str, tuple[Any, Key]]:
    """Return each recipe key's type and meaning, in order."""
    hints = typing.get_type_hints(Recipe, include_extras=True)
    return {each.name: typing.get_args(hints[each.name]) for each in fields(Recipe)}


def read_recipe(path: Path | None, flags: Mapping[str, Any]) -> Recipe:
    """Return the defaults, overridden by a YAML file, overridden by flags.

    Raises:
        UsageError: the file cannot be read, holds an unknown key (the nearest is named) or a
            value of the wrong type or range.
    """
    return Recipe(**chosen(read_yaml(path) if path else {}, flags, str(path)))


def chosen(content: Mapping[str, Any], flags: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a recipe file's content and flags choose, each of its key's type.

    Raises:
        UsageError: an unknown key (the nearest is named), or a value of the wrong type.
    """
    merged = {name: as_key(name, value, where) for name, value in content.items()}
    merged |= {name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()}
    if isinstance(names := merged.get("target_modules"), str) and names not in (ALL_LINEAR, ALL):
        merged["target_modules"] = tuple(name.strip() for name in names.split(","))
    return merged


def as_key(name: str, value: Any, where: str) -> Any:
    """Return a value read from YAML as a recipe key's type.

    Raises:
        UsageError: no such key (the nearest is named), or a value of another type.
    """
    if name not in keys():
        raise UsageError(
            f"{where}: no recipe key {name!r}.",
            fix=nearest(name, keys()) or f"The keys are {', '.join(keys())}.",
        )
    return _as(keys()[name][0], value, f"{where}: {name}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a recipe file says, as YAML has it.

    Raises:
        UsageError: it cannot be read, or is no mapping.
    """
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
        if typing.get_origin(option) is tuple:
            values = value if isinstance(value, list) else [value]
            return tuple(_as(typing.get_args(option)[0], each, where) for each in values)
    raise UsageError(f"{where} is {value!r}.", fix=f"It takes {_name(kind)}.")


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
