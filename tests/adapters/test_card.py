"""A version's model card: metadata the Hub reads, numbers, and how to use it."""

from __future__ import annotations

import yaml

from adapters.card import card
from adapters.types import BaseModel

BASE = BaseModel("Qwen/Qwen3-0.6B", "c1899de", "", "", "")


def test_the_hub_reads_its_metadata() -> None:
    text = card("support", BASE, {"r": 8}, {}, {}, 16)
    _, metadata, body = text.split("---\n", 2)
    read = yaml.safe_load(metadata)
    assert (read["base_model"], read["library_name"]) == ("Qwen/Qwen3-0.6B", "peft")
    assert "--max-lora-rank 16 --lora-modules support=" in body
    assert '"r": 8' in body


def test_it_shows_rows_and_metrics_but_no_times_and_no_empty_table() -> None:
    dataset = {"rows": 9, "train_rows": 7, "sha256": "1a"}
    full = card("support", BASE, {}, dataset, {"eval_loss": 0.25, "train_runtime_s": 3.0}, 16)
    assert "| eval_loss | 0.25 |" in full
    assert "| train_rows | 7 |" in full
    assert "train_runtime_s" not in full
    assert "data_receipt.json" not in full
    assert "| --- |" not in card("support", BASE, {}, {}, {}, 16)


def test_a_local_base_shows_no_path_of_this_machine() -> None:
    local = BaseModel("/srv/models/mine", "sha256:1a", "", "", "")
    text = card("support", local, {}, {}, {}, 16)
    assert "/srv" not in text
    assert "base_model" not in text, "its name means nothing to the Hub, or another's model"


def test_a_run_shows_its_curve_its_receipt_and_that_serving_sees_the_same_tokens() -> None:
    dataset = {
        "rows": 9, "train_rows": 7, "empty_rows": 0, "leak_flags": 2, "train_tokens": 99,
        "receipt_sha256": "1a", "parity": {"rows": 7, "stop_token": "</s>"},
    }  # fmt: skip
    text = card("support", BASE, {}, dataset, {"eval_loss": 0.25}, 16, curve=True)
    assert "\n\n![Loss by step](loss.png)\n\n| rows" in text
    assert "end with `</s>`" in text
    assert "[data_receipt.json](data_receipt.json)" in text
    assert "| leak_flags | 2 |" in text
    assert "empty_rows" not in text
    assert "train_tokens" not in text
    assert "7 rows were rendered as vLLM renders a request" in text
    assert "chat_template_kwargs" not in text
    assert "loss.png" not in card("support", BASE, {}, dataset, {}, 16)


def test_what_a_request_must_carry_is_said_for_requests_and_for_vllm() -> None:
    serving = {"chat_template_kwargs": {"enable_thinking": False}}
    text = card("support", BASE, {}, {}, {}, 16, serving=serving)
    assert '"chat_template_kwargs": {"enable_thinking": false}' in text
    assert """--default-chat-template-kwargs '{"enable_thinking": false}'""" in text
