"""A dataset on the Hub, through the genuine client: its files, and none of its code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from tests.hub.server import WRITE_TOKEN, Hub

ROWS = [{"prompt": f"question {n}", "completion": "yes"} for n in range(3)]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as double:
        api = HfApi(endpoint=double.endpoint, token=WRITE_TOKEN)
        api.create_repo("acme/rows", repo_type="dataset")
        files = {
            "data/train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
            "rows.py": "raise SystemExit('a stranger ran')",
            "README.md": "# Rows",
        }
        api.create_commit(
            "acme/rows",
            [CommitOperationAdd(path, text.encode()) for path, text in files.items()],
            commit_message="rows",
            repo_type="dataset",
        )
        yield double


def check(hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = "from adapters.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", command, "data", "check", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"},
    )


def test_its_files_are_read_and_nothing_else_is_fetched(hub: Hub, tmp_path: Path) -> None:
    found = check(hub, tmp_path, "acme/rows", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["kept_rows"] == len(ROWS)
    assert not any(".py" in request or "README" in request for request in hub.requests)


@pytest.mark.parametrize(
    "arguments", [("acme/none",), ("acme/rows", "--dataset-revision", "v9")], ids=["id", "revision"]
)
def test_what_is_not_there(hub: Hub, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = check(hub, tmp_path, *arguments)
    assert found.returncode == 3
    assert "hf auth login" in found.stderr


def test_a_hub_out_of_reach(tmp_path: Path) -> None:
    with Hub() as gone:
        pass
    found = check(gone, tmp_path, "acme/rows")
    assert found.returncode == 1
    assert "cannot be reached" in found.stderr
