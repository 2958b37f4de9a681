"""Chats as vLLM hands them to a base's chat template, so that training renders what serving does.

What it does to text before that: vllm/renderers/chat_utils.py and hf.py, 0.32. Held against it by
tests/e2e/test_parity.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from train.rows.forms import Chat


def as_served(messages: Chat, template: str) -> Chat:
    """Return messages as vLLM hands them to a template: text as parts, where it loops over them;
    developers as the system, where it does not know them; nothing in a turn but what it passes on.
    """
    parts = _wants_parts(template)
    turns = []
    for message in messages:
        role, text = message["role"], message.get("content") or ""
        content = [{"type": "text", "text": text}] if parts and role != "tool" else text
        turn: dict[str, Any] = {"role": role, "content": content}
        if role == "assistant":
            turn |= {key: message[key] for key in ("tool_calls",) if message.get(key)}
            if thought := message.get("reasoning_content"):
                turn |= {"reasoning": thought, "reasoning_content": thought}
        turns.append(turn | {k: message[k] for k in ("tool_call_id", "name") if k in message})
    if "'developer'" in template or '"developer"' in template:
        return turns
    return _one_system(turns) if any(turn["role"] == "developer" for turn in turns) else turns


def _one_system(turns: Chat) -> Chat:
    """Return turns with developers as the system, and all that it says at the start."""
    turns = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    system = [turn for turn in turns if turn["role"] == "system"]
    if turns[:1] == system:
        return turns
    said = [
        turn["content"]
        if isinstance(turn["content"], str)
        else "\n".join(part["text"] for part in turn["content"])
        for turn in system
    ]
    one = {"role": "system", "content": "\n\n".join(text for text in said if text)}
    return [one, *(turn for turn in turns if turn["role"] != "system")]


@lru_cache(maxsize=8)
def _wants_parts(template: str) -> bool:
    """Say whether a template loops over the parts of a message's content."""
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    def is_content(node: Any) -> bool:
        while isinstance(node, nodes.Filter | nodes.Test) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
        if isinstance(node, nodes.Getattr):
            return bool(node.attr == "content")
        return isinstance(node, nodes.Name) and node.name in named

    tree = _compile_jinja_template(template).environment.parse(template)
    named: set[str] = set()
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and (macro := macros.get(call.node.name)):
            pairs = zip(macro.args, call.args, strict=False)
            named |= {parameter.name for parameter, given in pairs if is_content(given)}
            named |= {given.key for given in call.kwargs if is_content(given.value)}
    named.add("content")
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))
