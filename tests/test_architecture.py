"""What holds across the whole project: what imports what, how things are called, how large.

Directions of imports are import-linter's (`make check`); here is what it cannot see.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from adapters.cli import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("adapters", "serve", "train")
SOURCES = sorted(
    path for folder in (*PACKAGES, "tests", "loadtests") for path in (ROOT / folder).rglob("*.py")
)
HEAVY = {
    "torch", "vllm", "transformers", "fastapi", "peft", "trl", "bitsandbytes", "datasets",
    "accelerate", "huggingface_hub", "safetensors", "numpy", "sqlalchemy", "openai", "serve",
    "train",
}  # fmt: skip
FORBIDDEN_NOUNS = {
    "manager", "managers", "handler", "handlers", "util", "utils", "helper", "helpers", "info",
}  # fmt: skip
LINES = 500


def words(name: str) -> set[str]:
    """Return the words of a CamelCase or snake_case name, lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command, groups' members included."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def loaded_after(arguments: list[str]) -> set[str]:
    """Return the top-level packages in a new process once it has run a command line."""
    script = (
        "import json, sys\n"
        "from adapters.cli import main\n"
        "try: main(json.loads(sys.argv[1]))\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["nonsense"], ["serve", "--help"]],
    ids=" ".join,
)
def test_asking_for_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(arguments)
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_the_trainers_help_takes_defaults_from_the_recipe_and_imports_nothing_else_heavy() -> None:
    assert loaded_after(["train", "--help"]) & HEAVY == {"train"}


def test_reading_the_registry_imports_no_deep_learning(tmp_path: Path) -> None:
    loaded = loaded_after(["list", "--registry", str(tmp_path)])
    assert loaded & (HEAVY - {"numpy", "safetensors"}) == set()


COMMANDS = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app([*path, "--help"], prog_name="adapters")
    assert ended.value.code == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"Example: adapters {' '.join(path)}" in said


def test_every_file_opens_with_what_it_does() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}
    silent = [str(p) for p, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []


def test_every_file_fits_in_the_head() -> None:
    lines = {str(path): path.read_text("utf-8").count("\n") for path in SOURCES}
    assert {path: n for path, n in lines.items() if n > LINES} == {}, "what two things is it?"


def test_names_say_what_things_are() -> None:
    named = {path.stem: path for path in SOURCES}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                named[node.name] = path
    found = {name: str(path) for name, path in named.items() if words(name) & FORBIDDEN_NOUNS}
    assert found == {}


def test_the_wheel_holds_three_packages_and_no_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    build = project["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["packages"] == list(PACKAGES)
    assert not {"tests", "loadtests"} & set(build["sdist"]["only-include"])
    assert project["project"]["scripts"] == {"adapters": "adapters.cli:main"}
