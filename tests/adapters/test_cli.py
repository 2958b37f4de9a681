"""The registry's commands as people and programs meet them: output, exit codes, messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters import __version__
from adapters.backends.local import LocalBackend
from adapters.cli import main
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter

Run = Callable[..., "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else int(bool(code)), *captured)

    return run


@pytest.fixture
def registry(make_adapter: MakeAdapter) -> Registry:
    """The registry that commands use when none is named: `support@v1` to `v3`."""
    registry = Registry.open()
    for seed in (1, 2, 3):
        registry.publish(
            "support",
            make_adapter(seed=seed),
            base=BASE,
            metrics={"eval_loss": 1 / seed},
            dataset={"train_rows": 90},
        )
    return registry


# -- verbs ------------------------------------------------------------------------------------


def test_list_of_nothing_says_what_to_do(run: Run) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "adapters train --help" in result.out
    assert run("list", "--json").json == []


def test_list(run: Run, registry: Registry, adapter_folder: Path) -> None:
    registry.publish("tone", adapter_folder, base=BASE)
    registry.promote("support@v2")
    assert [row["version"] for row in run("list", "--json").json] == ["support@v2", "tone@v1"]
    rows = run("list", "--all", "--json").json
    assert [row["version"] for row in rows] == ["support@v1", "support@v2", "support@v3", "tone@v1"]
    assert [row["aliases"] for row in rows] == [[], ["production"], [], []]
    assert rows[1]["eval_loss"] == 0.5
    assert [row["version"] for row in run("list", "tone", "--json").json] == ["tone@v1"]
    header, *lines = run("list", "support").out.splitlines()
    assert header.split()[:3] == ["version", "aliases", "standing"]
    assert [line.split()[0] for line in lines] == ["support@v1", "support@v2", "support@v3"]
    assert "production" in lines[1]


def test_show(run: Run, registry: Registry) -> None:
    version = registry.resolve("support@v2")
    shown = run("show", "support@v2", "--json").json
    assert shown["engine_name"] == version.engine_name
    assert shown["path"] == str(version.path)
    assert shown["files"].keys() == version.manifest.files.keys()
    assert shown["base"]["id"] == BASE.id
    for ref in ("support@v2", version.engine_name, f"support@sha256:{version.manifest.digest}"):
        assert version.engine_name in run("show", ref).out


def test_promote_and_rollback(run: Run, registry: Registry) -> None:
    assert run("promote", "support@v1").out == "support@production → v1\n"
    assert run("promote", "support@v2").out == "support@production → v2 (was v1)\n"
    move = run("promote", "support@latest", "canary", "--reason", "try it", "--json").json
    assert (move["from_version"], move["to_version"], move["reason"]) == (None, 3, "try it")
    assert registry.aliases("support") == {"production": 2, "canary": 3}
    assert run("rollback", "support").out == "support@production → v1 (was v2)\n"
    run("promote", "support@v2")
    run("promote", "support@v3")
    move = run("rollback", "support", "--steps", "2", "--json").json
    assert (move["from_version"], move["to_version"], move["steps"]) == (3, 1, 2)


def test_promote_only_from_what_was_seen(run: Run, registry: Registry) -> None:
    run("promote", "support@v1")
    refused = run("promote", "support@v3", "--if-current", "v2")
    assert refused.exit_code == 5
    assert "points at v1, not at v2" in refused.err
    assert run("promote", "support@v3", "--if-current", "v1").exit_code == 0
    for meant in ("canary", "1", "v0", "", "support@v3"):
        assert run("promote", "support@v1", "--if-current", meant).exit_code == 2
    assert registry.aliases("support") == {"production": 3}, "an option is never ignored"


def test_demote(run: Run, registry: Registry) -> None:
    run("promote", "support@v2")
    run("promote", "support@v1", "canary")
    assert run("demote", "support@canary", "--if-current", "v2").exit_code == 5
    assert run("demote", "support@canary").out == "support@canary → nowhere (was v1)\n"
    assert run("demote", "support@canary").exit_code == 3
    refused = run("demote", "support@production")
    assert refused.exit_code == 4
    assert "support means support@latest, now v3" in refused.err
    move = run("demote", "support@production", "--yes", "--reason", "over", "--json").json
    assert (move["adapter"], move["alias"], move["to_version"]) == ("support", "production", None)
    assert run("log", "support").out.splitlines()[-1].split()[2:] == [
        "demote",
        "–",
        "production",
        "over",
    ]
    assert run("rollback", "support").out == "support@production → v2\n"


def test_tag(run: Run, registry: Registry) -> None:
    assert run("tag", "support@v2", "--add", "lang=de", "--notes", "fine").out == (
        "support@v2: lang=de\nfine\n"
    )
    rows = run("list", "--tag", "lang=de", "--json").json
    assert [(row["version"], row["tags"]) for row in rows] == [("support@v2", ["lang=de"])]
    shown = run("show", "support@v2", "--json").json
    assert (shown["tags"], shown["notes"]) == (["lang=de"], "fine")
    assert "lang=de" in run("show", "support@v2").out
    assert run("tag", "support@v2", "--remove", "lang=de", "--notes", "").out == (
        "support@v2: no tags\n"
    )
    assert run("list", "--tag", "lang=de", "--json").json == []
    assert run("log", "support").out.splitlines()[-1].split()[2] == "label"


def test_log(run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_ACTOR", "ci")
    registry.promote("support@v2")
    entries = run("log", "support", "--json").json
    assert [entry["action"] for entry in entries] == ["publish"] * 3 + ["promote"]
    assert (entries[-1]["actor"], entries[-1]["version"], entries[-1]["alias"]) == (
        "ci",
        2,
        "production",
    )
    assert "promote" in run("log", "support").out.splitlines()[-1]


def test_a_registry_can_be_named(run: Run, tmp_path: Path, adapter_folder: Path) -> None:
    Registry.open(tmp_path / "other").publish("tone", adapter_folder, base=BASE)
    assert run("list", "--json").json == []
    named = run("list", "--registry", str(tmp_path / "other"), "--json").json
    assert [row["version"] for row in named] == ["tone@v1"]


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        ("show ../x", 2, "is not an adapter name"),
        ("show support@v0", 2, "is not a ref"),
        ("promote support@v1 latest", 2, "cannot be an alias"),
        ("demote support", 2, "support names no alias"),
        ("tag support@v1", 2, "--add, --remove or --notes"),
        ("tag support --add x", 2, "another version tomorrow"),
        ("demote support@v1", 2, "support@v1 names no alias"),
        ("demote support@latest", 2, "cannot be an alias"),
        ("delete support@canary --yes", 3, "has no alias"),
        ("rollback support --steps 0", 2, "Use --steps 1 or more"),
        ("rollback support --steps many", 2, "--steps"),
        ("promote support@v1 --bogus", 2, "--bogus"),
        ("promote", 2, "Missing argument"),
        ("list --registry s3://bucket", 2, "No registry backend for s3"),
        ("promot support@v1", 2, "Did you mean promote"),
        ("show suport", 3, "Did you mean support?"),
        ("show support@v9", 3, "does not exist"),
        ("list tone", 3, "No adapter 'tone'"),
        ("log tone", 3, "No adapter 'tone'"),
        ("rollback support", 3, "has no alias 'production'"),
        ("promote support@v1 --if-current v2", 5, "points nowhere"),
        ("list --registry /etc/hostname/below", 1, "Cannot read the registry"),
    ],
)
def test_refusals(run: Run, registry: Registry, command: str, exit_code: int, said: str) -> None:
    result = run(*command.split())
    assert result.exit_code == exit_code
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    assert registry.aliases("support") == {}


def test_text_that_is_no_unicode_is_refused(run: Run, registry: Registry) -> None:
    """As the shell hands over bytes that are not UTF-8."""
    assert run("promote", "support@v1", "--reason", "\udcff").exit_code == 2
    assert registry.aliases("support") == {}


def test_a_damaged_registry_is_one_clear_line(run: Run, registry: Registry) -> None:
    manifest = registry.resolve("support@v1").path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    result = run("show", "support@v1")
    assert result.exit_code == 1
    assert f"{manifest} cannot be understood" in result.err
    assert "Traceback" not in result.err


def test_what_was_not_foreseen_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(self: Registry) -> list[str]:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Registry, "names", break_down)
    result = run("list")
    assert (result.exit_code, result.out) == (1, "")
    assert "ZeroDivisionError: by zero" in result.err
    assert "--debug" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("where", [("--debug", "show", "none"), ("show", "none", "--debug")])
def test_debug_shows_the_stack(where: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from adapters.cli import main; main()", *where]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "adapters.errors.NotFound" in done.stderr


WAITING = """
import time
from adapters.backends.local import LocalBackend
from adapters.cli import main
from adapters.registry import Registry

def wait(self):
    print("waiting", flush=True)
    time.sleep(60)

Registry.names = wait
main(["list"])
"""


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--tag", "good"), ("--json",)])
def test_a_list_reads_no_journal_twice(
    run: Run, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    registry = Registry.open()
    for seed in (1, 2):
        registry.publish("support", make_adapter(seed=seed), base=BASE, tags=["good"])
    registry.promote("support@v1")
    read, asked = LocalBackend.read, Counter[tuple[str, str]]()

    def counted(self: LocalBackend, name: str, journal: str) -> Any:
        asked[name, journal] += 1
        return read(self, name, journal)

    monkeypatch.setattr(LocalBackend, "read", counted)
    assert "support@v1" in run("list", *arguments).out
    assert set(asked.values()) == {1}


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_order(number: int, exit_code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == exit_code
    assert "Traceback" not in err


def test_a_command_leaves_the_signals_of_who_called_it(run: Run) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("list")
    assert signal.getsignal(signal.SIGTERM) is before


# -- the command itself -----------------------------------------------------------------------


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.out) == (0, f"lora-switchyard {__version__}\n")


def test_help_names_every_verb_and_the_exit_codes(run: Run) -> None:
    for arguments in ((), ("--help",)):
        said = run(*arguments)
        text = said.out + said.err
        for word in ("train", "serve", "list", "show", "promote", "rollback", "log", "demo"):
            assert f"\n  {word} " in text
        assert "3 not found, 4 refused, 5 conflict" in text


def test_shell_completion(run: Run) -> None:
    text = run("--help").out
    assert "--install-completion" in text
    assert "--show-completion" in text
    done = subprocess.run(
        [sys.executable, "-c", "from adapters.cli import app; app(prog_name='adapters')"],
        env={
            **os.environ,
            "_ADAPTERS_COMPLETE": "complete_bash",
            "COMP_WORDS": "adapters ro",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["rollback"]
