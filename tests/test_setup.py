"""The set-up installs a whole environment, and only what is pinned."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

LOCK = Path(__file__).parent.parent / "constraints" / "cpu.txt"
CUDA_ONLY = {"torchvision", "torchaudio", "torchcodec"}
pinned = dict(
    line.split("==") for line in LOCK.read_text().split("\n") if line and not line.startswith("#")
)
cpu_set_up = pytest.mark.skipif(
    "+cpu" not in version("torch"), reason="this environment was not made by scripts/setup"
)


@cpu_set_up
def test_nothing_is_missing_but_what_breaks_a_cpu_torch() -> None:
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = {line.split(" requires ")[-1] for line in checked.stdout.splitlines()}
    assert missing == {f"{package}, which is not installed." for package in CUDA_ONLY}


@cpu_set_up
def test_what_is_installed_is_what_is_pinned() -> None:
    for package, pin in pinned.items():
        assert version(package).split("+")[0] == pin.split("+")[0], package


@cpu_set_up
@pytest.mark.parametrize("package", sorted(CUDA_ONLY))
def test_no_cuda_build_is_left_behind(package: str) -> None:
    with pytest.raises(PackageNotFoundError):
        version(package)
