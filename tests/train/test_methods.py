"""Each method on the tiny base: TRL's rows are those that were counted, and it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from adapters.errors import InvalidDataset, Rejected, UsageError
from tests.train.methods import COLOURS, TOKENIZER, made, preferences
from train.methods.metrics import METRICS, closing
from train.methods.rows import proven
from train.tokens import render

QUICK = {"learning_rate": 3e-3, "warmup_steps": 0, "per_device_train_batch_size": 16}
RL = {"reward": ("exact_match",), "num_generations": 8, "per_device_train_batch_size": 32}
LETTERS = [{"prompt": f"Say {COLOURS[n % 6]} {n}", "completion": "s"} for n in range(60)]
"""The base says `s` to one of these in fourteen, as the first of the tokens that it draws."""
TOOLS = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object"}}}]
# Turns and arguments of all shapes, which Arrow would level.
CALL = {"type": "function", "function": {"name": "paint", "arguments": {"colour": "red", "n": 1}}}
CHATS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"}],
        "chosen": [{"role": "assistant", "content": "您好！" * 3}],
        "rejected": [{"role": "assistant", "content": "no"}],
    },
    {
        "prompt": [{"role": "user", "content": "Paint it."}],
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        "rejected": [{"role": "assistant", "content": "I will not."}],
        "tools": TOOLS,
    },
]


def ids(chat: list[dict[str, Any]], tools: Any = (), **options: bool) -> list[int]:
    text = render(chat, TOKENIZER, tools, **options)
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def held_out(trainer: Trainer, method: str) -> dict[str, float]:
    """Return what a version would keep of the held-out rows."""
    return closing(method, trainer.evaluate(), [{"loss": 0.0}])


@pytest.mark.parametrize("method", ["dpo", "kto", "reward"])
def test_the_trainer_sees_every_row_as_the_base_renders_it(tmp_path: Path, method: str) -> None:
    rows = [*CHATS, *preferences(8)]
    trainer, prepared = made(method, rows, tmp_path, test_size=0.0)
    expected = set()
    for row in rows:
        asked = row["prompt"]
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        for side in ("chosen", "rejected"):
            said = row[side]
            said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
            expected.add(tuple(ids([*asked, *said], row.get("tools", ()))))
    columns = ("completion_ids",) if method == "kto" else ("chosen_ids", "rejected_ids")
    seen = [
        tuple(row.get("prompt_ids", []) + row[column])
        for row in trainer.train_dataset
        for column in columns
    ]
    assert set(seen) == expected
    assert len(seen) == 2 * len(rows)
    assert prepared.receipt.train_tokens == sum(map(len, seen))


@pytest.mark.parametrize("method", ["dpo", "kto", "reward"])
def test_what_is_cut_was_counted(tmp_path: Path, method: str) -> None:
    long = {"prompt": "Count.", "chosen": "one two " * 40, "rejected": "no"}
    trainer, prepared = made(method, [long, *preferences(7)], tmp_path, test_size=0, max_length=48)
    assert prepared.receipt.cut_rows == 1
    assert len(trainer.train_dataset) == (16 if method == "kto" else 8)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    assert int(batch["attention_mask"].sum()) == prepared.receipt.train_tokens


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_prompts_are_those_of_the_server(tmp_path: Path, method: str) -> None:
    rows = [*LETTERS[:6], {"prompt": "Paint it.", "completion": "no", "tools": TOOLS}]
    chosen = RL | {"max_completion_length": 4, "max_malformed": 0.2, "test_size": 0.0}
    trainer, prepared = made(method, rows, tmp_path, **chosen)
    assert prepared.receipt.left_out("malformed") == 1
    assert "tools" in prepared.receipt.malformed[0]
    prompts = [row["prompt"] for row in trainer.train_dataset]
    tokens = trainer._tokenize_prompts(prompts)[0]
    assert tokens == [ids(prompt, add_generation_prompt=True) for prompt in prompts]


def test_a_mixed_row_is_still_known_by_its_line(tmp_path: Path) -> None:
    rows = preferences(6)
    trainer, _ = made("kto", rows, tmp_path, test_size=0.0)
    found = [
        (TOKENIZER.decode(row["completion_ids"]), row["label"], rows[row["row"]])
        for row in trainer.train_dataset
    ]
    assert [row for _, _, row in found] != sorted((row for _, _, row in found), key=rows.index)
    for text, desirable, row in found:
        assert row["chosen" if desirable else "rejected"] in text


def test_rows_that_trl_reads_otherwise_are_refused(tmp_path: Path) -> None:
    trainer, prepared = made("dpo", preferences(4), tmp_path, test_size=0.0)
    row = trainer.train_dataset
    shorter = row.map(lambda each: {"chosen_ids": each["chosen_ids"][1:]})
    with pytest.raises(Rejected, match="4 of 4 rows otherwise than they were counted"):
        proven(shorter, prepared.train, ("chosen_ids", "rejected_ids"))
    with pytest.raises(Rejected, match="leave out 1 of 4 rows"):
        proven(row.select(range(3)), prepared.train, ("chosen_ids", "rejected_ids"))


def test_dpo_raises_the_margin_of_held_out_preferences(tmp_path: Path) -> None:
    """From 0, where the adapter turned off is the reference: there is no copy of anything."""
    trainer, _ = made("dpo", preferences(60), tmp_path, max_steps=8, **QUICK)
    assert list(trainer.model.peft_config) == ["default"]
    assert trainer.ref_model is None
    assert held_out(trainer, "dpo")["eval_rewards_margins"] == 0
    trainer.train()
    after = held_out(trainer, "dpo")
    assert after["eval_rewards_margins"] > 0.1
    assert after["eval_rewards_accuracies"] > 0.6
    assert after.keys() == METRICS["dpo"].keys()


LIKED = [
    {"prompt": f"Pick a colour, {n}.", "completion": said, "label": said == "red"}
    for n in range(40)
    for said in ("red", "blue")
]


def test_kto_raises_the_margin_of_held_out_rows(tmp_path: Path) -> None:
    trainer, _ = made("kto", LIKED, tmp_path, max_steps=8, **QUICK)
    assert list(trainer.model.peft_config) == ["default"]
    trainer.train()
    after = held_out(trainer, "kto")
    assert after["eval_rewards_margins"] > 0.1
    assert after.keys() == METRICS["kto"].keys()


def test_a_reward_model_gives_more_to_what_is_preferred(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Pick a colour, {n}.", "chosen": "red", "rejected": "blue"} for n in range(40)
    ]
    trainer, _ = made("reward", rows, tmp_path, max_steps=8, **QUICK)
    trainer.train()
    after = held_out(trainer, "reward")
    assert after["eval_accuracy"] > 0.9
    assert after["eval_margin"] > 0
    assert after.keys() == METRICS["reward"].keys()


def test_grpo_raises_the_reward_of_exact_matches(tmp_path: Path) -> None:
    chosen = RL | {"max_completion_length": 1, "learning_rate": 5e-3, "warmup_steps": 0}
    trainer, _ = made("grpo", LETTERS, tmp_path, max_steps=8, **chosen)
    before = held_out(trainer, "grpo")["eval_reward"]
    trainer.train()
    after = held_out(trainer, "grpo")["eval_reward"]
    assert after > before + 0.3
    assert closing("grpo", {}, trainer.state.log_history)["reward"] > before


@pytest.mark.parametrize(
    ("method", "chosen", "error", "said"),
    [
        ("grpo", RL | {"num_generations": 5}, UsageError, "per-device-train-batch-size 35"),
        ("grpo", RL | {"max_completion_length": 600}, UsageError, "max-completion-length"),
        ("rloo", RL | {"gradient_accumulation_steps": 99}, InvalidDataset, "there are 60"),
        ("kto", {"per_device_train_batch_size": 1}, UsageError, "apo_zero_unpaired"),
        ("dpo", {"loss_type": "exo_pair"}, UsageError, "[Ll]abel smoothing"),
    ],
)
def test_what_does_not_go_together_is_said_before_training(
    tmp_path: Path, method: str, chosen: Mapping[str, Any], error: type[Exception], said: str
) -> None:
    rows = LETTERS if method in ("grpo", "rloo") else preferences(8)
    chosen = {"max_completion_length": 4, **chosen} if "reward" in chosen else chosen
    with pytest.raises(error, match=said):
        made(method, rows, tmp_path, test_size=0.0, **chosen)


def test_dropout_that_is_asked_for_stays_on(tmp_path: Path) -> None:
    trainer, _ = made("dpo", preferences(4), tmp_path, test_size=0.0, lora_dropout=0.3)
    dropouts = {m.p for n, m in trainer.model.named_modules() if n.endswith("lora_dropout.default")}
    assert dropouts == {0.3}


@pytest.mark.parametrize(
    ("method", "row", "other"),
    [
        ("dpo", {"prompt": "a", "completion": "b"}, "--method sft"),
        ("sft", preferences(1)[0], "--method dpo"),
        ("grpo", preferences(1)[0], "--method dpo"),
        ("reward", {"prompt": "a", "completion": "b", "label": True}, "--method kto"),
    ],
)
def test_rows_of_another_purpose_name_the_method_that_takes_them(
    tmp_path: Path, method: str, row: dict[str, Any], other: str
) -> None:
    chosen = {"reward": ("exact_match",)} if method == "grpo" else {}
    with pytest.raises(InvalidDataset) as refused:
        made(method, [row], tmp_path, **chosen)
    assert other in str(refused.value)


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    history = [{"loss": 1.0, "reward": 0.25}, {"loss": 1.0, "reward": 0.75}, {"train_loss": 1.0}]
    assert closing("rloo", {"eval_reward": math.nan}, history) == {"reward": 0.75}
