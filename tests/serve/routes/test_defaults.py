"""Serving defaults in each endpoint's dialect: a request's own fields win, always."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from adapters.serving import Serving
from serve.routes.defaults import apply
from tests.adapters.test_serving import SCHEMA, SHOTS, WHOLE

CHAT = "/v1/chat/completions"
BATCH = "/v1/chat/completions/batch"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TOKENIZE = "/tokenize"
DIALECTS = [CHAT, BATCH, COMPLETIONS, RESPONSES, MESSAGES, COUNT, TOKENIZE]
UNTOUCHED = ["/v1/embeddings", "/v1/score", "/v1/rerank", "/detokenize"]

ASK = {"role": "user", "content": "Where is it?"}
SYSTEM = {"role": "system", "content": "Be brief."}
OWN_SYSTEM = {"role": "system", "content": "Mine."}
FULL = Serving.from_json(WHOLE)
SAMPLED = {
    key: WHOLE[key]
    for key in (
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "seed",
    )
}  # fmt: skip
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [ASK]},
    BATCH: {"messages": [[ASK], [OWN_SYSTEM, ASK]]},
    COMPLETIONS: {"prompt": "Where"},
    RESPONSES: {"input": "Where is it?"},
    MESSAGES: {"messages": [ASK]},
    COUNT: {"messages": [ASK]},
    TOKENIZE: {"messages": [ASK]},
}
EXPECTED: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [SYSTEM, *SHOTS, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["END"],
        "max_completion_tokens": 64,
        "response_format": SCHEMA,
        **SAMPLED,
    },
    BATCH: {
        "messages": [[SYSTEM, *SHOTS, ASK], [OWN_SYSTEM, *SHOTS, ASK]],
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["END"],
        "max_completion_tokens": 64,
        "response_format": SCHEMA,
        **SAMPLED,
    },
    COMPLETIONS: {
        "prompt": "Where", "stop": ["END"], "max_tokens": 64, "response_format": SCHEMA, **SAMPLED
    },
    RESPONSES: {
        "instructions": "Be brief.",
        "input": [*SHOTS, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["END"],
        "max_output_tokens": 64,
        "text": {
            "format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}
        },
        **SAMPLED,
    },
    MESSAGES: {
        "system": "Be brief.",
        "messages": [*SHOTS, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
        "stop_sequences": ["END"],
        "max_tokens": 64,
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        **{key: WHOLE[key] for key in ("temperature", "top_p", "top_k")},
    },
    COUNT: {
        "system": "Be brief.",
        "messages": [*SHOTS, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    TOKENIZE: {
        "messages": [SYSTEM, *SHOTS, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
    },
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [{"role": "developer", "content": "Mine."}, ASK],
        "chat_template_kwargs": {"enable_thinking": True},
        "stop": [], "max_tokens": 1, "response_format": {"type": "text"}, "temperature": 0,
        "top_p": 1, "top_k": 0, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0,
        "repetition_penalty": 1, "seed": 0,
    },
    COMPLETIONS: {
        "prompt": [1, 2], "stop": "x", "max_tokens": 1, "temperature": 0,
        "structured_outputs": {"regex": "a"}, "seed": 0,
    },
    RESPONSES: {
        "instructions": "Mine.", "max_output_tokens": 1, "text": {"format": {"type": "text"}},
        "temperature": 0, "stop": [], "previous_response_id": "resp_1", "input": "Where?",
    },
    MESSAGES: {
        "system": [{"type": "text", "text": "Mine."}], "max_tokens": 1, "stop_sequences": [],
        "temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": {}}},
        "messages": [ASK],
    },
    COUNT: {"system": "Mine.", "messages": [ASK]},
    TOKENIZE: {"prompt": "Where"},
}  # fmt: skip
OWN[BATCH] = {**OWN[CHAT], "messages": [OWN[CHAT]["messages"]]}


@pytest.mark.parametrize("path", DIALECTS)
def test_each_endpoint_in_its_own_dialect(path: str) -> None:
    assert apply(path, {"model": "m", **ASKED[path]}, FULL) == {"model": "m", **EXPECTED[path]}


@pytest.mark.parametrize("path", DIALECTS)
def test_what_a_request_says_itself_stays(path: str) -> None:
    without_shots = Serving.from_json({k: v for k, v in WHOLE.items() if k != "shots"})
    added = apply(path, OWN[path], without_shots)
    assert {key: added[key] for key in OWN[path]} == OWN[path]
    if path in (CHAT, BATCH):
        assert added == OWN[path], "one name of the longest answer is enough"
    if path == COMPLETIONS:
        assert "response_format" not in added, "structured_outputs say it already"


@pytest.mark.parametrize("path", [*DIALECTS, *UNTOUCHED, "/v1/other"])
def test_a_version_without_defaults_leaves_a_request_as_it_is(path: str) -> None:
    asked = {"model": "m", **ASKED.get(path, {"input": "x"})}
    assert apply(path, asked, Serving()) == asked
    if path not in DIALECTS:
        assert apply(path, asked, FULL) == asked


def test_null_says_nothing() -> None:
    nulls = dict.fromkeys(EXPECTED[CHAT], None) | ASKED[CHAT]
    assert apply(CHAT, nulls, FULL) == EXPECTED[CHAT]


def test_the_system_prompt_is_for_chats_without_one() -> None:
    prompt = Serving.from_json({"system": "Be brief."})
    for role in ("system", "developer"):
        own = [ASK, {"role": role, "content": "Mine."}]
        assert apply(CHAT, {"messages": own}, prompt) == {"messages": own}
        assert apply(RESPONSES, {"input": own}, prompt) == {"input": own}
        assert apply(MESSAGES, {"messages": own}, prompt) == {"messages": own}


def test_template_arguments_are_merged_one_by_one() -> None:
    chosen = Serving.from_json({"chat_template_kwargs": {"enable_thinking": False, "style": "a"}})
    own = {"messages": [ASK], "chat_template_kwargs": {"style": "b", "more": 1}}
    assert apply(CHAT, own, chosen)["chat_template_kwargs"] == {
        "enable_thinking": False, "style": "b", "more": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (CHAT, {"reasoning_effort": "high"}),
        (RESPONSES, {"reasoning": {"effort": "high"}}),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (COUNT, {"thinking": {"type": "disabled"}}),
        (MESSAGES, {"output_config": {"effort": "high"}}),
    ],
)
def test_who_asks_for_thought_is_not_kept_from_it(path: str, own: dict[str, Any]) -> None:
    """vLLM makes `enable_thinking` of these, unless the template's arguments have it."""
    chosen = Serving.from_json({"chat_template_kwargs": {"enable_thinking": False, "style": "a"}})
    added = apply(path, {**ASKED[path], **own}, chosen)
    assert added["chat_template_kwargs"] == {"style": "a"}


def test_a_structure_is_not_forced_on_who_calls_tools() -> None:
    chosen = Serving.from_json({"response_format": SCHEMA})
    own = {"messages": [ASK], "tools": [{"type": "function"}]}
    for path in (CHAT, RESPONSES, MESSAGES):
        assert apply(path, own, chosen) == own


def test_a_structure_of_any_json() -> None:
    chosen = Serving.from_json({"response_format": {"type": "json_object"}})
    assert apply(RESPONSES, {}, chosen) == {"text": {"format": {"type": "json_object"}}}
    assert apply(MESSAGES, {}, chosen)["output_config"]["format"]["schema"] == {"type": "object"}


def test_shots_are_not_told_twice_where_a_conversation_goes_on() -> None:
    chosen = Serving.from_json({"shots": SHOTS})
    going_on = {"input": "And?", "previous_response_id": "resp_1"}
    assert apply(RESPONSES, going_on, chosen) == going_on


_ANY = some.recursive(
    some.none() | some.booleans() | some.integers(-2, 2) | some.sampled_from(["", "x", "user"]),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["role", "content", "format", "effort"]), inner)
    ),
    max_leaves=6,
)
_TURN = some.fixed_dictionaries(
    {"role": some.sampled_from(["user", "assistant", "system", "developer"]), "content": _ANY}
)
_TURNS = some.lists(_TURN, max_size=4)
_FIELDS = some.sampled_from(
    sorted({key for own in (*EXPECTED.values(), *OWN.values()) for key in own} - {"messages"})
)
_CONTENTS = some.builds(
    lambda fields, turns: {**fields, "messages": turns, "input": turns},
    some.dictionaries(_FIELDS, _ANY, max_size=6),
    _TURNS | _ANY | some.lists(_TURNS, max_size=2),
)
_CHOSEN = some.sets(some.sampled_from(sorted(WHOLE))).map(
    lambda keys: Serving.from_json({key: WHOLE[key] for key in keys})
)
_ADDED_TO = {"messages", "input", "chat_template_kwargs", "text", "output_config"}
"""Fields that a default joins; of any other, what the request says is what the engine reads."""


@given(some.sampled_from([*DIALECTS, *UNTOUCHED]), _CONTENTS, _CHOSEN)
@settings(max_examples=400)
def test_own_fields_win_and_twice_is_once(
    path: str, content: dict[str, Any], chosen: Serving
) -> None:
    before = deepcopy(content)
    added = apply(path, content, chosen)
    assert content == before, "it is pure"
    for key, value in content.items():
        if value is not None and key not in _ADDED_TO:
            assert added[key] == value
    for key in ("chat_template_kwargs", "text", "output_config"):
        if isinstance(own := content.get(key), dict):
            kept = {k: v for k, v in own.items() if v is not None}
            assert {k: added[key][k] for k in kept} == kept
    if isinstance(turns := content.get("messages"), list) and path in (CHAT, MESSAGES):
        assert [turn for turn in added["messages"] if turn in turns][-len(turns) :] == turns[:]
    assert apply(path, added, chosen) == added
    assert apply(path, content, Serving()) == content
