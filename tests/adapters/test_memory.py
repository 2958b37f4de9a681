"""How much memory is free: what the kernel would give, within the container's limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import memory


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that caches files with nearly all that is not in use."""
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal: 24000 kB\nMemFree: 100 kB\nMemAvailable: 16000 kB\n")
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    return tmp_path


def test_what_caches_files_is_free(container: Path) -> None:
    assert memory.free_bytes() == 16_000 * 1024


@pytest.mark.parametrize(("limit", "free"), [("max", 16_384_000), ("9000000", 8_000_000)])
def test_a_container_has_what_its_limit_leaves(container: Path, limit: str, free: int) -> None:
    (container / "memory.max").write_text(limit + "\n")
    (container / "memory.current").write_text("5000000\n")
    (container / "memory.stat").write_text("anon 900000\ninactive_file 4000000\n")
    assert memory.free_bytes() == free


def test_this_machine_has_some() -> None:
    assert memory.free_bytes() > 1 << 20
