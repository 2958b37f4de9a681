"""Whether an adapter was trained on this base, as far as names and tokenizers can say it.

vLLM compares neither. A local path says nothing about identity, so only two Hub ids can
contradict each other; mirrors and quantised copies (`unsloth/Qwen3-0.6B-bnb-4bit`) do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.files import sha256_file
from adapters.lint.findings import Finding
from adapters.lint.tokens import differing

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", re.ASCII)
_COPY = re.compile(
    r"-(unsloth|bnb|[48]bit|awq|gptq|int[48]|fp8|fp16|bf16|nf4|hf|gguf|quantized|w[48]a\d+)$"
)
_COMMIT = re.compile(r"(?:^|/snapshots/)([0-9a-f]{40})(?:/|$)")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")


def check_identity(
    config: Mapping[str, Any], base_id: str, base: Path | None = None
) -> Iterator[Finding]:
    """Find a base of another name than the one that the adapter says it was trained on.

    `base`: its folder; in the Hub's cache that tells its commit, which is compared too.
    """
    named = config.get("base_model_name_or_path")
    trained_on, asked = _plain_name(named), _plain_name(base_id)
    if trained_on and asked and trained_on != asked:
        yield Finding(
            "identity",
            "base_model_name_or_path",
            f"trained on {str(named)[-120:]}, not on {base_id}",
            "Name the base it was trained on, or correct the field if that is what is wrong.",
        )
        return
    commit, here = _commit(config.get("revision")) or _commit(named), _commit(str(base))
    if commit and here and commit != here:
        yield Finding(
            "revision",
            "revision",
            f"trained on commit {commit[:12]} of the base, not on {here[:12]}",
            "Serve the commit it was trained on: --revision",
        )


def check_tokenizer(folder: Path, base: Path) -> Iterator[Finding]:
    """Find a tokenizer or chat template that gives other tokens; vLLM uses the base's.

    Where files are not the same byte by byte, a few texts and conversations tell.
    """
    for name in _TOKENIZER_FILES:
        mine, theirs = folder / name, base / name
        if not mine.is_file() or mine.is_symlink():
            continue
        message = "differs from the base's"
        if theirs.is_file():
            if sha256_file(mine) == sha256_file(theirs):
                continue
            where = differing(mine, theirs) if mine.suffix != ".model" else ""
            if where is None:
                continue
            message += f", first for {where[:80]!r}" if where else ""
        yield Finding("tokenizer", name, message, "Train with the base's own.")


def _commit(text: object) -> str:
    """Return the commit that a revision or a path in the Hub's cache names; else nothing."""
    found = _COMMIT.search(text) if isinstance(text, str) else None
    return found[1] if found else ""


def _plain_name(base: object) -> str:
    """Return a Hub id's name without owner, letter case and the marks of a copy; else nothing."""
    text = str(base) if isinstance(base, str) else ""
    if cached := _CACHED.search(text):
        text = f"{cached[1]}/{cached[2]}"
    elif not _HUB_ID.fullmatch(text) or text.startswith(".") or Path(text).exists():
        return ""
    name = text.rpartition("/")[2].lower().removeprefix("meta-")
    while found := _COPY.search(name):
        name = name[: found.start()]
    return name
