"""Files made to harm: refused at once, with little memory, and nothing is left of them.

Once for a folder that is to be published, linted or imported, once for a registry's own files.
Sparse files stand for large ones.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import (
    AdaptersError,
    InvalidAdapter,
    InvalidName,
    NotFound,
    RegistryUnavailable,
)
from adapters.examine import examine
from adapters.importing import import_adapter
from adapters.retention import Retention
from adapters.types import Ref
from tests.conftest import BASE

MOST_BYTES, MOST_S = 64 << 20, 5.0
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where the block takes long or needs much memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        assert time.process_time() - began < MOST_S
    finally:
        tracemalloc.stop()


class Payload:
    """Whoever unpickles it writes a file."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._sentinel,)


def weights(header: Any, *, length: int | None = None) -> bytes:
    """Return a safetensors file with this header, said to be so long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(folder.parent / "ran")))


def pickled_beside(folder: Path) -> None:
    (folder / "training_state.pt").write_bytes(pickle.dumps(Payload(folder.parent / "ran")))


def pickled_under_our_name(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Payload(folder.parent / "ran")))


def link_to_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / f"{folder.name}-elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / f"{folder.name}-elsewhere")


def link_to_secrets(folder: Path) -> None:
    (folder / "README.md").symlink_to("/etc/passwd")


def pipe(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


def folder_inside(folder: Path) -> None:
    (folder / "README.md").mkdir()


def duplicate_tensors(folder: Path) -> None:
    entry = b'"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":'
    entry += b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    (folder / WEIGHTS).write_bytes(weights(b"{" + entry + b"," + entry + b"}") + bytes(4))


def large(name: str, size_bytes: int) -> Callable[[Path], None]:
    def enlarge(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.truncate(size_bytes)

    return enlarge


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / WEIGHTS).write_bytes(content) and None


def named(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("{}") and None


HUGE_SHAPE = {"a.lora_A.weight": {"dtype": "F32", "shape": [1 << 40, 4], "data_offsets": [0, 4]}}
HOSTILE: dict[str, Callable[[Path], None]] = {
    "a pickle": pickled,
    "a pickle beside the weights": pickled_beside,
    "a pickle called safetensors": pickled_under_our_name,
    "weights that are a link": link_to_weights,
    "a link out of the folder": link_to_secrets,
    "a pipe": pipe,
    "a folder inside": folder_inside,
    "a header of 2^62 bytes": raw(weights({}, length=1 << 62)),
    "a header said to have 10 GB": raw(weights({}, length=10 << 30)),
    "a header of 90 MB": raw(weights(b" " * (90 << 20))),
    "a header that nests": raw(weights(b'{"a":' * 100_000)),
    "a shape that would fill the memory": raw(weights(HUGE_SHAPE) + bytes(4)),
    "a tensor twice": duplicate_tensors,
    "no byte": raw(b""),
    "a configuration of 100 MB": large(CONFIG, 100 << 20),
    "a configuration of 10 GB": large(CONFIG, 10 << 30),
    "a name that looks alike": named("аdapter_config.json"),
    "a name that looks like leaving": named("..\\adapter_config.json"),
    "a name with a line's end": named("README.md\n"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_folder_is_never_published(adapter_folder: Path, how: str) -> None:
    HOSTILE[how](adapter_folder)
    house = Retention.open()
    with bounded(), pytest.raises(InvalidAdapter) as refused:
        house.publish("support", adapter_folder, base=BASE)
    assert refused.value.fix
    assert house.names() == []
    assert not (adapter_folder.parent / "ran").exists()


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_folder_is_linted_unharmed(adapter_folder: Path, how: str) -> None:
    HOSTILE[how](adapter_folder)
    with bounded():
        assert examine(str(adapter_folder)).report.findings
    assert not (adapter_folder.parent / "ran").exists()


def left_out_by_import(how: str) -> bool:
    """An import takes the files it knows out of a training's folder, and leaves the rest."""
    return "beside" in how or "looks" in how or "line's end" in how


@pytest.mark.parametrize("how", [how for how in HOSTILE if not left_out_by_import(how)])
def test_a_hostile_folder_is_not_imported(adapter_folder: Path, how: str) -> None:
    HOSTILE[how](adapter_folder)
    house = Retention.open()
    with bounded(), pytest.raises(AdaptersError):
        import_adapter(house, str(adapter_folder), "support", base="tiny")
    assert house.names() == []
    assert not (adapter_folder.parent / "ran").exists()


NAMES = [
    "../x", "/etc", "..", ".", "", "~", "a/b", "a\\b", "%2e%2e", "a\0b", "a\nb", "support\n", " a",
    "Support", "ѕupport", "ｓupport", "support\u202e", "v٣", "x" * 65, "-a", "_a", "a@b@c",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_hostile_name_never_reaches_a_path(adapter_folder: Path, name: str) -> None:
    house = Retention.open()
    for verb in (
        lambda: house.publish(name, adapter_folder, base=BASE),
        lambda: house.resolve(name),
        lambda: house.resolve(f"support@{name}"),
        lambda: house.demote("support", name),
        lambda: house.history(name),
        lambda: house.delete(f"{name}@v1"),
    ):
        with pytest.raises((InvalidName, NotFound)):
            verb()
    assert not Path(house.location).exists()


# -- a registry that somebody tampered with ------------------------------------------------------


@pytest.fixture
def home(adapter_folder: Path) -> Path:
    """The folder of `support`, with v1 to v3 and v2 in production."""
    house = Retention.open()
    for _ in range(3):
        house.publish("support", adapter_folder, base=BASE)
    house.promote("support@v2")
    return Path(house.location) / "adapters" / "support"


def replaced(path: Path, content: bytes = b"", *, size_bytes: int = 0) -> Path:
    """Put other content in place of a file, be it read-only."""
    path.parent.chmod(0o755)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    if size_bytes:
        os.truncate(path, size_bytes)
    return path


def changed(home: Path, **fields: Any) -> None:
    manifest = home / "v3" / "manifest.json"
    replaced(manifest, json.dumps({**json.loads(manifest.read_bytes()), **fields}).encode())


def manifest_as_a_pipe(home: Path) -> None:
    replaced(home / "v3" / "manifest.json").unlink()
    os.mkfifo(home / "v3" / "manifest.json")


def manifest_as_a_link(home: Path) -> None:
    replaced(home / "v3" / "manifest.json").unlink()
    (home / "v3" / "manifest.json").symlink_to(home / "v2" / "manifest.json")


def version_as_a_link(home: Path) -> None:
    outside = home.parents[2] / "outside"
    (home / "v3").rename(outside)
    (home / "v3").symlink_to(outside)


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "10 GB": lambda home: replaced(home / "v3" / "manifest.json", size_bytes=10 << 30),
    "nested": lambda home: replaced(home / "v3" / "manifest.json", b"[" * 1_000_000),
    "NUL bytes": lambda home: replaced(home / "v3" / "manifest.json", bytes(1000)),
    "a pipe": manifest_as_a_pipe,
    "a link": manifest_as_a_link,
    "a folder that is a link": version_as_a_link,
    "metrics that are none": lambda home: changed(home, metrics={"eval_loss": "low"}),
    "a list for a recipe": lambda home: changed(home, recipe=[]),
    "a number for a digest": lambda home: changed(home, digest=7),
    "a date that is none": lambda home: changed(home, created_at="soon"),
    "another's name": lambda home: changed(home, name="../../etc"),
    "files that are none": lambda home: changed(home, files={"x": {"sha256": 1, "size_bytes": ""}}),
}


@pytest.mark.parametrize("how", MANIFESTS)
def test_a_hostile_manifest_is_one_damaged_version(home: Path, how: str) -> None:
    MANIFESTS[how](home)
    house = Retention.open()
    with bounded():
        survey = house.survey("support")
        versions, (damaged,) = survey.versions, survey.damaged
        assert ([version.number for version in versions], damaged.number) == ([1, 2], 3)
        with pytest.raises(RegistryUnavailable):
            house.resolve("support@v3")
        assert [bool(v.damage) for v in house.examine(quarantine=True)] == [False, False, True]
        assert house.resolve("support@latest").number == 2


def test_files_named_out_of_the_folder_are_not_looked_at(home: Path) -> None:
    manifest = json.loads((home / "v3" / "manifest.json").read_bytes())
    files = {**manifest["files"], "../../../../../../etc/passwd": manifest["files"][CONFIG]}
    changed(home, files=files)
    (verdict,) = Retention.open().examine("support@v3")
    assert "etc/passwd is missing" in verdict.damage


def test_nothing_is_deleted_through_a_link(home: Path) -> None:
    version_as_a_link(home)
    outside = home.parents[2] / "outside"
    before = sorted(path.name for path in outside.iterdir())
    with pytest.raises(RegistryUnavailable, match="is a link"):
        Retention.open().delete("support@v3")
    (outside).chmod(0o755)
    (outside / "tombstone.json").write_text("{}")
    Retention.open()._backend.sweep("support")
    (outside / "tombstone.json").unlink()
    assert sorted(path.name for path in outside.iterdir()) == before


JOURNALS: dict[str, Callable[[Path], object]] = {
    "10 GB": lambda path: replaced(path, size_bytes=10 << 30),
    "NUL bytes": lambda path: replaced(path, bytes(1000) + b"\n"),
    "garbage": lambda path: replaced(path, b"\xff\xfe{]\n" * 1000),
    "a line that nests": lambda path: replaced(path, b"[" * 1_000_000 + b"\n"),
    "a way out": lambda path: replaced(path, line(to="../../../etc")),
    "a number with a sign": lambda path: replaced(path, line(to=-1)),
    "yes for a number": lambda path: replaced(path, line(to=True)),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to(path.with_name("x"))),
}


def line(**fields: Any) -> bytes:
    move = {
        "from": None,
        "to": 1,
        "action": "promote",
        "actor": "x",
        "time": "2026-01-01",
        **fields,
    }
    return json.dumps(move).encode() + b"\n"


@pytest.mark.parametrize("how", JOURNALS)
def test_a_hostile_journal_is_said_and_never_written_over(home: Path, how: str) -> None:
    journal = home / "aliases" / "production.jsonl"
    JOURNALS[how](journal)
    before = journal.lstat()
    house = Retention.open()
    with bounded():
        for verb in (
            lambda: house.resolve("support"),
            lambda: house.aliases("support"),
            lambda: house.promote("support@v3"),
            lambda: house.rollback("support"),
        ):
            with pytest.raises(RegistryUnavailable) as refused:
                verb()
            assert re.search(r"production|understood", refused.value.message)
            assert refused.value.fix
        assert house.resolve("support@v1").number == 1
        assert house.survey("support").damaged[0].ref == "support"
    after = journal.lstat()
    assert (after.st_ino, after.st_size, after.st_mode) == (
        before.st_ino,
        before.st_size,
        before.st_mode,
    )


def test_a_torn_last_line_was_never_acknowledged(home: Path) -> None:
    with (home / "aliases" / "production.jsonl").open("ab") as stream:
        stream.write(line(to=1)[:-9])
    house = Retention.open()
    assert house.resolve("support").number == 2
    assert house.promote("support@v3").from_version == 2
    assert [move.to_version for move in house.history("support")] == [2, 3]


def test_folders_that_look_like_versions_are_none(home: Path, adapter_folder: Path) -> None:
    for name in ("v٣", "v3٣", "V4", "v04", "v-1", "v4 ", "v1e3", "ⅴ4"):
        (home / name).mkdir()
        (home / name / "manifest.json").write_text("{}")
    house = Retention.open()
    assert [version.number for version in house.versions("support")] == [1, 2, 3]
    assert house.publish("support", adapter_folder, base=BASE).number == 4
    for text in ("support@v٣", "support@V3", "support@v03"):
        with pytest.raises((InvalidName, NotFound)):
            house.resolve(Ref.parse(text))
