"""serving.json of a version: what the server adds to requests that do not say otherwise.

It is a file of the version, so its digest tells two versions with other defaults apart. Names and
ranges are OpenAI's, and vLLM's where OpenAI has none; how each endpoint spells them is the
server's to know (`serve.routes.defaults`). A key that is not known is refused, never ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from adapters.errors import InvalidName, UsageError, nearest
from adapters.files import SERVING_FILE, open_plain, read_up_to
from adapters.types import Ref
from adapters.weights import refuse_constant, unique

Message = Mapping[str, str]
"""One turn of a chat: `{"role": …, "content": …}`."""
_MOST_BYTES = 1 << 20
_MOST_STOPS = 4
"""As many as OpenAI and vLLM (VLLM_MAX_STOP_STRINGS) take."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a sampling parameter may be; `above`: the lower bound itself is left out."""

    whole: bool
    low: float
    high: float = math.inf
    above: bool = False

    def takes(self, value: object) -> bool:
        """Whether a value of JSON lies within."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        least = f" {'above' if self.above else 'of at least'} {self.low:g}"
        return f"{number} {least}" + (
            "" if self.high == math.inf else f" and at most {self.high:g}"
        )


SAMPLING: Mapping[str, Sampling] = {
    "temperature": Sampling(False, 0, 2),
    "top_p": Sampling(False, 0, 1, above=True),
    "top_k": Sampling(True, -1),
    "min_p": Sampling(False, 0, 1),
    "presence_penalty": Sampling(False, -2, 2),
    "frequency_penalty": Sampling(False, -2, 2),
    "repetition_penalty": Sampling(False, 0, 1e6, above=True),
    "seed": Sampling(True, -(2**63), 2**63 - 1),
    "max_tokens": Sampling(True, 1, 2**31 - 1),
}
"""As vLLM 0.32 checks them (`SamplingParams._verify_args`); `max_tokens`: of the answer."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The defaults of one version; what is None or empty is left to the server's own."""

    system: str | None = None
    """The system prompt of a chat that has none."""
    shots: tuple[Message, ...] = ()
    """Few-shot turns before a chat's own: user and assistant in turn."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, int | float] = field(default_factory=dict)
    """By the names in `SAMPLING`; they stand beside the other keys in the file."""
    response_format: Mapping[str, Any] | None = None
    """OpenAI's, of type json_schema or json_object."""
    max_model_len: int | None = None
    """The most tokens of prompt and answer together; a longer prompt is refused."""
    on: str | None = None
    """Of a prompt-only version over another: that one, as `NAME@sha256:…` in full."""

    @classmethod
    def read(cls, path: Path) -> Serving:
        """Read a file of them.

        Raises:
            UsageError: it cannot be read, is too large, no JSON, or as `from_json`.
        """

        try:
            with open_plain(path) as stream:
                text = read_up_to(stream, _MOST_BYTES)
            content = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(
                f"{path} cannot be read: {reason}.", fix='Write JSON, e.g. {"temperature": 0.2}.'
            ) from error
        return cls.from_json(content, path.name)

    @classmethod
    def from_json(cls, content: object, where: str = SERVING_FILE) -> Serving:
        """Read what `as_json` wrote, or a person. `where`: what messages call it.

        Raises:
            UsageError: an unknown key (the nearest is named), or a value it cannot have.
        """
        if not isinstance(content, Mapping):
            raise UsageError(f"{where} is no JSON object.", fix='Write e.g. {"temperature": 0.2}.')
        known = [*_CHECKS, *SAMPLING]
        for key in content:
            if key not in known:
                hint = nearest(str(key), known) or f"The keys are {', '.join(known)}."
                raise UsageError(f"{where}: no key {key!r}.", fix=hint)
        chosen: dict[str, Any] = {"sampling": {}}
        for key, value in content.items():
            if key in SAMPLING:
                if not SAMPLING[key].takes(value):
                    raise UsageError(
                        f"{where}: {key} is {value!r:.80}.", fix=f"It takes {SAMPLING[key]}."
                    )
                chosen["sampling"][key] = value
                continue
            takes, made = _CHECKS[key]
            try:
                chosen[key] = made(value)
            except (ValueError, TypeError, InvalidName) as error:
                raise UsageError(
                    f"{where}: {key} is {value!r:.80}: {error}.", fix=f"It takes {takes}."
                ) from error
        return cls(**chosen)

    def as_json(self) -> dict[str, Any]:
        """Return what the file holds: only what is chosen."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "sampling":
                found |= value
            elif value is not None and value not in ((), {}):
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    def over(self, below: Serving) -> Serving:
        """Return what these choose and, where they choose nothing, what those `below` do.

        Template arguments and sampling parameters are taken one by one.
        """
        mine, theirs = self.as_json(), below.as_json()
        merged = {**theirs, **mine}
        if options := {**below.chat_template_kwargs, **self.chat_template_kwargs}:
            merged["chat_template_kwargs"] = options
        return Serving.from_json(merged)

    def to_bytes(self) -> bytes:
        """Return the file; the same choices give the same bytes."""
        text = json.dumps(self.as_json(), indent=2, sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8") + b"\n"


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it is empty" if isinstance(value, str) else "it is no text")
    value.encode("utf-8")  # half a surrogate pair, which JSON can hold, is a ValueError
    return value


def _options(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(s and isinstance(s, str) for s in stops):
        raise ValueError("an entry is no text")
    if len(stops) > _MOST_STOPS:
        raise ValueError(f"it has {len(stops)} entries")
    "".join(stops).encode("utf-8")
    return tuple(stops)


def _shots(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or len(value) % 2:
        raise ValueError("its last turn is not the assistant's")
    for number, turn in enumerate(value):
        role = ("user", "assistant")[number % 2]
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            raise ValueError(f"turn {number + 1} is not a role and a content")
        if turn["role"] != role:
            raise ValueError(f"turn {number + 1} is not the {role}'s")
        _text(turn["content"])
    return tuple(value)


def _format(value: object) -> dict[str, Any]:
    found = _options(value)
    if found == {"type": "json_object"}:
        return found
    schema = found.get("json_schema")
    if found.keys() != {"type", "json_schema"} or found["type"] != "json_schema":
        raise ValueError("its type is another, or it has other keys")
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise ValueError("it has no schema")
    if unknown := schema.keys() - {"name", "description", "schema", "strict"}:
        raise ValueError(f"json_schema has no key {min(unknown)!r}")
    _text(schema.get("name"))
    return found


def _length(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ValueError("no prompt and answer fit")
    return value


def _ground(value: object) -> str:
    ref = Ref.parse(_text(value))
    if ref.number or not ref.digest or len(ref.digest) != 64:
        raise ValueError("it is no digest in full")
    return str(ref)


_CHECKS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "system": ("text", _text),
    "shots": ('turns {"role": "user" | "assistant", "content": text}, by turns', _shots),
    "chat_template_kwargs": ("an object of the template's arguments", _options),
    "stop": (f"a text, or a list of at most {_MOST_STOPS}", _stops),
    "response_format": (
        '{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}} or '
        '{"type": "json_object"}',
        _format,
    ),
    "max_model_len": ("a whole number of tokens", _length),
    "on": ("NAME@sha256: and 64 hex digits", _ground),
}
