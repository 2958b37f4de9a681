"""What somebody should look at before a row is trained on: secrets, placeholders, languages.

Nothing here leaves a row out, and no secret is ever repeated: only its kind is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

_GUESSES = {
    "Public IP (ipv4)",
    "IBM Cloud IAM Key",
    "IBM COS HMAC Credentials",
    "SoftLayer Credentials",
}
"""Plugins that go by words or plain numbers, and so find much in prose."""
_OURS = {"Hugging Face Token": re.compile(r"\bhf_[A-Za-z]{30,40}\b")}
_WORTH_A_LOOK = re.compile(r"[A-Za-z0-9_\-+/=.:]{16,}|-----BEGIN")
_PLACEHOLDER = re.compile(
    r"\{\{ ?\w{1,40} ?\}\}"
    r"|\[(?:INSERT|YOUR|TODO)\b[^\]\n]{0,60}\]"
    r"|<(?:INSERT|YOUR)[ _-][^>\n]{0,60}>"
)
_LETTERS = re.compile(r"[^\W\d_]")
_LEAST_LETTERS = 20
_LEAST_IDEOGRAPHS = 4
_LOOKED_AT = 2000
"""Characters of a text that its language is told by."""


def secrets(text: str) -> Iterator[str]:
    """Yield the kinds of secrets that a text seems to hold, each once."""
    lines = [line for line in text.splitlines() if _WORTH_A_LOOK.search(line)]
    for kind, plugin in _detectors().items():
        if any(next(plugin.analyze_string(line), None) for line in lines):
            yield kind
    for kind, pattern in _OURS.items():
        if any(pattern.search(line) for line in lines):
            yield kind


def placeholders(text: str) -> list[str]:
    """Return the placeholders of templates that a text still holds, each once, in order."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def language(text: str) -> str:
    """Return the ISO 639-1 code of a text's language; `short` where it is too short to say."""
    import py3langid

    text = text[:_LOOKED_AT]
    letters = _LETTERS.findall(text)
    ideographs = sum("\u3040" <= letter <= "\u9fff" or letter >= "\uac00" for letter in letters)
    if len(letters) < _LEAST_LETTERS and ideographs < _LEAST_IDEOGRAPHS:
        return "short"
    return str(py3langid.classify(text)[0])


@cache
def _detectors() -> dict[str, RegexBasedDetector]:
    kinds: Mapping[str, Any] = get_mapping_from_secret_type_to_class()
    return {
        kind: plugin()
        for kind, plugin in kinds.items()
        if issubclass(plugin, RegexBasedDetector) and kind not in _GUESSES
    }
