"""The serving defaults of a version, put into a request. Pure; the request's own fields win.

Each endpoint in its own dialect, as vLLM 0.32 reads it. What stands in a request wins over vLLM's
own defaults (`--generation-config`, `--default-chat-template-kwargs`), so a version's do too:
request, version, server. A field that is null says nothing, as in OpenAI's own reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapters.serving import Serving

Content = dict[str, Any]

_ANTHROPIC = ("temperature", "top_p", "top_k")
"""All the sampling parameters that vLLM's `/v1/messages` reads, beside `max_tokens`."""
_SYSTEM_ROLES = ("system", "developer")


def apply(path: str, content: Mapping[str, Any], serving: Serving) -> Content:
    """Return a request with a version's defaults where it says nothing itself.

    Doing it again changes nothing. What is malformed stays so, for vLLM to refuse in its words.
    """
    added = dict(content)
    if dialect := _DIALECTS.get(path):
        dialect(added, serving)
    return added


def _chat(content: Content, serving: Serving) -> None:
    _tokenize(content, serving)
    _sample(content, serving, longest="max_completion_tokens", also="max_tokens")
    _fill(content, "stop", list(serving.stop))
    _structure(content, serving)


def _batch(content: Content, serving: Serving) -> None:
    chats = content.get("messages")
    if isinstance(chats, list):
        content["messages"] = [_turns(chat, serving) for chat in chats]
    _template(content, serving, asked=content.get("reasoning_effort"))
    _sample(content, serving, longest="max_completion_tokens", also="max_tokens")
    _fill(content, "stop", list(serving.stop))
    _structure(content, serving)


def _completions(content: Content, serving: Serving) -> None:
    _sample(content, serving, longest="max_tokens")
    _fill(content, "stop", list(serving.stop))
    _structure(content, serving)


def _responses(content: Content, serving: Serving) -> None:
    items = content.get("input")
    if serving.system and not (isinstance(items, list) and _has_system(items)):
        _fill(content, "instructions", serving.system)
    # A conversation that goes on has them in its history already.
    if serving.shots and content.get("previous_response_id") is None:
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        if isinstance(items, list):
            content["input"] = _with_shots(items, serving)
    effort = content.get("reasoning")
    _template(content, serving, asked=isinstance(effort, Mapping) and effort.get("effort"))
    _sample(content, serving, longest="max_output_tokens")
    _fill(content, "stop", list(serving.stop))
    text = content.get("text")
    said = text if isinstance(text, Mapping) else {}
    if text is None or (isinstance(text, Mapping) and said.get("format") is None):
        format_ = serving.response_format
        if format_ and not _structured(content):
            schema = format_.get("json_schema", {})
            content["text"] = {**said, "format": {"type": format_["type"], **schema}}


def _messages(content: Content, serving: Serving) -> None:
    _count_tokens(content, serving)
    for name in (*_ANTHROPIC, "max_tokens"):
        _fill(content, name, serving.sampling.get(name))
    _fill(content, "stop_sequences", list(serving.stop))
    output = content.get("output_config")
    said = output if isinstance(output, Mapping) else {}
    if output is None or (isinstance(output, Mapping) and said.get("format") is None):
        format_ = serving.response_format
        if format_ and not _structured(content):
            schema = format_.get("json_schema", {}).get("schema", {"type": "object"})
            content["output_config"] = {
                **said, "format": {"type": "json_schema", "schema": schema}
            }  # fmt: skip


def _count_tokens(content: Content, serving: Serving) -> None:
    turns = content.get("messages")
    if isinstance(turns, list):
        if serving.system and not _has_system(turns):
            _fill(content, "system", serving.system)
        content["messages"] = _with_shots(turns, serving)
    output = content.get("output_config")
    effort = isinstance(output, Mapping) and output.get("effort")
    _template(content, serving, asked=content.get("thinking") or effort)


def _tokenize(content: Content, serving: Serving) -> None:
    if isinstance(content.get("messages"), list):  # else a prompt, which is taken as it is
        content["messages"] = _turns(content["messages"], serving)
        _template(content, serving, asked=content.get("reasoning_effort"))


_DIALECTS: Mapping[str, Callable[[Content, Serving], None]] = {
    "/v1/chat/completions": _chat,
    "/v1/chat/completions/batch": _batch,
    "/v1/completions": _completions,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": _count_tokens,
    "/tokenize": _tokenize,
}


GENERATING = frozenset(_DIALECTS) - {"/v1/messages/count_tokens", "/tokenize"}
"""The endpoints whose prompts are answered, not only counted."""


def _fill(content: Content, name: str, value: Any) -> None:
    """Set a field that says nothing; a default that is None or empty is none."""
    if value is not None and value != [] and content.get(name) is None:
        content[name] = value


def _sample(content: Content, serving: Serving, *, longest: str, also: str | None = None) -> None:
    """Set sampling parameters; `longest`: the field of `max_tokens`, `also`: its other name."""
    for name, value in serving.sampling.items():
        if name != "max_tokens":
            _fill(content, name, value)
        elif also is None or content.get(also) is None:
            _fill(content, longest, value)


def _template(content: Content, serving: Serving, *, asked: Any) -> None:
    """Set the template's arguments, one by one. `asked`: how much the request itself wants thought.

    vLLM makes `enable_thinking` of that, unless it is given.
    """
    own = content.get("chat_template_kwargs")
    if serving.chat_template_kwargs and (own is None or isinstance(own, Mapping)):
        left_out = {"enable_thinking"} if asked else set()
        ours = {k: v for k, v in serving.chat_template_kwargs.items() if k not in left_out}
        if merged := {**ours, **(own or {})}:
            content["chat_template_kwargs"] = merged


def _structure(content: Content, serving: Serving) -> None:
    if serving.response_format and not _structured(content):
        _fill(content, "response_format", serving.response_format)


def _structured(content: Content) -> bool:
    """Whether a request says itself what its answer is made of; tools are called in other words."""
    return bool(content.get("structured_outputs") or content.get("tools"))


def _turns(turns: Any, serving: Serving) -> Any:
    """Return a chat with the system prompt, if it has none, and the shots before its turns."""
    if not isinstance(turns, list):
        return turns
    turns = _with_shots(turns, serving)
    if serving.system and not _has_system(turns):
        turns = [{"role": "system", "content": serving.system}, *turns]
    return turns


def _with_shots(turns: list[Any], serving: Serving) -> list[Any]:
    begin = next((n for n, turn in enumerate(turns) if not _is_system(turn)), len(turns))
    shots = [dict(turn) for turn in serving.shots]
    if turns[begin : begin + len(shots)] == shots:
        return turns
    return [*turns[:begin], *shots, *turns[begin:]]


def _has_system(turns: list[Any]) -> bool:
    return any(_is_system(turn) for turn in turns)


def _is_system(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role") in _SYSTEM_ROLES
