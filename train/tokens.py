"""Chats as token ids and labels, every row accounted for.

The base's own chat template renders them, so training sees what the server will send. Loss falls
on what the assistant says and the token that ends it, nothing else: labels are -100 elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.errors import InvalidDataset
from train.rows import Chat, Row

IGNORED = -100
Example = dict[str, list[int]]
"""`input_ids` and `labels`, both (tokens,)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where each row went: rows = train_rows + eval_rows + empty_rows + masked_rows."""

    rows: int
    train_rows: int
    eval_rows: int
    empty_rows: int
    """Nothing for the assistant to say."""
    masked_rows: int
    """Longer than `max_length` before the assistant says a word."""
    cut_rows: int
    """Trained on, but shortened to `max_length`; among train_rows and eval_rows."""
    cut_tokens: int
    train_tokens: int
    longest_tokens: int

    def as_json(self) -> dict[str, int]:
        """Return what the manifest keeps."""
        return asdict(self)


def tokenise(
    rows: Sequence[Row], tokenizer: Any, *, max_length: int, test_size: float
) -> tuple[list[Example], list[Example], Receipt]:
    """Return the examples to train on, those held out, and the receipt.

    A row is held out by a hash of its text, so equal rows keep together and rows that are added
    later move none.

    Raises:
        InvalidDataset: nothing is left to train on.
    """
    train: list[Example] = []
    held_out: list[Example] = []
    empty = masked = cut_rows = cut_tokens = longest = 0
    for row in rows:
        if not row.chat[-1]["content"].strip():
            empty += 1
            continue
        example = encode(row.chat, tokenizer)
        length = len(example["input_ids"])
        longest = max(longest, length)
        if length > max_length:
            example = {column: ids[:max_length] for column, ids in example.items()}
            if all(label == IGNORED for label in example["labels"]):
                masked += 1
                continue
            cut_rows += 1
            cut_tokens += length - max_length
        (held_out if _fraction(row.chat) < test_size else train).append(example)
    if not train:
        raise InvalidDataset(
            f"None of {len(rows)} rows can be trained on: {empty} empty, {masked} longer than "
            f"{max_length} tokens before the answer, {len(held_out)} held out.",
            fix="Raise --max-length, lower --test-size, or give it more rows.",
        )
    receipt = Receipt(
        rows=len(rows),
        train_rows=len(train),
        eval_rows=len(held_out),
        empty_rows=empty,
        masked_rows=masked,
        cut_rows=cut_rows,
        cut_tokens=cut_tokens,
        train_tokens=sum(len(example["input_ids"]) for example in train),
        longest_tokens=longest,
    )
    return train, held_out, receipt


def encode(chat: Chat, tokenizer: Any) -> Example:
    """Render and tokenise one chat.

    A template with `{% generation %}` markers says itself what the assistant's part is (every
    turn of it). Without them it is what the template adds after its own generation prompt, for
    the last turn. A base without a template gets plain prompt, completion and end token.
    """
    template = tokenizer.chat_template
    if not template:
        return _encode_plain(chat, tokenizer)
    if "generation %}" in template or "generation -%}" in template:
        rendered = tokenizer.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        spoken = rendered["assistant_masks"]
        return _masked(rendered["input_ids"], spoken)
    whole = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=False)
    prompt = tokenizer.apply_chat_template(
        chat[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    if not whole.startswith(prompt):
        raise InvalidDataset(
            "This base's chat template renders a prompt differently once it is answered.",
            fix="Train on another base, or give its template {% generation %} markers.",
        )
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    spoken = [int(start >= len(prompt)) for start, _ in encoded["offset_mapping"]]
    return _masked(encoded["input_ids"], spoken)


def _encode_plain(chat: Chat, tokenizer: Any) -> Example:
    if [turn["role"] for turn in chat] != ["user", "assistant"]:
        raise InvalidDataset(
            "This base has no chat template, so it has no system prompts and no further turns.",
            fix="Train on prompt and completion only, or on a chat base.",
        )
    prompt = tokenizer(chat[0]["content"])["input_ids"]
    answer = tokenizer(chat[1]["content"], add_special_tokens=False)["input_ids"]
    ids = [*prompt, *answer, tokenizer.eos_token_id]
    return _masked(ids, [0] * len(prompt) + [1] * (len(ids) - len(prompt)))


def _masked(ids: list[int], spoken: list[int]) -> Example:
    labels = [token if mine else IGNORED for token, mine in zip(ids, spoken, strict=True)]
    return {"input_ids": list(ids), "labels": labels}


def _fraction(chat: Chat) -> float:
    text = json.dumps(chat, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
