"""Rows of a file as chats: JSONL, JSON and CSV; alpaca, prompt–completion and chat messages.

Knows files and columns, not tokens. Every row that is read is returned or named in an error.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import InvalidDataset, nearest

Chat = list[dict[str, str]]
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Row:
    """One example: turns, the last of them the assistant's."""

    line: int
    """Where it stands in its file: a line of JSONL and CSV, an item of a JSON list; from 1."""
    chat: Chat


def read_rows(
    path: Path, *, prompt_column: str | None = None, completion_column: str | None = None
) -> tuple[str, list[Row]]:
    """Return the form of a file's rows and the rows.

    The form is `prompt-completion` where the columns are named, else what the first row's
    columns say: `messages`, `instruction`/`output` (alpaca) or `prompt`/`completion`.

    Raises:
        InvalidDataset: no such file, empty, not UTF-8, not what its suffix says, a column is
            missing, or a row is malformed. The message names the line and the fix.
    """
    records = list(_records(path))
    if not records:
        raise InvalidDataset(f"{path} holds no rows.", fix="Give it at least two.")
    form, parse = _form(path, records[0][1], prompt_column, completion_column)
    rows = []
    for line, record in records:
        try:
            rows.append(Row(line, parse(record)))
        except KeyError as error:
            raise InvalidDataset(
                f"{path}, row {line}: no {error} where the first row has one.",
                fix="Give every row the same columns.",
            ) from error
        except (TypeError, ValueError) as error:
            raise InvalidDataset(f"{path}, row {line}: {error}.", fix="Mend the row.") from error
    return form, rows


# -- files ----------------------------------------------------------------------------------------


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    readers: dict[str, Callable[[str], Iterator[tuple[int, Any]]]] = {
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidDataset(
            f"{path} is of no known kind.", fix=f"Name a file that ends in {', '.join(readers)}."
        )
    try:
        for line, record in reader(_text(path)):
            if not isinstance(record, dict):
                raise ValueError(f"row {line} is no object but {type(record).__name__}")
            yield line, record
    except (ValueError, csv.Error) as error:
        raise InvalidDataset(f"{path}: {error}.", fix="Mend or remove that row.") from error


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidDataset(
            f"{path} cannot be read: {error.strerror}.", fix="Name a dataset file."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidDataset(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8.",
            fix=f"Convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}",
        ) from error


def _jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for line, written in enumerate(text.split("\n"), start=1):
        if written.strip():
            try:
                yield line, json.loads(written)
            except ValueError as error:
                raise ValueError(f"line {line} is not whole JSON ({error})") from error


def _json(text: str) -> Iterator[tuple[int, Any]]:
    content = json.loads(text) if text.strip() else []
    if not isinstance(content, list):
        raise ValueError("it holds no list of rows; one object a line is .jsonl")
    return enumerate(content, start=1)


def _csv(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for record in reader:
        if None in record or None in record.values():
            wanted = len(reader.fieldnames or ())
            raise ValueError(f"line {reader.line_num} has not the header's {wanted} columns")
        yield reader.line_num, record


# -- forms ----------------------------------------------------------------------------------------


def _form(
    path: Path, first: Mapping[str, Any], prompt: str | None, completion: str | None
) -> tuple[str, Callable[[Mapping[str, Any]], Chat]]:
    if prompt or completion:
        asked, answered = prompt or "prompt", completion or "completion"
    elif "messages" in first:
        return "messages", lambda record: _chat(record["messages"])
    elif {"instruction", "output"} <= first.keys():
        return "alpaca", _alpaca
    else:
        asked, answered = "prompt", "completion"
    for column, flag in ((asked, "--prompt-column"), (answered, "--completion-column")):
        if column not in first:
            hint = nearest(column, first)
            raise InvalidDataset(
                f"{path} has no column {column!r}, it has {', '.join(map(str, first)) or 'none'}.",
                fix=f"Say which column it is: {flag} NAME. {hint}".rstrip(),
            )
    return "prompt-completion", lambda record: _pair(record[asked], record[answered])


def _alpaca(record: Mapping[str, Any]) -> Chat:
    """Source: https://github.com/tatsu-lab/stanford_alpaca#data-release."""
    asked = _string(record["instruction"], "instruction")
    if more := _string(record.get("input") or "", "input"):
        asked = f"{asked}\n{more}"
    system = _string(record.get("system") or "", "system")
    turns = [("system", system)] if system else []
    turns += [("user", asked), ("assistant", _string(record["output"], "output"))]
    return [{"role": role, "content": content} for role, content in turns]


def _pair(prompt: Any, completion: Any) -> Chat:
    """TRL's prompt–completion, as texts or as lists of messages."""
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion])
    return [
        {"role": "user", "content": _string(prompt, "the prompt")},
        {"role": "assistant", "content": _string(completion, "the completion")},
    ]


def _chat(turns: Any) -> Chat:
    if not isinstance(turns, list) or not turns:
        raise ValueError("messages is no list of turns")
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
            raise ValueError(f"a turn needs a role, one of {', '.join(_ROLES)}")
        if unknown := turn.keys() - {"role", "content"}:
            raise ValueError(f"turns with {', '.join(sorted(unknown))} are not trained on yet")
        _string(turn.get("content"), "a turn's content")
    if turns[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's")
    return turns


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text but {type(value).__name__}")
    return value
