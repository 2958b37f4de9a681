"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapters.cli import main

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; return exit code, stdout and stderr."""

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run
