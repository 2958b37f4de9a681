"""A registry in a folder: what it looks like, and what accidents do to it."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.errors import NotFound, RegistryUnavailable
from adapters.housekeeping import Housekeeping
from adapters.registry import Registry
from adapters.types import Manifest
from tests.conftest import BASE, LLAMA, MakeAdapter


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


@pytest.fixture
def home(registry: Registry, adapter_folder: Path) -> Path:
    """The folder of `support`, with v1 in production."""
    registry.publish("support", adapter_folder, base=BASE)
    registry.promote("support@v1")
    return Path(registry.location) / "adapters" / "support"


def test_what_lies_where(home: Path) -> None:
    found = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())
    assert found == [
        ".lock",
        "aliases/production.jsonl",
        "log.jsonl",
        "v1/adapter_config.json",
        "v1/adapter_model.safetensors",
        "v1/manifest.json",
    ]
    (line,) = (home / "aliases" / "production.jsonl").read_text().splitlines()
    move = json.loads(line)
    assert (move["from"], move["to"]) == (None, 1)
    assert {"actor", "time", "reason", "evidence"} <= set(move)


def test_a_published_folder_is_read_only(home: Path) -> None:
    for path in [home / "v1", *(home / "v1").iterdir()]:
        assert path.stat().st_mode & 0o222 == 0, path


def test_the_digest_is_what_coreutils_say(registry: Registry, home: Path) -> None:
    command = "sha256sum $(ls | grep -v manifest.json) | sha256sum"
    said = subprocess.run(
        ["sh", "-c", command],
        cwd=home / "v1",
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[0] == registry.resolve("support").manifest.digest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_peft_loads_a_published_folder_as_it_is(home: Path, make_adapter: MakeAdapter) -> None:
    import torch
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, str(home / "v1"))(tokens).logits
    assert not torch.allclose(plain, adapted)


def test_what_a_killed_publication_left_is_swept_once_nobody_can_be_writing_it(
    registry: Registry, home: Path, adapter_folder: Path
) -> None:
    ours = f".staging-{platform.node()}"
    left = [home / name for name in (f"{ours}-1-1", f"{ours}-1-2", ".staging-abroad-1-1")]
    for folder in left:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        folder.chmod(0o555)
    assert [version.number for version in registry.versions("support")] == [1]
    descriptor = os.open(left[1], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    registry.publish("support", adapter_folder, base=BASE)
    assert not left[0].exists(), "nobody is writing it any more"
    assert left[1].exists(), "somebody is writing it"
    assert left[2].exists(), "who knows what happens on another machine"
    os.close(descriptor)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left[2], (two_days_ago, two_days_ago))
    registry.publish("support", adapter_folder, base=BASE)
    assert [folder.exists() for folder in left] == [False, False, False]


def test_what_a_killed_deletion_left_goes_with_the_next_sweep(
    registry: Registry, home: Path, adapter_folder: Path
) -> None:
    registry.publish("support", adapter_folder, base=BASE)
    (home / "v1").chmod(0o755)
    (home / "v2").chmod(0o755)
    (home / "v1" / "tombstone.json").write_text("{}")
    assert [version.number for version in registry.versions("support")] == [2]
    assert registry.publish("support", adapter_folder, base=BASE).number == 3
    registry._backend.sweep("support")
    assert [path.name for path in (home / "v1").iterdir()] == ["tombstone.json"]
    assert [version.number for version in registry.versions("support")] == [2, 3]
    for folder in ("v1", "v2"):
        assert (home / folder).stat().st_mode & 0o222 == 0


def test_strangers_in_the_folder_are_passed_over(registry: Registry, home: Path) -> None:
    (home.parent / "README.txt").write_text("ours")
    shutil.copytree(home, home.parent / "Support (copy)")
    (home.parent / "empty").mkdir()
    (home / "v2").mkdir()
    (home / "v03").mkdir()
    (home / "v٤").mkdir()
    (home / "vacation").mkdir()
    (home / "aliases" / "production.jsonl~").write_text("an editor's copy")
    (home / "aliases" / "Old Alias.jsonl").write_text("")
    assert registry.names() == ["support"]
    assert [version.number for version in registry.versions("support")] == [1]
    assert registry.aliases("support") == {"production": 1}


def test_a_number_in_use_is_never_written_over(
    registry: Registry, home: Path, adapter_folder: Path
) -> None:
    (home / "v2").mkdir()
    assert registry.publish("support", adapter_folder, base=BASE).number == 3
    assert list((home / "v2").iterdir()) == []


def test_a_writer_that_takes_no_lock_is_seen_by_the_claim(
    registry: Registry, home: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not reach, on a network share say, the rename alone decides."""
    asked: list[int] = []

    def be_overtaken(files: object) -> str:
        asked.append(len(asked))
        if len(asked) <= 2:
            (home / f"v{1 + len(asked)}").mkdir()
            (home / f"v{1 + len(asked)}" / "manifest.json").write_text("theirs")
        return "0" * 64

    monkeypatch.setattr("adapters.verbs.publishing.digest", be_overtaken)
    version = registry.publish("support", adapter_folder, base=BASE)
    assert (version.number, version.manifest.version) == (4, 4)
    assert (home / "v2" / "manifest.json").read_text() == "theirs"
    assert Registry.open(registry.location).resolve("support@v4") == version


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": 2}',
        b'{"schema": 1}',
        b'{"schema": 1, "files": [], "base": {}, "parents": [], "tags": []}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_said_and_the_rest_stays_readable(
    registry: Registry, home: Path, adapter_folder: Path, content: bytes
) -> None:
    registry.publish("support", adapter_folder, base=BASE)
    manifest = home / "v1" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(content)
    reader = Registry.open(registry.location)
    with pytest.raises(RegistryUnavailable, match=r"v1/manifest\.json cannot be understood"):
        reader.resolve("support@v1")
    assert reader.resolve("support@v2").number == 2
    assert reader.publish("support", adapter_folder, base=BASE).number == 3


def test_a_copied_version_folder_is_not_taken_for_a_version(registry: Registry, home: Path) -> None:
    (home / "v2").mkdir()
    for path in (home / "v1").iterdir():
        (home / "v2" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RegistryUnavailable, match="it is that of support@v1"):
        registry.resolve("support@v2")


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", "{}", '{"from": 1}', '{"from": 1, "to": 1, "later": true}', "\ufffe"]
)
def test_a_damaged_journal_is_said(registry: Registry, home: Path, line: str) -> None:
    for journal in ("aliases/production", "log", "experiments/ab-1"):
        path = home / f"{journal}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as stream:
            stream.write(line + "\n")
    for verb in (registry.aliases, registry.history, registry.log, registry.experiment):
        with pytest.raises(RegistryUnavailable, match="cannot be understood"):
            verb("support")
    assert registry.resolve("support@v1").number == 1


def test_a_deleted_folder_is_noticed(registry: Registry, home: Path) -> None:
    assert registry.resolve("support@v1").number == 1
    (home / "v1").chmod(0o755)
    (home / "v1" / "manifest.json").unlink()
    with pytest.raises(NotFound):
        registry.resolve("support@v1")


def test_who_reads_for_years_remembers_no_deleted_versions(
    registry: Registry, home: Path, adapter_folder: Path
) -> None:
    reader, house = Registry.open(registry.location), Housekeeping.open(registry.location)
    for _ in range(3):
        version = registry.publish("support", adapter_folder, base=BASE)
        assert [v.number for v in reader.versions("support")] == [1, version.number]
        house.delete(version.ref)
    assert [v.number for v in reader.versions("support")] == [1]
    del version, house, registry
    gc.collect()
    left = [each for each in gc.get_objects() if type(each) is Manifest]
    assert [manifest.version for manifest in left if manifest.name == "support"] == [1, 1]


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/it", "/proc/none"])
def test_a_place_that_cannot_be_written(tmp_path: Path, adapter_folder: Path, place: str) -> None:
    (tmp_path / "file").touch()
    registry = Registry.open(tmp_path / place)
    for attempt in (
        registry.check_writable,
        lambda: registry.publish("support", adapter_folder, base=BASE),
    ):
        with pytest.raises(RegistryUnavailable, match="name another with --registry") as refused:
            attempt()
        assert refused.value.exit_code == 1
        assert refused.value.message.startswith("Cannot write the registry at /")


def test_a_place_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for registry in (Registry.open(tmp_path / "file"), Registry.open(tmp_path / "file" / "below")):
        with pytest.raises(RegistryUnavailable, match="Cannot read the registry"):
            registry.names()
        with pytest.raises(RegistryUnavailable, match="Cannot read the registry"):
            registry.resolve("support")


def test_a_full_disk_leaves_nothing(registry: Registry, home: Path, adapter_folder: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    size = (adapter_folder / "adapter_model.safetensors").stat().st_size
    script = (
        "import sys; from pathlib import Path; from adapters.registry import Registry\n"
        "from adapters.errors import RegistryUnavailable; from tests.conftest import BASE\n"
        "try: Registry.open(sys.argv[1]).publish('support', Path(sys.argv[2]), base=BASE)\n"
        "except RegistryUnavailable as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, registry.location, adapter_folder],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
    )
    assert "File too large" in done.stderr
    assert done.stderr.startswith("Cannot write the registry at")
    assert sorted(path.name for path in home.iterdir() if path.name.startswith((".s", "v"))) == [
        "v1"
    ]
    assert registry.publish("support", adapter_folder, base=BASE).number == 2
