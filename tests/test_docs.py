"""What the documents say is true: their commands, flags, files and make targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

from adapters.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CHANGELOG.md",
        "docs/architecture.md",
        "docs/json.md",
        "docs/serving.md",
        "docs/training.md",
        "docs/experiments.md",
        "docs/methods.md",
        "docs/statistics.md",
        "loadtests/README.md",
        "adapters/bases/tiny/README.md",
        "Dockerfile",
    )
]


@pytest.fixture(scope="module")
def command() -> click.Group:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "get_command")
    return group  # type: ignore[return-value]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_is_one(document: Path, command: click.Group) -> None:
    context = typer.Context(command)
    for line in re.findall(r"^\s*(?:\$ )?adapters ([^#\n`]+)", document.read_text(), re.MULTILINE):
        words = line.split(" -- ")[0].split()
        found: object = command
        while words and not words[0].startswith("-") and hasattr(found, "get_command"):
            found = found.get_command(context, words.pop(0))
            assert found is not None, line
        known = {option for parameter in found.params for option in parameter.opts}  # type: ignore[attr-defined]
        for flag in (word.split("=")[0] for word in words if word.startswith("--")):
            assert flag in known | {"--help"}, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"^\s*make ([a-z-]+)", document.read_text(), re.MULTILINE):
        assert line in targets


def test_the_changelog_knows_this_version() -> None:
    from adapters import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
