"""Rows as token ids and labels.

The base's own chat template renders them, so training sees what the server will send. Loss falls
on what the assistant says and the token that ends it, nothing else: labels are -100 elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adapters.errors import Rejected
from train.rows.forms import Chat, Row
from train.served import as_served

IGNORED = -100
Example = dict[str, Any]
"""What TRL's trainer takes for one row: of `sft`, `input_ids` and `labels`, both (tokens,)."""
TEMPLATE_KWARGS = {"enable_thinking": False}
"""What the base's template is told wherever it renders: here, by TRL, and by the server."""
_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row for the trainer."""

    example: Example
    lengths: tuple[int, ...]
    """Tokens of each of its sequences before they are cut: two of a preference, else one."""
    speech: int
    """Where the assistant first speaks: tokens before that."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


def encode(row: Row, tokenizer: Any, *, purpose: str, max_length: int) -> Encoded:
    """Render and tokenise one row for a method of this purpose (`Form.purpose`).

    Rows for SFT become token ids and labels. Preferences, KTO rows and prompts stay chats, which
    TRL renders by the same template; their lengths are those it will find. A prompt is followed
    by nothing, so that one which is too long is no prompt at all.

    Raises:
        ValueError: the base's template refuses this chat; the message has its words.
        Rejected: the base's template cannot tell what of a chat the assistant says.
    """
    example: Example
    if purpose == "sft":
        ids, spoken = speech(row.chat, tokenizer, row.tools)
        first = spoken.index(1) if 1 in spoken else len(ids)
        labels = [token if mine else IGNORED for token, mine in zip(ids, spoken, strict=True)]
        example = {"input_ids": ids[:max_length], "labels": labels[:max_length]}
        return Encoded(example, (len(ids),), first)
    if not tokenizer.chat_template:
        raise Rejected(
            "This base has no chat template, which this method needs.",
            fix="Train on a chat base, or with --method sft.",
        )
    before = render(row.prompt, tokenizer, row.tools, add_generation_prompt=True)
    prompt = _length(before, tokenizer)
    example = {"prompt": row.prompt, "length": prompt}
    if purpose == "prompt":
        if row.tools:
            raise ValueError("it offers tools, which are not rendered where answers are tried")
        example["answer"] = row.answer[-1]["content"] if row.answer else None
        example["columns"] = json.loads(json.dumps(dict(row.columns), default=str))
        return Encoded(example, (prompt,), prompt)
    answers = [turns for turns in (row.answer, row.rejected) if turns is not None]
    whole = [render([*row.prompt, *turns], tokenizer, row.tools) for turns in answers]
    if not all(text.startswith(before) for text in whole):
        raise _renders_otherwise()
    lengths = tuple(_length(text, tokenizer) for text in whole)
    example |= {
        "tools": json.dumps(list(row.tools)) if row.tools else None,
        "chat_template_kwargs": TEMPLATE_KWARGS,
        "length": max(lengths),
        "lengths": list(lengths),
    }
    if purpose == "preference":
        example |= {"chosen": row.answer, "rejected": row.rejected}
    else:
        example |= {"completion": row.answer, "label": row.label}
    return Encoded(example, lengths, prompt)


def _length(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def speech(
    chat: Chat, tokenizer: Any, tools: Sequence[dict[str, Any]] = ()
) -> tuple[list[int], list[int]]:
    """Return a chat's token ids and, for each, 1 where the assistant says it; both (tokens,).

    A template with `{% generation %}` markers says itself what the assistant's part is. Without
    them it is, of each of the assistant's turns, what the template adds to the turns before it
    and its own generation prompt: exact for every template that renders a turn the same whatever
    follows. A base without a template gets plain prompt, completion and end token.

    Raises:
        ValueError: the template refuses this chat.
        Rejected: it renders the last turn differently than its prompt, so that nobody can say
            which tokens are the assistant's.
    """
    if not tokenizer.chat_template:
        return _plain_speech(chat, tokenizer)
    template = tokenizer.get_chat_template(tools=list(tools) or None)
    chat = as_served(chat, template)
    if _MARKERS.search(template):
        with _refusals():
            rendered = tokenizer.apply_chat_template(
                chat,
                tools=list(tools) or None,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                **TEMPLATE_KWARGS,
            )
        return list(rendered["input_ids"]), list(rendered["assistant_masks"])
    whole = _rendered(chat, tokenizer, tools)
    spans = []
    for at, turn in enumerate(chat):
        if turn["role"] != "assistant":
            continue
        before = _rendered(chat[:at], tokenizer, tools, add_generation_prompt=True)
        after = whole if at == len(chat) - 1 else _rendered(chat[: at + 1], tokenizer, tools)
        if after.startswith(before) and whole.startswith(after):
            spans.append((len(before), len(after)))
        elif at == len(chat) - 1:
            raise _renders_otherwise()
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    spoken = [0] * len(ids)
    for low, high in spans:
        within = [
            at
            for at, (start, end) in enumerate(encoded["offset_mapping"])
            if low <= start < end <= high
        ]
        ends = [at for at in within if ids[at] == tokenizer.eos_token_id]
        for at in within:  # nothing after the token that ends the turn: the server stops there
            spoken[at] = int(not ends or at <= ends[-1])
    return ids, spoken


def render(
    chat: Chat,
    tokenizer: Any,
    tools: Sequence[dict[str, Any]] = (),
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Return a chat as the base's template writes it, thinking off where the template knows it.

    Raises:
        ValueError: the template refuses this chat; the message has its words.
    """
    template = tokenizer.get_chat_template(tools=list(tools) or None)
    return _rendered(
        as_served(chat, template), tokenizer, tools, add_generation_prompt=add_generation_prompt
    )


def _rendered(
    chat: Chat,
    tokenizer: Any,
    tools: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    with _refusals():
        return str(
            tokenizer.apply_chat_template(
                chat,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **TEMPLATE_KWARGS,
            )
        )


def _renders_otherwise() -> Rejected:
    return Rejected(
        "This base's chat template renders a prompt differently once it is answered, and has no "
        "{% generation %} markers, so nobody can say what the assistant says.",
        fix="Put {% generation %} … {% endgeneration %} round the assistant's text and its "
        "end-of-turn token in the base's template, or train on another base.",
    )


@contextmanager
def _refusals() -> Iterator[None]:
    import jinja2

    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"this base's chat template refuses the chat ({said})") from error


def _plain_speech(chat: Chat, tokenizer: Any) -> tuple[list[int], list[int]]:
    if [turn["role"] for turn in chat] != ["user", "assistant"]:
        raise ValueError("the base has no chat template, so no system prompts and no further turns")
    prompt = tokenizer(chat[0]["content"])["input_ids"]
    answer = tokenizer(chat[1]["content"], add_special_tokens=False)["input_ids"]
    ids = [*prompt, *answer, tokenizer.eos_token_id]
    return ids, [0] * len(prompt) + [1] * (len(ids) - len(prompt))


# -- proofs ---------------------------------------------------------------------------------------


def check_masks(rows: Sequence[Row], tokenizer: Any) -> None:
    """Prove, on these rows, that loss falls on all the assistant says and on nothing else.

    What the labels spell must be the assistant's turns in their order, each with whatever ends it;
    the tokens before it must be those of the prompt that the server will send.

    Raises:
        Rejected: it does not; the message shows what the loss would fall on.
    """
    for row in rows:
        ids, spoken = speech(row.chat, tokenizer, row.tools)
        heard = tokenizer.decode([i for i, mine in zip(ids, spoken, strict=True) if mine])
        said = [turn["content"] for turn in row.chat if turn["role"] == "assistant"]
        others = [turn["content"].strip() for turn in row.chat if turn["role"] != "assistant"]
        place = 0
        for text in said:
            found = heard.find(text.strip(), place)
            if found < 0:
                raise _wrong_mask(row, heard, f"not on {_short(text)}")
            place = found + len(text.strip())
        loose = heard
        for text in said:
            loose = loose.replace(text.strip(), "", 1)
        if foreign := next((text for text in others if len(text) > 3 and text in loose), None):
            raise _wrong_mask(row, heard, f"on {_short(foreign)}, which the assistant did not say")
        if not _ends_are_learnt(ids, spoken, tokenizer.eos_token_id):
            raise _wrong_mask(
                row, heard, "not on the token that ends the turn, so it would never stop"
            )


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Refuse a tokenizer that has tokens the base has no embedding for.

    Raises:
        Rejected: it has; such ids would fail, or index foreign memory, in the first step.
    """
    if len(tokenizer) > vocab_size:
        raise Rejected(
            f"The tokenizer has {len(tokenizer)} tokens, the base embeds {vocab_size}.",
            fix="Use the base's own tokenizer: adapters with added tokens cannot be served.",
        )


def _ends_are_learnt(ids: list[int], spoken: list[int], end: int) -> bool:
    """Say whether after each stretch of learnt tokens the end token is not left unlearnt."""
    pairs = zip(spoken, zip(spoken[1:], ids[1:], strict=True), strict=False)
    return not any(before and not after and token == end for before, (after, token) in pairs)


def _wrong_mask(row: Row, heard: str, what: str) -> Rejected:
    return Rejected(
        f"{row.place}: the loss would fall {what}. It would fall on {_short(heard)}.",
        fix="Correct the {% generation %} markers of the base's chat template: they go round the "
        "assistant's text and its end-of-turn token.",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:40]} … {text[-35:]}")
