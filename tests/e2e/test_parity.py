"""Training's rendering of chats against vLLM's: its renderer on many templates, a real server."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trl
from openai import OpenAI
from transformers import AutoTokenizer

from adapters import bases
from train.parity import base_stop_tokens, check_parity, served_ids
from train.rows.forms import Row, detect_form
from train.tokens import encode

TINY = bases.resolve("tiny").path
TEMPLATES = {
    path.name: path.read_text()
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
}
"""Chat templates of some 30 families of models, which TRL ships."""
USER = {"role": "user", "content": " Was kostet es? 多少钱? \n"}
CALL = {"id": "call-1", "type": "function", "function": {"name": "price", "arguments": {"of": "A"}}}
TOOLS = [
    {  # in an order that is not OpenAI's
        "function": {
            "parameters": {"properties": {"of": {"type": "string"}}, "type": "object"},
            "description": "What a thing costs.",
            "name": "price",
            "strict": True,
        },
        "type": "function",
    },
    {"type": "function", "function": {"name": "now"}},
]
CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a question": ([USER], []),
    "a system prompt": ([{"role": "system", "content": "Be brief."}, USER], []),
    "several turns": ([USER, {"role": "assistant", "content": "8 €"}, USER], []),
    "a developer": ([{"role": "developer", "content": "Be brief."}, USER], []),
    "a late developer": (
        [
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": "8 €"},
            {"role": "developer", "content": "Be long."},
            USER,
        ],
        [],
    ),
    "a thought": (
        [USER, {"role": "assistant", "content": "8", "reasoning_content": "h"}, USER],
        [],
    ),
    "a tool": (
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "8", "tool_call_id": "call-1", "name": "price"},
        ],
        TOOLS,
    ),
}


def as_sent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row's turns as an OpenAI client sends them."""
    sent = copy.deepcopy(messages)
    for turn in sent:
        if "reasoning_content" in turn:
            turn["reasoning"] = turn.pop("reasoning_content")
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent


def as_read(tools: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return tools as they come out of a dataset."""
    record = {"prompt": "a", "completion": "b", "tools": tools}
    return detect_form(record).row("d.jsonl", 1, record).tools


def test_chats_are_rendered_as_vllm_renders_them_by_every_template(tmp_path: Path) -> None:
    chats = [
        {"messages": as_sent(messages), "tools": tools, "chat_template_kwargs": options}
        for messages, tools in CHATS.values()
        for options in ({}, {"enable_thinking": False})
    ]
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(json.dumps({"base": str(TINY), "templates": TEMPLATES, "chats": chats}))
    command = [sys.executable, "-m", "tests.e2e.rendered", str(request), str(answer)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    naive = compared = 0
    for name, rendered in json.loads(answer.read_text()).items():
        tokenizer.chat_template = TEMPLATES[name]
        asked = [
            (label, messages, tools, options)
            for label, (messages, tools) in CHATS.items()
            for options in ({}, {"enable_thinking": False})
        ]
        for (label, messages, tools, options), ids in zip(asked, rendered, strict=True):
            try:
                ours = served_ids(messages, tokenizer, as_read(tools), **options)
            except Exception:
                ours = None
            assert ours == ids, f"{name}: {label}, {options}"
            compared += ids is not None
            try:
                plain = tokenizer.apply_chat_template(
                    messages, tools=tools or None, add_generation_prompt=True, return_dict=False,
                    **options,
                )  # fmt: skip
            except Exception:
                plain = None
            naive += plain == ids
    assert compared > 900
    assert naive < compared, "vLLM does more than to call the template"


@pytest.mark.parametrize("chat", CHATS)
def test_the_server_tokenises_as_training_does(client: OpenAI, chat: str) -> None:
    messages, tools = CHATS[chat]
    row = Row(
        "d.jsonl", 1, messages, [{"role": "assistant", "content": "Acht."}], tools=tuple(tools)
    )
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    parity = check_parity([row], tokenizer, TINY)
    assert parity
    assert parity.chat_template_kwargs == {}
    reply = client.post(
        "/../tokenize",
        cast_to=dict[str, Any],
        body={
            "model": "support@v1",
            "messages": as_sent(messages),
            "tools": tools or None,
            "add_generation_prompt": True,
        },
    )
    trained = encode(row, tokenizer, purpose="sft", max_length=512).example
    count = len(reply["tokens"])
    assert trained["input_ids"][:count] == reply["tokens"]
    assert trained["labels"][count - 1] == -100 != trained["labels"][count]


def test_the_server_stops_at_the_token_that_training_ends_with(client: OpenAI) -> None:
    stops = base_stop_tokens(AutoTokenizer.from_pretrained(TINY), TINY)
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "What is the capital of Spain?"}],
        max_tokens=200,
        temperature=0,
        extra_body={"return_token_ids": True, "skip_special_tokens": False},
    )
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].model_extra
    assert reply.choices[0].model_extra["token_ids"][-1] in stops
