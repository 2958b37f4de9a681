"""Prompt-only versions: a text over the base, or over another version, published like any other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters import bases
from adapters.card import prompt_card
from adapters.errors import InvalidDataset, Rejected, UsageError
from adapters.files import CARD_FILE, SERVING_FILE
from adapters.registry import Registry
from adapters.serving import Message, Serving
from adapters.types import BaseModel, Version, check_name


def publish_prompt(
    registry: Registry,
    name: str,
    chosen: Serving,
    *,
    on: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    tags: Sequence[str] = (),
    notes: str = "",
) -> Version:
    """Publish `chosen` as the next version of `name`. Atomic, as `Registry.publish` is.

    `on`: the version below, by any ref; what that one chooses and `chosen` does not is taken into
    the new version, which says all that it adds. None: over `base`.

    Raises:
        InvalidName, NotFound, Retired, Quarantined, Unavailable: the name, `on` or the base.
        UsageError: both or neither of `on` and `base` are named, or `chosen` names a ground.
        Rejected: `on` has no weights either.
        InvalidAdapter: nothing is chosen.
        RegistryUnavailable: the registry cannot be written.
    """
    check_name(name)
    if (on is None) == (base is None):
        raise UsageError(
            "A prompt stands on a base or on a version.", fix="Name one: --base B, or --on REF."
        )
    if chosen.on:
        raise UsageError("`on` is not chosen among defaults.", fix="Say it with --on REF.")
    below = registry.resolve(on) if on else None
    if below is not None and below.manifest.kind == "prompt":
        under = below.manifest.parents or (f"--base {below.manifest.base.name}",)
        raise Rejected(f"{below.ref} has no weights itself.", fix=f"Stand on {under[0]}.")
    model = _base(below, base, revision)
    # One that chooses nothing is refused by lint: only over another is all of it the other's.
    content = chosen.as_json()
    if below is not None and content:
        content = chosen.over(Serving.from_json(below.manifest.serving, below.ref)).as_json()
    if below is not None:
        content["on"] = f"{below.name}@sha256:{below.manifest.digest}"
    with tempfile.TemporaryDirectory(prefix="adapters-prompt-") as scratch:
        whole = Serving.from_json(content)
        (Path(scratch) / SERVING_FILE).write_bytes(whole.to_bytes())
        (Path(scratch) / CARD_FILE).write_text(prompt_card(name, model, whole.as_json()), "utf-8")
        return registry.publish(
            name,
            Path(scratch),
            base=model,
            parents=[below.engine_name] if below else [],
            tags=tags,
            notes=notes,
        )


def _base(below: Version | None, base: str | None, revision: str | None) -> BaseModel:
    if below is None:
        return bases.resolve(str(base), revision=revision, weights=False).model
    if revision:
        raise UsageError("--revision is of --base.", fix="Leave it out: --on says its base.")
    return below.manifest.base


def read_text(path: Path) -> str:
    """Return a text file, without the line end that editors put at its end.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8").removesuffix("\n")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", fix="Name a file that you may read."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}.", fix="Write UTF-8 text.") from error


def read_shots(path: Path) -> list[Message]:
    """Return the turns of JSONL rows: `{"messages": […]}`, or `{"prompt": …, "completion": …}`.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
        InvalidDataset: a row of another form; names the line.
    """
    turns: list[Message] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                turns += _turns(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InvalidDataset(
                    f"{path}:{number}: {error}.",
                    fix='Write {"messages": […]} or {"prompt": "…", "completion": "…"} a line.',
                ) from error
    return turns


def _turns(row: object) -> Iterator[Message]:
    if isinstance(row, dict) and row.keys() == {"messages"} and isinstance(row["messages"], list):
        yield from row["messages"]
    elif isinstance(row, dict) and row.keys() == {"prompt", "completion"}:
        yield {"role": "user", "content": row["prompt"]}
        yield {"role": "assistant", "content": row["completion"]}
    else:
        raise ValueError("it is neither messages nor a prompt and a completion")


def read_settings(assignments: Sequence[str]) -> Mapping[str, Any]:
    """Read `KEY=VALUE`, each value JSON, or else text: temperature=0.2, stop=END.

    Raises:
        UsageError: no KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} sets nothing.", fix="Write e.g. --set temperature=0.2.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
