"""Loss on what the assistant says and nothing else; every row accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from adapters import bases
from adapters.errors import Rejected
from train.rows.forms import Chat, Row
from train.tokens import IGNORED, check_masks, check_vocabulary, encode

TINY = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
TEXT = st.text(min_size=1, max_size=60)


def pair(prompt: str, completion: str) -> Chat:
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]


UNMARKED = TINY.chat_template.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")


def with_template(template: str | None) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
    tokenizer.chat_template = template
    return tokenizer


def row(*turns: dict[str, Any]) -> Row:
    return Row("d.jsonl", 7, list(turns[:-1]), list(turns[-1:]))


def encoded(chat: Chat, tokenizer: Any = TINY) -> dict[str, list[int]]:
    return encode(row(*chat), tokenizer, purpose="sft", max_length=1 << 20).example


def spoken(example: dict[str, list[int]], tokenizer: Any = TINY) -> str:
    return str(tokenizer.decode([label for label in example["labels"] if label != IGNORED]))


@given(prompt=TEXT, completion=TEXT)
def test_labels_are_the_completion_and_its_end_token(prompt: str, completion: str) -> None:
    example = encoded(pair(prompt, completion), TINY)
    assert spoken(example) == completion + TINY.eos_token
    assert len(example["labels"]) == len(example["input_ids"])


@given(prompt=TEXT, completion=TEXT)
def test_training_sees_the_prompt_that_the_server_will_send(prompt: str, completion: str) -> None:
    example = encoded(pair(prompt, completion), TINY)
    served = TINY.apply_chat_template(
        pair(prompt, completion)[:1], add_generation_prompt=True, return_dict=False
    )
    assert example["input_ids"][: len(served)] == served
    assert example["labels"][: len(served)] == [IGNORED] * len(served)


def test_every_assistant_turn_counts_under_generation_markers() -> None:
    chat = [*pair("a", "first"), *pair("b", "second")]
    assert spoken(encoded(chat, TINY)) == f"first{TINY.eos_token}second{TINY.eos_token}"


@settings(deadline=None)
@given(turns=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_a_template_without_markers_gives_the_same_labels(turns: list[tuple[str, str]]) -> None:
    chat = [turn for exchange in turns for turn in pair(*exchange)]
    assert encoded(chat, with_template(UNMARKED)) == encoded(chat)


def test_a_template_that_drops_what_was_thought_trains_the_last_turn() -> None:
    forgetful = UNMARKED.replace("{{- content +", "{{- (content if loop.last else '…') +", 1)
    assert "loop.last" in forgetful
    chat = [*pair("a", "first"), *pair("b", "second")]
    assert spoken(encoded(chat, with_template(forgetful))) == f"second{TINY.eos_token}"


def test_a_template_that_cannot_tell_is_refused_with_the_fix() -> None:
    shy = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '>' if add_generation_prompt }}"
    with pytest.raises(Rejected, match="nobody can say") as refused:
        encoded(pair("a", "b"), with_template(shy))
    assert "{% generation %}" in refused.value.fix


def test_a_base_without_a_template_takes_prompt_and_completion_only() -> None:
    bare = with_template(None)
    assert spoken(encoded(pair("a", "b"), bare), bare) == f"b{TINY.eos_token}"
    with pytest.raises(ValueError, match="no chat template"):
        encoded([{"role": "system", "content": "s"}, *pair("a", "b")], bare)


TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_a_preference_stays_a_chat_and_has_the_longer_answers_length() -> None:
    worse = [{"role": "assistant", "content": "a much longer answer than that"}]
    made = Row("d.jsonl", 1, pair("hi", "")[:1], pair("", "yes")[1:], rejected=worse, tools=TOOLS)
    found = encode(made, TINY, purpose="preference", max_length=99)
    assert found.example["chosen"] == made.answer
    assert found.example["rejected"] == worse
    assert "weather" in found.example["tools"]
    longer = encoded([*made.prompt, *worse])["input_ids"]
    assert found.length == len(longer)
    assert encoded([*made.prompt, *worse])["labels"][found.speech] != IGNORED


def test_a_planted_mask_bug_is_caught() -> None:
    rows = [row(*pair("where is my card", "in the post")), row(*pair("hello there", "hi"))]
    check_masks(rows, TINY)
    start, end = "{%- generation %}", "{%- endgeneration %}"
    everything = start + UNMARKED + end
    nothing = UNMARKED + "{% if false %}" + start + end + "{% endif %}"
    before_end = TINY.chat_template.replace(
        "content + '<|im_end|>' }}" + end, "content }}" + end + "{{- '<|im_end|>' }}"
    )
    for template, said in (
        (everything, "which the assistant did not say"),
        (nothing, "not on 'in the post'"),
        (before_end, "it would never stop"),
    ):
        with pytest.raises(Rejected, match=said) as refused:
            check_masks(rows, with_template(template))
        assert "generation" in refused.value.fix


def test_a_tokenizer_with_more_tokens_than_the_base_embeds_is_refused() -> None:
    larger = with_template(TINY.chat_template)
    check_vocabulary(larger, 2048)
    larger.add_tokens(["<more>"])
    with pytest.raises(Rejected, match="2049 tokens, the base embeds 2048"):
        check_vocabulary(larger, 2048)
