"""Versions of the Hub on this machine: fetched once, gone on with, read again, never torn."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.backends.hub import HubBackend
from adapters.errors import InvalidAdapter, RegistryUnavailable
from adapters.files import differences
from adapters.registry import Registry
from adapters.transfer import open_target, transfer
from tests.adapters.test_hub_registry import REPO, new_backend, tags
from tests.conftest import BASE, MakeAdapter
from tests.contract.registry_backends import NAME, publish
from tests.hub.faults import Fault
from tests.hub.server import ORG, Hub

HF = f"hf://{ORG}"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def backend(hub: Hub) -> HubBackend:
    return new_backend()


@pytest.fixture
def large_folder(adapter_folder: Path) -> Path:
    """An adapter whose weights are a megabyte: a backend does not look what they are."""
    (adapter_folder / WEIGHTS).write_bytes(os.urandom(1 << 20))
    return adapter_folder


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def downloads(hub: Hub) -> int:
    return sum(request.startswith("GET /_cdn/") for request in hub.requests)


def test_files_are_fetched_when_needed_once_for_all_processes(
    backend: HubBackend, hub: Hub, adapter_folder: Path, use_other_home: Callable[[str], None]
) -> None:
    publish(backend, adapter_folder)
    assert backend.open(NAME, 1).path.is_dir()
    assert downloads(hub) == 0, "what was published from here is here"
    use_other_home("b")
    version = new_backend().open(NAME, 1)
    assert version.manifest.files
    assert downloads(hub) == 0, "a list of versions costs no weights"
    script = (
        "from adapters.registry import Registry\n"
        f"print(Registry.open('hf://{ORG}').resolve('{NAME}').path)"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate()[0].strip() for process in several}
    assert paths == {str(version.path)}
    assert downloads(hub) == 1
    assert differences(version.path, version.manifest.files) == []
    assert not os.access(version.path / "adapter_model.safetensors", os.W_OK) or os.getuid() == 0
    assert version.path.stat().st_mode & 0o222 == 0


@pytest.fixture
def use_other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Forget the cache, as another machine would have none."""
    return lambda home: monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / home))


def test_what_was_changed_on_the_hub_is_not_served(
    backend: HubBackend, hub: Hub, adapter_folder: Path, use_other_home: Callable[[str], None]
) -> None:
    publish(backend, adapter_folder)
    blobs = hub.repos[REPO].commits[tags()["v1"]].files
    weights = blobs["adapter_model.safetensors"]
    for n, (content, error) in enumerate(
        [(weights.content[:-1], RegistryUnavailable), (weights.content[:-1] + b"?", InvalidAdapter)]
    ):
        use_other_home(f"other{n}")
        blobs["adapter_model.safetensors"] = type(weights)(content, large=True)
        with pytest.raises(error, match=r"adapter_model\.safetensors|is not what"):
            _ = new_backend().open(NAME, 1).path


@pytest.mark.parametrize("path", ["../../escaped", "/etc/escaped", "pytorch_model.bin"])
def test_a_manifest_that_names_other_files_is_not_believed(
    backend: HubBackend,
    hub: Hub,
    adapter_folder: Path,
    path: str,
    use_other_home: Callable[[str], None],
) -> None:
    publish(backend, adapter_folder)
    use_other_home("other")
    blobs = hub.repos[REPO].commits[tags()["v1"]].files
    lying = json.loads(blobs["manifest.json"].content)
    lying["files"][path] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size_bytes": 1}
    blobs[path] = type(blobs["manifest.json"])(b"x", large=False)
    blobs["manifest.json"] = type(blobs["manifest.json"])(json.dumps(lying).encode(), large=False)
    with pytest.raises(RegistryUnavailable, match="not what its manifest says"):
        new_backend().open(NAME, 1)


# -- cut short ----------------------------------------------------------------------------------


def test_a_push_that_is_killed_after_the_weights_went_does_not_send_them_again(
    hub: Hub, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    here = Registry.open(tmp_path / "here")
    here.publish(NAME, make_adapter(), base=BASE)
    hub.faults.add(Fault("stalled", path="/commit/", pause_s=2))
    arguments = ["push", f"{NAME}@v1", HF, "--registry", here.location]
    script = f"from adapters.cli import main; main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    until(lambda: any("/commit/" in request for request in hub.requests))
    process.kill()
    process.wait()
    sent = hub.uploaded_bytes
    assert sent == (here.resolve(NAME).path / WEIGHTS).stat().st_size
    home = tmp_path / "home" / "cache" / "hub" / ORG / NAME
    assert len(list(home.glob(".staging-*"))) == 1
    assert transfer(here, f"{NAME}@v1", open_target(HF)).state == "sent"
    assert hub.uploaded_bytes == sent
    assert [version.number for version in Registry.open(HF).versions(NAME)] == [1]
    assert list(home.glob(".staging-*")) == []


def test_a_download_that_is_killed_is_gone_on_with_where_it_was(
    backend: HubBackend, hub: Hub, large_folder: Path, use_other_home: Callable[[str], None]
) -> None:
    publish(backend, large_folder)
    use_other_home("other")
    hub.faults.add(Fault("slow", "GET", "/_cdn/", pause_s=0.1))
    script = (
        "from huggingface_hub import constants\n"
        "constants.DOWNLOAD_CHUNK_SIZE = 4096\n"  # of ten megabytes, so much a kill may lose
        "from adapters.backends.hub import HubBackend\n"
        f"HubBackend({ORG!r}).open({NAME!r}, 1).path"
    )
    before, size = hub.downloaded_bytes, 1 << 20
    process = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: hub.downloaded_bytes - before > size // 2)
    process.kill()
    process.wait()
    time.sleep(0.3)  # until the double has noticed
    [part] = Path(os.environ["ADAPTERS_HOME"]).glob("cache/hub/*/*/.*.part")
    there = (part / WEIGHTS).stat().st_size
    assert there > size // 4
    before = hub.downloaded_bytes
    version = new_backend().open(NAME, 1)
    assert differences(version.path, version.manifest.files) == []
    assert hub.downloaded_bytes - before <= size - there + 10_000
    assert not part.exists()


def test_what_a_power_cut_left_of_a_download_does_not_stay_in_the_way(
    backend: HubBackend, hub: Hub, large_folder: Path, use_other_home: Callable[[str], None]
) -> None:
    publish(backend, large_folder)
    use_other_home("other")
    sha = tags()["v1"]
    part = Path(os.environ["ADAPTERS_HOME"]) / "cache" / "hub" / ORG / NAME / f".{sha}.part"
    part.mkdir(parents=True)
    (part / WEIGHTS).write_bytes(b"\0" * 1000)
    (part / "adapter_config.json").write_bytes(b"\0" * 10_000)
    version = new_backend().open(NAME, 1)
    assert differences(version.path, version.manifest.files) == []


# -- damaged ------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_damaged_here_is_fetched_again_once(
    hub: Hub, adapter_folder: Path, damage: str
) -> None:
    registry = Registry(new_backend())
    path = registry.publish(NAME, adapter_folder, base=BASE).path
    for file in (path, path / WEIGHTS):
        file.chmod(0o755)
    DAMAGE[damage](path / WEIGHTS)
    for _ in range(2):
        version = Registry(new_backend()).verify(f"{NAME}@v1")
        assert version.path == path
        assert version.path.stat().st_mode & 0o222 == 0
    assert downloads(hub) == 1


def test_a_kept_manifest_that_was_damaged_is_fetched_again(
    backend: HubBackend, adapter_folder: Path
) -> None:
    publish(backend, adapter_folder)
    backend.open(NAME, 1)
    [kept] = Path(os.environ["ADAPTERS_HOME"]).glob("cache/hub/*/*/*.json")
    kept.chmod(0o644)
    kept.write_bytes(b"")
    assert new_backend().open(NAME, 1).number == 1
    assert json.loads(kept.read_bytes())["version"] == 1
