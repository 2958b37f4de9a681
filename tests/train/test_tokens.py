"""Loss on what the assistant says and nothing else; every row accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from adapters import bases
from adapters.errors import InvalidDataset
from train.rows import Chat, Row
from train.tokens import IGNORED, encode, tokenise

TINY = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
TEXT = st.text(min_size=1, max_size=60)


def pair(prompt: str, completion: str) -> Chat:
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]


def rows(*chats: Chat) -> list[Row]:
    return [Row(line, chat) for line, chat in enumerate(chats, 1)]


def spoken(example: dict[str, list[int]], tokenizer: Any = TINY) -> str:
    return str(tokenizer.decode([label for label in example["labels"] if label != IGNORED]))


@given(prompt=TEXT, completion=TEXT)
def test_labels_are_the_completion_and_its_end_token(prompt: str, completion: str) -> None:
    example = encode(pair(prompt, completion), TINY)
    assert spoken(example) == completion + TINY.eos_token
    assert len(example["labels"]) == len(example["input_ids"])


@given(prompt=TEXT, completion=TEXT)
def test_training_sees_the_prompt_that_the_server_will_send(prompt: str, completion: str) -> None:
    example = encode(pair(prompt, completion), TINY)
    served = TINY.apply_chat_template(
        pair(prompt, completion)[:1], add_generation_prompt=True, return_dict=False
    )
    assert example["input_ids"][: len(served)] == served
    assert example["labels"][: len(served)] == [IGNORED] * len(served)


def test_every_assistant_turn_counts_under_generation_markers() -> None:
    chat = [*pair("a", "first"), *pair("b", "second")]
    assert spoken(encode(chat, TINY)) == f"first{TINY.eos_token}second{TINY.eos_token}"


def test_a_template_without_markers_trains_the_last_turn() -> None:
    plain = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
    plain.chat_template = TINY.chat_template.replace("{%- generation %}", "").replace(
        "{%- endgeneration %}", ""
    )
    example = encode([*pair("a", "first"), *pair("b", "second")], plain)
    assert spoken(example, plain).strip() == f"second{TINY.eos_token}"


def test_a_base_without_a_template_takes_prompt_and_completion_only() -> None:
    bare = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
    bare.chat_template = None
    assert spoken(encode(pair("a", "b"), bare), bare) == f"b{TINY.eos_token}"
    with pytest.raises(InvalidDataset, match="no chat template"):
        encode([{"role": "system", "content": "s"}, *pair("a", "b")], bare)


@given(chats=st.lists(st.tuples(TEXT, st.text(max_size=60)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_rows_in_are_rows_accounted_for(chats: list[tuple[str, str]]) -> None:
    try:
        train, held_out, receipt = tokenise(
            rows(*(pair(*chat) for chat in chats)), TINY, max_length=40, test_size=0.3
        )
    except InvalidDataset:
        return  # nothing left to train on: said so
    assert receipt.rows == len(chats)
    assert receipt.rows == (
        receipt.train_rows + receipt.eval_rows + receipt.empty_rows + receipt.masked_rows
    )
    assert (len(train), len(held_out)) == (receipt.train_rows, receipt.eval_rows)
    assert all(len(example["input_ids"]) <= 40 for example in [*train, *held_out])
    assert all(spoken(example) for example in [*train, *held_out])


def test_adding_rows_moves_none_between_the_sides() -> None:
    chats = [pair(f"question {number}", "yes") for number in range(200)]
    few_train, few_held, _ = tokenise(rows(*chats[:100]), TINY, max_length=99, test_size=0.2)
    all_train, all_held, _ = tokenise(rows(*chats), TINY, max_length=99, test_size=0.2)
    assert all_train[: len(few_train)] == few_train
    assert all_held[: len(few_held)] == few_held
    assert 20 <= len(all_held) <= 60


def test_a_row_longer_than_max_length_before_the_answer_is_left_out_and_counted() -> None:
    chats = [pair("word " * 50, "no"), pair("a", "b")]
    train, _, receipt = tokenise(rows(*chats), TINY, max_length=20, test_size=0)
    assert (len(train), receipt.masked_rows, receipt.cut_rows) == (1, 1, 0)


def test_nothing_left_to_train_on_says_why() -> None:
    with pytest.raises(InvalidDataset, match="1 empty"):
        tokenise(rows(pair("a", " ")), TINY, max_length=20, test_size=0)
