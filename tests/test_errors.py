"""Every error says what to do next, wherever it is made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from adapters import errors

ROOT = Path(__file__).parents[1]
OURS = {
    name
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, errors.AdaptersError)
}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield where an error of ours is made: raised at once, or returned for others to raise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = called.id if isinstance(called, ast.Name) else called
            if name in OURS:
                yield node


def fixed(call: ast.Call) -> bool:
    """Say whether it names a fix: any expression, but no text that is empty."""
    found = [keyword.value for keyword in call.keywords if keyword.arg == "fix"]
    return bool(found) and not (isinstance(found[0], ast.Constant) and not found[0].value)


def test_every_error_names_the_fix() -> None:
    without = []
    for package in ("adapters", "serve", "train"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for call in calls(ast.parse(path.read_text("utf-8"))):
                if not fixed(call):
                    without.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert without == []


def test_what_names_none_is_seen() -> None:
    for text in ("raise NotFound('x')", "raise errors.NotFound('x', fix='')", "NotFound('x')"):
        (call,) = calls(ast.parse(text))
        assert not fixed(call)
    (call,) = calls(ast.parse("raise NotFound('x', fix=nearest('x', known) or 'See: list')"))
    assert fixed(call)
