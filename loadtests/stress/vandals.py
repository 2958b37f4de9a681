"""Vandals: uploads that must be refused, and published files that change in place."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file

from adapters import bases
from adapters.errors import AdaptersError, Rejected
from adapters.files import digest, sha256_file
from adapters.types import File, Version
from loadtests.stress.findings import Findings
from loadtests.stress.ledger import Ledger, Published
from loadtests.stress.operators import Operators

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_HURT_S = (2.0, 12.0)


class Vandals:
    """What they do. One at a time, so that few versions are damaged at once."""

    def __init__(self, operators: Operators, ledger: Ledger, findings: Findings, base: str) -> None:
        self._operators = operators
        self._registry = operators.registry
        self._ledger = ledger
        self._findings = findings
        self._base = bases.resolve(base)

    def run(self, until: float, rng: random.Random, pause_s: float) -> None:
        """One vandal, until so long."""
        while self._findings.goes_on(until):
            deed = rng.choices((self._upload, self._damage, self._plant), (5, 4, 2))[0]
            try:
                deed(rng)
            except AdaptersError as error:
                self._findings.count(f"vandal: {deed.__name__[1:]}: {type(error).__name__}")
            except Exception as error:
                self._findings.violation("vandal", f"{deed.__name__}: {error!r}")
            time.sleep(rng.random() * 2 * pause_s)

    # -- uploads --------------------------------------------------------------------------------

    def _upload(self, rng: random.Random) -> None:
        """Publish what lint must refuse, or weights that do nothing, which the server must."""
        kind = rng.choice([*_BAD, "no effect"])
        name = rng.choice(self._ledger.names)
        source = self._operators.make()
        if kind == "no effect":
            _spoil(source, lambda key, tensor: tensor * (1e-6 if "lora_B" in key else 1))
        else:
            _BAD[kind](source)
        with self._ledger.changing(name):
            try:
                version = self._registry.publish(
                    name, source, base=self._base.model, base_path=self._base.path
                )
            except Rejected:
                self._findings.count(f"vandal: upload, {kind}: refused")
                return
            if kind != "no effect":
                self._findings.violation("upload", f"{kind} was published as {version.ref}")
            self._ledger.add(Published(version, source))
            self._ledger.damaged(version.engine_name, for_good=True)
            self._findings.count("vandal: upload, no effect: published")

    # -- damage -----------------------------------------------------------------------------------

    def _damage(self, rng: random.Random) -> None:
        """Damage a version's files, wait, and restore them or let it be deleted."""
        name = rng.choice(self._ledger.names[:6] if rng.random() < 0.5 else self._ledger.names)
        with self._ledger.still(name):
            versions = sorted(self._ledger.now(name).versions)
            found = self._ledger.of(name, rng.choice(versions))
            if not found or found.system or not self._ledger.sound(found.version.engine_name):
                return
            version, kind = found.version, rng.choice([*_DAMAGE])
            if kind == "folder" and version.number == versions[-1]:
                return  # its number would be taken again
            self._ledger.damaged(version.engine_name)
            os.chmod(version.path, 0o755)
            for file in version.path.iterdir():
                os.chmod(file, 0o644)
            _DAMAGE[kind](version, self._operators.make())
        self._findings.count(f"vandal: damage, {kind}")
        time.sleep(rng.uniform(*_HURT_S))
        if rng.random() < 0.3:
            with self._ledger.changing(name), suppress(AdaptersError):
                self._registry.examine(version.ref, quarantine=True)
            time.sleep(rng.uniform(*_HURT_S))
        with self._ledger.changing(name):
            if (version.path / "tombstone.json").exists():
                return
            _restore(version, found.weights)
            self._registry.examine(version.ref)
            self._ledger.repaired(version.engine_name)

    def _plant(self, rng: random.Random) -> None:
        """Put a version into the folder that says itself that it is fine, and is not."""
        name = rng.choice(self._ledger.names)
        with self._ledger.changing(name):
            survey = self._registry.survey(name)
            model = next((v for v in survey.versions if v.manifest.kind == "lora"), None)
            if model is None:
                return
            taken = [path.name[1:].split(".")[0] for path in model.path.parent.glob("v*")]
            number = max(int(each) for each in taken if each.isdecimal()) + 1
            target = model.path.with_name(f"v{number}")
            source = self._operators.make()
            _spoil(source, lambda key, tensor: tensor * numpy.float32("nan"))
            files = {
                path: File(sha256_file(source / path), (source / path).stat().st_size)
                for path in (_CONFIG, _WEIGHTS)
            }
            manifest = replace(
                model.manifest, version=number, files=files, digest=digest(files), serving={}
            )
            (source / "manifest.json").write_text(json.dumps(asdict(manifest)))
            planted = Version(manifest, target)
            self._ledger.add(Published(planted, source))
            self._ledger.damaged(planted.engine_name, for_good=True)
            with tempfile.TemporaryDirectory(dir=model.path.parent, prefix=".planted-") as folder:
                shutil.copytree(source, Path(folder) / "v")
                (Path(folder) / "v").rename(target)
        self._findings.count("vandal: plant")
        time.sleep(rng.uniform(*_HURT_S))
        with self._ledger.changing(name):
            self._registry.retire(planted.ref, reason="planted")
        time.sleep(1.5)
        with self._ledger.changing(name):
            self._registry.delete(planted.ref, reason="planted")


def _spoil(
    folder: Path, change: Callable[[str, numpy.ndarray], numpy.ndarray], *, half: bool = False
) -> None:
    tensors = load_file(folder / _WEIGHTS)
    changed = {
        key: numpy.ascontiguousarray(change(key, tensor), dtype=tensor.dtype)
        for place, (key, tensor) in enumerate(tensors.items())
        if not half or place % 2
    }
    save_file(changed, folder / _WEIGHTS, metadata={"format": "pt"})


def _renamed(folder: Path) -> None:
    tensors = load_file(folder / _WEIGHTS)
    renamed = {key.replace("self_attn", "self_attention"): t for key, t in tensors.items()}
    save_file(renamed, folder / _WEIGHTS, metadata={"format": "pt"})


def _pickled(folder: Path) -> None:
    (folder / _WEIGHTS).rename(folder / "adapter_model.bin")


def _truncated(folder: Path) -> None:
    os.truncate(folder / _WEIGHTS, (folder / _WEIGHTS).stat().st_size // 2)


def _dora(folder: Path) -> None:
    config = json.loads((folder / _CONFIG).read_text())
    (folder / _CONFIG).write_text(json.dumps(config | {"use_dora": True}))


_BAD: Mapping[str, Callable[[Path], None]] = {
    "NaN": lambda folder: _spoil(folder, lambda _, tensor: tensor * numpy.float32("nan")),
    "smaller": lambda folder: _spoil(
        folder, lambda key, tensor: tensor[:, :-64] if "lora_A" in key else tensor
    ),
    "half its tensors": lambda folder: _spoil(folder, lambda _, tensor: tensor, half=True),
    "foreign keys": _renamed,
    "truncated": _truncated,
    "pickle": _pickled,
    "DoRA": _dora,
    "no weights": lambda folder: (folder / _WEIGHTS).unlink(),
}


def _flip(version: Version, _: Path) -> None:
    with (version.path / _WEIGHTS).open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(os.urandom(4096))


def _truncate(version: Version, _: Path) -> None:
    _truncated(version.path)


def _unlink(version: Version, _: Path) -> None:
    (version.path / _WEIGHTS).unlink()


def _swap(version: Version, other: Path) -> None:
    """Other weights, whole and fine, in place of those that were published."""
    shutil.copyfile(other / _WEIGHTS, version.path / f".{_WEIGHTS}")
    (version.path / f".{_WEIGHTS}").replace(version.path / _WEIGHTS)


def _fifo(version: Version, _: Path) -> None:
    (version.path / _WEIGHTS).unlink()
    os.mkfifo(version.path / _WEIGHTS)


def _reconfigure(version: Version, _: Path) -> None:
    config = json.loads((version.path / _CONFIG).read_text())
    (version.path / _CONFIG).write_text(json.dumps(config | {"lora_alpha": 1}))


def _garble(version: Version, _: Path) -> None:
    (version.path / "manifest.json").write_text("{")


def _add(version: Version, other: Path) -> None:
    shutil.copyfile(other / _WEIGHTS, version.path / "extra.safetensors")


def _link(version: Version, other: Path) -> None:
    (version.path / _WEIGHTS).unlink()
    (version.path / _WEIGHTS).symlink_to(other / _WEIGHTS)


def _remove(version: Version, _: Path) -> None:
    shutil.rmtree(version.path)


_DAMAGE: Mapping[str, Callable[[Version, Path], None]] = {
    "bits": _flip,
    "truncated": _truncate,
    "gone": _unlink,
    "other weights": _swap,
    "FIFO": _fifo,
    "config": _reconfigure,
    "manifest": _garble,
    "one file more": _add,
    "link": _link,
    "folder": _remove,
}


def _restore(version: Version, source: Path | None) -> None:
    """Bring back every file as it was published."""
    assert source is not None
    version.path.mkdir(exist_ok=True)
    (version.path / "extra.safetensors").unlink(missing_ok=True)
    for path in (_CONFIG, _WEIGHTS):
        shutil.copyfile(source / path, version.path / f".{path}")
        (version.path / f".{path}").replace(version.path / path)
    (version.path / "manifest.json").write_text(json.dumps(asdict(version.manifest)))
