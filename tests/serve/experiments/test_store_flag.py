"""`adapters serve --store`: what cannot be opened is refused before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapters.demo.server import free_port
from adapters.home import home

SERVE = [sys.executable, "-c", "from adapters.cli import main; main()", "serve"]


def refused(*flags: str) -> tuple[int, str]:
    """Return exit code and what was said; the base would be refused next."""
    known = ["--base", "/no/such/base", "--port", str(free_port())]
    done = subprocess.run([*SERVE, *known, *flags], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [
        ("mysql://ann@host/database", 2, "Use sqlite:////path"),
        ("postgresql://ann:s3cret@127.0.0.1:1/experiments", 1, "Is it there, and running?"),
    ],
)
def test_a_store_that_cannot_be_opened(store: str, code: int, said: str) -> None:
    ended, told = refused("--store", store)
    assert (ended, said in told) == (code, True), told
    assert "s3cret" not in told


def test_keys_of_tokens_that_others_may_read(tmp_path: Path) -> None:
    home().mkdir()
    keys = home() / "assignment.keys"
    keys.write_text("f" * 64 + "\n")
    keys.chmod(0o644)
    ended, told = refused("--store", f"sqlite:///{tmp_path}/kept.db")
    assert (ended, f"chmod 600 {keys}" in told) == (1, True), told
    keys.chmod(0o600)
    assert "/no/such/base" in refused("--store", f"sqlite:///{tmp_path}/kept.db")[1]
