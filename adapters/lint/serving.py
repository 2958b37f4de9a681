"""serving.json: that it can be applied, of an adapter and of a prompt-only version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapters.errors import UsageError
from adapters.files import SERVING_FILE
from adapters.lint.findings import Finding, Report
from adapters.serving import Serving


def check_serving(folder: Path) -> Iterator[Finding]:
    """Check an adapter's defaults, where it has any."""
    if (folder / SERVING_FILE).exists():
        try:
            if Serving.read(folder / SERVING_FILE).on:
                message = "`on` is for versions without weights of their own"
                yield Finding("serving", SERVING_FILE, message, "Leave it out.")
        except UsageError as error:
            yield Finding("serving", SERVING_FILE, error.message.rstrip("."), error.fix)


def check_prompt(folder: Path) -> Report:
    """Check a version that has no weights: all there is to it is what it adds to requests."""
    findings = []
    try:
        chosen = Serving.read(folder / SERVING_FILE).as_json()
        if not chosen.keys() - {"on"}:
            message, fix = "it changes nothing", "Give it a system prompt, shots or parameters."
            findings.append(Finding("serving", SERVING_FILE, message, fix))
    except UsageError as error:
        findings.append(Finding("serving", SERVING_FILE, error.message.rstrip("."), error.fix))
    return Report({}, (), tuple(findings))
