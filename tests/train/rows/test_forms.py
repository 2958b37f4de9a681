"""Records become rows, in every form that people keep them in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.errors import InvalidDataset, UsageError
from train.rows.forms import Row, detect_form

ASKED, SAID = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
WORSE = {"role": "assistant", "content": "go away"}
HUMAN = {"from": "human", "value": "hi"}
SYSTEM = {"role": "system", "content": "Be brief"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "content": "rain"}


def row(record: dict[str, Any], **said: str) -> tuple[str, str, Row]:
    form = detect_form(record, **said)
    return form.name, form.purpose, form.row("d.jsonl", 1, record)


ONE_EXCHANGE: list[tuple[str, dict[str, Any]]] = [
    ("alpaca", {"instruction": "hi", "input": "", "output": "hello"}),
    ("alpaca", {"instruction": "hi", "output": "hello"}),
    ("messages", {"messages": [ASKED, SAID]}),
    ("messages", {"conversations": [ASKED, SAID]}),
    ("messages", {"messages": [ASKED, {**SAID, "tool_calls": None, "name": None}]}),
    ("messages", {"messages": [{**ASKED, "content": [{"type": "text", "text": "hi"}]}, SAID]}),
    ("sharegpt", {"conversations": [HUMAN, {"from": "gpt", "value": "hello"}]}),
    ("prompt-completion", {"prompt": "hi", "completion": "hello"}),
    ("prompt-completion", {"prompt": [ASKED], "completion": [SAID]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "record"), ONE_EXCHANGE)
def test_one_exchange_is_the_same_row_in_every_form(name: str, record: dict[str, Any]) -> None:
    found, purpose, made = row(record)
    assert (found, purpose) == (name, "sft")
    assert (made.prompt, made.answer) == ([ASKED], [SAID])


@pytest.mark.parametrize(("name", "record"), ONE_EXCHANGE)
def test_a_system_prompt_in_its_column(name: str, record: dict[str, Any]) -> None:
    assert row({**record, "system": "Be brief"})[2].prompt == [SYSTEM, ASKED]
    assert row({**record, "system": None})[2].prompt == [ASKED]


def test_alpaca_joins_instruction_and_input_and_keeps_the_history() -> None:
    record = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["hi", "hello"]]}
    assert row(record)[2].prompt == [ASKED, SAID, {"role": "user", "content": "Add\n1 2"}]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("sharegpt-preference", {
            "conversations": [HUMAN],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "go away"},
        }),
        ("messages-preference", {"messages": [ASKED], "chosen": SAID, "rejected": WORSE}),
        ("prompt-preference", {"prompt": "hi", "chosen": "hello", "rejected": "go away"}),
        ("prompt-preference", {"prompt": [ASKED], "chosen": [SAID], "rejected": [WORSE]}),
        ("alpaca-preference", {"instruction": "hi", "chosen": "hello", "rejected": "go away"}),
        ("chosen-rejected", {"chosen": [ASKED, SAID], "rejected": [ASKED, WORSE]}),
    ],
)  # fmt: skip
def test_preferences(name: str, record: dict[str, Any]) -> None:
    found, purpose, made = row(record)
    assert (found, purpose) == (name, "preference")
    assert (made.prompt, made.answer, made.rejected) == ([ASKED], [SAID], [WORSE])


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("prompt-completion-kto", {"prompt": "hi", "completion": "hello", "label": False}),
        ("messages-kto", {"messages": [ASKED, SAID], "kto_tag": False}),
        ("alpaca-kto", {"instruction": "hi", "output": "hello", "kto_tag": False}),
    ],
)
def test_kto_rows(name: str, record: dict[str, Any]) -> None:
    found, purpose, made = row(record)
    assert (found, purpose) == (name, "kto")
    assert (made.prompt, made.answer, made.label) == ([ASKED], [SAID], False)


def test_prompts_alone_keep_their_columns_for_reward_functions() -> None:
    found, purpose, made = row({"prompt": "hi", "solution": 4})
    assert (found, purpose, made.answer) == ("prompt", "prompt", [])
    assert made.columns["solution"] == 4


def test_calls_of_tools_in_both_notations() -> None:
    written = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    sharegpt = {
        "conversations": [
            HUMAN,
            {"from": "function_call", "value": written},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "hello"},
        ],
        "tools": json.dumps([TOOL]),
    }
    as_text = {**CALL["function"], "arguments": json.dumps({"city": "Oslo"})}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": as_text}],
    }
    messages = {
        "messages": [ASKED, called, {**ANSWERED, "tool_call_id": "1"}, SAID],
        "tools": [{"type": "function", "function": TOOL}],
    }
    theirs, ours = row(sharegpt)[2], row(messages)[2]
    assert theirs.prompt == [ASKED, CALLED, ANSWERED]
    assert theirs.answer == ours.answer == [SAID]
    # As the server renders them: it adds what is not there.
    rendered = {"name": TOOL["name"], "description": None, "parameters": TOOL["parameters"]}
    assert theirs.tools == ours.tools == ({"type": "function", "function": rendered},)
    assert list(ours.tools[0]["function"]) == list(rendered)
    assert ours.prompt[1]["tool_calls"] == [{**CALL, "id": "1"}]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "a", "completion": 7}, "completion is no text but int"),
        ({"prompt": "a", "completion": None}, "completion is no text"),
        ({"messages": [ASKED]}, "the last turn before the answer"),
        ({"messages": [ASKED, ASKED]}, "the last turn is not the assistant's"),
        ({"messages": [SAID]}, "the last turn before the answer"),
        ({"messages": [{"role": "bot", "content": "a"}, SAID]}, "a turn needs a role"),
        ({"messages": [{**ASKED, "image": "x.png"}, SAID]}, "image, which no template renders"),
        ({"messages": []}, "no list of turns"),
        ({"conversations": [{"from": "alien", "value": "a"}]}, "'alien' is nobody"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{}]}]}, "names no function"),
        ({"messages": [ASKED, SAID], "tools": "{"}, "tools is not whole JSON"),
        ({"messages": [ASKED, SAID], "tools": "7"}, "no list of functions"),
        ({"prompt": "hi", "chosen": "hello", "rejected": 1}, "rejected is no text"),
        ({"instruction": "hi", "output": "hello", "history": ["hi"]}, "no list of pairs"),
    ],
)
def test_a_malformed_row_says_how(record: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        row(record)


def test_a_column_that_later_rows_lack() -> None:
    form = detect_form({"prompt": "hi", "completion": "hello"})
    with pytest.raises(ValueError, match="no column 'completion'"):
        form.row("d.jsonl", 2, {"prompt": "hi"})


@pytest.mark.parametrize(
    ("record", "said", "fix"),
    [
        ({"question": "a"}, {}, "--prompt-column"),
        ({"prompt": "a", "other": "b"}, {"completion_column": "othr"}, "Did you mean other"),
        ({"text": "a"}, {"prompt_column": "text", "completion_column": "b"}, "--completion-column"),
        ({"a": 1}, {"form": "alpaca"}, "--form"),
    ],
)
def test_columns_that_fit_no_form_name_the_flag(
    record: dict[str, Any], said: dict[str, str], fix: str
) -> None:
    with pytest.raises(InvalidDataset) as refused:
        detect_form(record, **said)
    assert fix in refused.value.fix


def test_a_form_that_is_said_wins() -> None:
    record = {"prompt": "hi", "completion": "hello", "instruction": "hi", "output": "hello"}
    assert row(record)[0] == "prompt-completion"
    assert row(record, form="alpaca")[0] == "alpaca"


def test_a_form_that_is_none_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean sharegpt"):
        row({"prompt": "hi", "completion": "hello"}, form="sharegtp")
