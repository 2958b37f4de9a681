"""Records as rows. Which form a dataset has is read off its columns, shown, and can be said.

Sources of the forms: stanford_alpaca; OpenAI's chat messages; ShareGPT, and preference and KTO rows
as LLaMA-Factory has them (its `data/README.md`); TRL's `docs/source/dataset_formats.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.errors import InvalidDataset, UsageError, nearest

Chat = list[dict[str, Any]]
"""Turns as OpenAI has them: role, content, and tool_calls, tool_call_id or name where there are."""

FORMS = ("alpaca", "messages", "sharegpt", "prompt-completion", "prompt")
"""What `--form` takes. Whether rows are preferences or KTO rows, their columns say."""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_TURN_KEYS = {"role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content"}
_FROM = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant",
    "bing": "assistant", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_CALLS = ("function_call", "tool_call")


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    file: str
    line: int
    prompt: Chat
    """The turns before the answer."""
    answer: Chat
    """The turns that are learnt, the last of them the assistant's; empty for a prompt alone."""
    rejected: Chat | None = None
    """Of a preference: turns that are worse than the answer."""
    label: bool | None = None
    """Of a KTO row: whether the answer is a desirable one."""
    tools: tuple[dict[str, Any], ...] = ()
    """What may be called, as JSON schemas in OpenAI's form."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The record's columns, for reward functions."""

    @property
    def place(self) -> str:
        """Where it stands, as messages name it: `support.jsonl:12`."""
        return f"{self.file}:{self.line}"

    @property
    def chat(self) -> Chat:
        """The prompt and its answer."""
        return [*self.prompt, *self.answer]


@dataclass(frozen=True, slots=True)
class Form:
    """How the records of a dataset become rows."""

    name: str
    """One of `FORMS`, with `-preference` or `-kto` where the rows are such."""
    purpose: str
    """What such rows can train: sft, preference, kto or prompt."""
    prompt: Callable[[Mapping[str, Any]], Chat]
    answers: tuple[str, ...] = ()
    """The columns of the answer and the rejected one; none where the turns hold the answer."""
    label: str = ""

    def row(self, file: str, line: int, record: Mapping[str, Any]) -> Row:
        """Return a record as a row.

        Raises:
            ValueError: it is malformed; the message says how.
        """
        missing = [name for name in (*self.answers, self.label) if name and name not in record]
        if missing:
            raise ValueError(f"no column {missing[0]!r}")
        try:
            prompt = [*_system(record), *self.prompt(record)]
            answers = [_answer(record[name], name) for name in self.answers]
            tools = _tools(record.get("tools"))
        except KeyError as error:
            raise ValueError(f"no column {error}") from error
        if self.name == "chosen-rejected":
            answers = [turns[len(prompt) :] for turns in answers]
        if not answers and self.purpose != "prompt":
            prompt, answers = prompt[:-1], [prompt[-1:]]
        if not prompt or prompt[-1]["role"] not in ("user", "tool"):
            raise ValueError("the last turn before the answer is not the user's or a tool's")
        for turns in answers:
            if not turns or turns[-1]["role"] != "assistant":
                raise ValueError("the last turn is not the assistant's")
        label = record[self.label] if self.label else None
        if self.label and not isinstance(label, bool):
            raise ValueError(f"{self.label} is neither true nor false")
        chosen, rejected = (*answers, None, None)[:2]
        return Row(file, line, prompt, chosen or [], rejected, label, tools, record)


def detect_form(
    record: Mapping[str, Any],
    *,
    form: str | None = None,
    prompt_column: str | None = None,
    completion_column: str | None = None,
) -> Form:
    """Return the form of records that have the columns of this one.

    `form`: one of `FORMS`, where it is said and not to be detected. The columns are those of
    prompts and completions, where they have other names.

    Raises:
        UsageError: `form` is none.
        InvalidDataset: no form fits; the message names the columns and the flag that says more.
    """
    if form not in (None, *FORMS):
        hint = nearest(str(form), FORMS) or f"Use one of {', '.join(FORMS)}."
        raise UsageError(f"No form {form!r}.", fix=hint)
    prompt_column, completion_column = prompt_column or "prompt", completion_column or "completion"
    turns_column = "conversations" if "conversations" in record else "messages"
    name = form or _detect(record, prompt_column, completion_column, turns_column)
    preference = record.keys() >= {"chosen", "rejected"}
    label = next((key for key in ("kto_tag", "label") if isinstance(record.get(key), bool)), "")
    needed: tuple[str, ...]
    answers: tuple[str, ...]
    prompt: Callable[[Mapping[str, Any]], Chat]
    if name == "chosen-rejected":
        needed, answers, prompt = ("chosen", "rejected"), (), _shared_prompt
    elif name == "alpaca":
        needed, answers, prompt = ("instruction",), ("output",), _alpaca
    elif name in ("messages", "sharegpt"):
        needed, answers, prompt = (turns_column,), (), lambda record: _turns(record[turns_column])
    else:
        needed = (prompt_column,)
        answers = () if name == "prompt" else (completion_column,)
        prompt = lambda record: _prompt(record[prompt_column])  # noqa: E731
    if preference:
        answers, label = ("chosen", "rejected"), ""
    for column in (*needed, *answers):
        if column not in record:
            raise InvalidDataset(
                f"no column {column!r}; there are {', '.join(map(str, record)) or 'none'}.",
                fix=f"Say which column it is: {_flag(column, prompt_column, completion_column)}. "
                f"{nearest(column, record)}".rstrip(),
            )
    if preference:
        known = name if name == "chosen-rejected" else f"{name}-preference"
        return Form(known, "preference", prompt, answers)
    if label:
        return Form(f"{name}-kto", "kto", prompt, answers, label)
    return Form(name, "prompt" if name == "prompt" else "sft", prompt, answers)


def _detect(record: Mapping[str, Any], prompt: str, completion: str, turns: str) -> str:
    if "instruction" in record and prompt not in record:
        return "alpaca"
    if isinstance(found := record.get(turns), list):
        first = found[0] if found else {}
        return "sharegpt" if isinstance(first, dict) and "from" in first else "messages"
    if prompt in record and completion not in record and completion == "completion":
        return "prompt"
    return "chosen-rejected" if {"chosen", "rejected"} <= record.keys() else "prompt-completion"


def _flag(column: str, prompt: str, completion: str) -> str:
    flags = {prompt: "--prompt-column NAME", completion: "--completion-column NAME"}
    return flags.get(column, f"--form, one of {', '.join(FORMS)}")


# -- pieces of a record ---------------------------------------------------------------------------


def _alpaca(record: Mapping[str, Any]) -> Chat:
    turns = []
    for exchange in record.get("history") or []:
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise ValueError("history is no list of pairs")
        turns += [_turn("user", exchange[0]), _turn("assistant", exchange[1])]
    asked = _string(record["instruction"], "instruction")
    if more := _string(record.get("input") or "", "input"):
        asked = f"{asked}\n{more}"
    return [*turns, _turn("user", asked)]


def _system(record: Mapping[str, Any]) -> Chat:
    said = _string(record.get("system") or "", "system")
    return [_turn("system", said)] if said else []


def _prompt(value: Any) -> Chat:
    return _turns(value) if isinstance(value, list) else [_turn("user", value, "the prompt")]


def _answer(value: Any, column: str) -> Chat:
    """Return an answer that is a text, one turn, or a list of turns."""
    if isinstance(value, list | dict):
        return _turns(value if isinstance(value, list) else [value])
    return [_turn("assistant", value, column)]


def _shared_prompt(record: Mapping[str, Any]) -> Chat:
    """Return the turns that `chosen` and `rejected` begin with alike (TRL's implicit prompt)."""
    chosen, rejected = _answer(record["chosen"], "chosen"), _answer(record["rejected"], "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared]


def _turns(value: Any) -> Chat:
    if not isinstance(value, list) or not value:
        raise ValueError("no list of turns")
    return [
        _sharegpt(turn) if isinstance(turn, dict) and "from" in turn else _message(turn)
        for turn in value
    ]


def _message(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
        raise ValueError(f"a turn needs a role, one of {', '.join(_ROLES)}")
    kept = {key: value for key, value in turn.items() if value is not None}
    if unknown := kept.keys() - _TURN_KEYS:
        raise ValueError(f"a turn has {', '.join(sorted(unknown))}, which no template renders")
    if calls := kept.get("tool_calls"):
        return {
            **kept,
            "content": _string(kept.get("content", ""), "a turn's content"),
            "tool_calls": _calls(calls),
        }
    return {**kept, "content": _text(turn.get("content"))}


def _sharegpt(turn: Mapping[str, Any]) -> dict[str, Any]:
    said, value = turn["from"], turn.get("value")
    if said in _CALLS:
        calls = _json(value, "a function call")
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": _calls(calls if isinstance(calls, list) else [calls]),
        }
    role = _FROM.get(said, said) if isinstance(said, str) else None
    if role not in _ROLES:
        raise ValueError(f"{str(said)[:40]!r} is nobody that a turn can be from")
    return _turn(role, value, "a turn's value")


def _text(content: Any) -> str:
    """Return a turn's text; OpenAI's list of text parts is one text."""
    if isinstance(content, list) and all(
        isinstance(p, dict) and p.get("type") == "text" for p in content
    ):
        return "".join(_string(part.get("text"), "a part's text") for part in content)
    return _string(content, "a turn's content")


def _calls(calls: Any) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, which is what templates render."""
    if not isinstance(calls, list):
        raise ValueError("tool_calls is no list")
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("a tool call names no function")
        arguments = function.get("arguments", {})
        arguments = (
            _json(arguments, "a call's arguments") if isinstance(arguments, str) else arguments
        )
        known = {"id": call["id"]} if "id" in call else {}
        found.append(
            {
                **known,
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return found


def _tools(tools: Any) -> tuple[dict[str, Any], ...]:
    if not tools:
        return ()
    found = _json(tools, "tools") if isinstance(tools, str) else tools
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise ValueError("tools is no list of functions")
    return tuple(map(_tool, found))


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool as the server hands it to the template, which may print it as JSON: with
    these keys in this order, null where there is none.
    """
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a tool names no function")
    kept = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        kept["strict"] = function["strict"]
    return {"type": "function", "function": kept}


def _turn(role: str, content: Any, what: str = "a turn") -> dict[str, Any]:
    return {"role": role, "content": _string(content, what)}


def _json(value: Any, what: str) -> Any:
    try:
        return json.loads(_string(value, what))
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not whole JSON") from error


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text but {type(value).__name__}")
    return value
