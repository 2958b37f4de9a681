"""Whether the server will see what training saw: token ids, and the token that ends an answer.

`served_ids` is what vLLM 0.32 makes of a request, in process; tests/e2e/test_parity.py holds it
against vLLM's own renderer and against a real server. It is about text, and about a server that was
given no template of its own (`-- --chat-template`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.errors import Rejected
from train.rows.forms import Chat, Row
from train.served import as_served
from train.tokens import speech

NO_THOUGHTS = {"enable_thinking": False}
"""How training renders rows (`train.tokens.render`), as vLLM's `chat_template_kwargs`."""
_SHOWN = 4
"""Tokens shown on either side of the first that differs."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What the check found of a run that may go on."""

    rows: int
    """How many were rendered both ways, each to the same ids."""
    stop_token: str
    """What ends their answers; the server stops there."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What a request must carry for the server to render as training did; mostly nothing."""

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "rows": self.rows,
            "stop_token": self.stop_token,
            "chat_template_kwargs": dict(self.chat_template_kwargs),
        }


def check_parity(rows: Sequence[Row], tokenizer: Any, base: Path) -> Parity | None:
    """Prove on rows that training's tokens begin with the server's prompt and end where it stops.

    Compared is each row's last answer. None where there is nothing to compare: a base without a
    chat template answers no chats, and rows without answers are rendered as prompts alone.

    Raises:
        Rejected: they differ; the message shows the first token that does, and the fix.
        ValueError: the template refuses a row that was not sifted with it.
    """
    rows = [row for row in rows if row.answer]
    if not tokenizer.chat_template or not rows:
        return None
    options = NO_THOUGHTS if any(_thinks(row, tokenizer) for row in rows) else {}
    stops = base_stop_tokens(tokenizer, base)
    end = None
    for row in rows:
        trained, spoken = speech(row.chat, tokenizer, row.tools)
        served = served_ids(row.prompt, tokenizer, row.tools, **options)
        if len(row.answer) == 1:
            _compare(row, tokenizer, trained, spoken, served)
        answer = _last_answer(trained, spoken)
        end = next((token for token in answer if token in stops), None)
        if end is None:
            known = ", ".join(_name(tokenizer, stop) for stop in sorted(stops)) or "nothing"
            raise Rejected(
                f"{row.place}: training ends an answer with {_name(tokenizer, answer[-1])}, where "
                f"the server stops at {known}: it would talk on.",
                fix="Train on the chat model rather than on its base. Or say in a copy of the base "
                "how an answer ends: in its chat template, and as eos_token_id in "
                "generation_config.json.",
            )
    assert end is not None
    return Parity(len(rows), str(tokenizer.decode([end])), options)


def served_ids(
    prompt: Chat, tokenizer: Any, tools: Sequence[dict[str, Any]] = (), **options: Any
) -> list[int]:
    """Return the ids (tokens,) that vLLM's chat endpoint makes of messages.

    `options`: the request's `chat_template_kwargs`.
    """
    ids: list[int] = tokenizer.apply_chat_template(
        as_served(prompt, tokenizer.get_chat_template(tools=list(tools) or None)),
        tools=list(tools) or None,
        add_generation_prompt=True,
        continue_final_message=False,
        tokenize=True,
        return_dict=False,
        **options,
    )
    return list(ids)


def stop_tokens(tokenizer: Any, eos_token_id: int | Sequence[int] | None) -> set[int]:
    """Return where vLLM stops: at the tokenizer's end token and those of the generation config."""
    more = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    return more | ({tokenizer.eos_token_id} - {None})


def base_stop_tokens(tokenizer: Any, base: Path) -> set[int]:
    """Return where vLLM stops with a base."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(base)
    except OSError:  # it has none, and the model's own config holds what there is
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(base))
    return stop_tokens(tokenizer, config.eos_token_id)


def _last_answer(ids: list[int], spoken: list[int]) -> list[int]:
    """Return the tokens of the last stretch that is learnt."""
    end = len(spoken) - spoken[::-1].index(1)
    start = end
    while start and spoken[start - 1]:
        start -= 1
    return ids[start:end]


def _thinks(row: Row, tokenizer: Any) -> bool:
    """Say whether the server, not told otherwise, would have the model think before this answer."""
    if "enable_thinking" not in tokenizer.get_chat_template(tools=list(row.tools) or None):
        return False
    told = served_ids(row.prompt, tokenizer, row.tools, **NO_THOUGHTS)
    return told != served_ids(row.prompt, tokenizer, row.tools)


def _compare(
    row: Row, tokenizer: Any, trained: list[int], spoken: list[int], served: list[int]
) -> None:
    at = next(
        (at for at, pair in enumerate(zip(trained, served, strict=False)) if pair[0] != pair[1]),
        min(len(trained), len(served)),
    )
    if at == len(served) and at < len(trained) and spoken[at]:
        return
    if at == len(served):  # the same ids, but what the assistant says begins later
        said, what = trained[:at], "loss does not fall on the answer's first token"
    else:
        said, what = served, f"token {at} differs"
    before = tokenizer.decode(trained[max(0, at - _SHOWN) : at])
    after = [
        "+".join(_name(tokenizer, token) for token in ids[at : at + _SHOWN]) or "nothing"
        for ids in (trained, said)
    ]
    raise Rejected(
        f"{row.place}: {what} between training and serving. After {before!r} training sees "
        f"{after[0]}, the server {after[1]}.",
        fix=_fix(tokenizer, trained, said),
    )


def _fix(tokenizer: Any, trained: list[int], served: list[int]) -> str:
    if tokenizer.decode(trained).startswith(tokenizer.decode(served)):
        return (
            "The same text in other tokens: the template's generation prompt runs into the answer. "
            "It must end in a special token or a line break."
        )
    return (
        "The base's chat template renders a chat differently once it is answered. Correct it, in "
        "a copy of the base, so that an answer follows its own generation prompt."
    )


def _name(tokenizer: Any, token: int) -> str:
    return repr(tokenizer.decode([token]))
