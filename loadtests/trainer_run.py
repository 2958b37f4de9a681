"""One training run in a process of its own, ours or as a user of TRL and PEFT writes it.

    python -m loadtests.trainer_run SETTINGS.json      writes what it measured into the same file

Both take the same settings, and tell the same: each step's loss and seconds, and peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


@dataclass(frozen=True, slots=True)
class Settings:
    """What both are told."""

    how: str
    """`ours` or `plain`."""
    base: str
    rows: str
    tuner: str = "qlora"
    steps: int = 8
    batch: int = 8
    length: int = 128
    packing: bool = False
    gradient_checkpointing: bool = False
    r: int = 16
    learning_rate: float = 2e-4
    rehearse: bool = True
    """Take the estimate before the run, as `--dry-run` does."""


@dataclass(slots=True)
class Measured:
    """What came of it. Bytes are of the GPU where there is one, else of the process."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """What of them the process had a core for; tells more where others use the machine."""
    tokens: float = 0
    """That were read in all steps."""
    peak_bytes: int = 0
    base_bytes: int = 0
    """Of the base's parameters as they are loaded."""
    estimate: dict[str, Any] = field(default_factory=dict)


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Takes each step's loss and time."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._began = self._cpu_began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began, self._cpu_began = _now(), time.process_time()

    def on_step_end(self, *_: Any, model: Any = None, **__: Any) -> None:
        """Stop it."""
        self._measured.seconds.append(_now() - self._began)
        self._measured.cpu_seconds.append(time.process_time() - self._cpu_began)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        self._measured.base_bytes = sum(p.nbytes for p in frozen)

    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        """Note the loss."""
        if "loss" in logs:
            self._measured.losses.append(logs["loss"])
            self._measured.tokens = logs.get("num_tokens", 0)


def ours(settings: Settings, measured: Measured) -> None:
    """Train and publish into a registry of its own, as `adapters train` does."""
    from adapters.registry import Registry
    from train.before import rehearse
    from train.recipe import Recipe
    from train.run import Job, run

    recipe = Recipe(
        tuner=settings.tuner,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        max_length=settings.length,
        packing=settings.packing,
        gradient_checkpointing=settings.gradient_checkpointing,
        r=settings.r,
        lora_alpha=2 * settings.r,
        learning_rate=settings.learning_rate,
        train_sampling_strategy="sequential",
        near_duplicates="ignore",
        test_size=0,
    )
    with tempfile.TemporaryDirectory() as home:
        os.environ["ADAPTERS_HOME"] = home  # where runs that are stopped are kept
        job = Job(settings.rows, settings.base, "measured", recipe, again=True)
        registry = Registry.open(home)
        if settings.rehearse:
            measured.estimate = rehearse(job, registry, rows=0).estimate.as_json()
        run(job, registry, callbacks=[Recorder(measured)])


def plain(settings: Settings, measured: Measured) -> None:
    """Train as TRL's documentation shows it."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed
    from trl import SFTConfig, SFTTrainer

    set_seed(0)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu else torch.float32
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings.base,
        dtype=dtype,
        quantization_config=nf4 if settings.tuner == "qlora" else None,
        device_map={"": 0} if gpu else None,
    )
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=out,
                max_steps=settings.steps,
                per_device_train_batch_size=settings.batch,
                max_length=settings.length,
                packing=settings.packing,
                gradient_checkpointing=settings.gradient_checkpointing,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.03,
                train_sampling_strategy="sequential",
                bf16=gpu,
                use_cpu=not gpu,
                seed=0,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=load_dataset("json", data_files=settings.rows, split="train"),
            peft_config=LoraConfig(
                r=settings.r,
                lora_alpha=2 * settings.r,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[Recorder(measured)],
        )
        trainer.train()
        trainer.save_model(out)


def main() -> None:
    """Run what the file says; write what was measured into it."""
    path = Path(sys.argv[1])
    settings, measured = Settings(**json.loads(path.read_text())), Measured()
    {"ours": ours, "plain": plain}[settings.how](settings, measured)
    from train.memory import peak_bytes

    measured.peak_bytes = peak_bytes()
    path.write_text(json.dumps(asdict(measured)))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
