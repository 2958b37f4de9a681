"""`adapters ps` shows what a server says of its adapters, and why it cannot."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.cli import main

ROW = {
    "id": "support@v1",
    "object": "adapter",
    "engine_name": "support@v1+1a2b3c4d5e6f",
    "state": "resident",
    "reason": None,
    "aliases": ["production"],
    "awaited_by": [],
    "pinned": True,
    "running": 2,
    "loads": 1,
    "last_used": "2026-01-05T09:30:00+00:00",
    "rank": 8,
    "size_bytes": 1000,
}
KNOWN = ROW | {"id": "support@v2", "state": "known", "pinned": False, "last_used": None}

Answer = Callable[..., str]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Have a server answer with a status and a document; return its URL."""
    said: dict[str, Any] = {}

    class Replies(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers.get("authorization")
            status = 401 if said["key"] and key != f"Bearer {said['key']}" else said["status"]
            self.send_response(status if self.path == "/v1/adapters" else 404)
            self.end_headers()
            self.wfile.write(said["body"])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def answer(status: int, content: Any, key: str = "") -> str:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            said.update(status=status, body=body, key=key)
            return f"http://127.0.0.1:{server.server_port}"

        yield answer
        server.shutdown()


@pytest.fixture
def ps(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def ps(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["ps", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return ps


def test_what_is_loaded_and_the_rest_where_asked_for(answer: Answer, ps: Any) -> None:
    url = answer(200, {"object": "list", "data": [ROW, KNOWN]})
    code, out, _ = ps("--url", url)
    assert code == 0
    assert "support@v1" in out
    assert "resident, pinned" in out
    assert "support@v2" not in out
    assert "1 more" in out
    assert "support@v2" in ps("--url", f"{url}/", "--all")[1]
    assert json.loads(ps("--url", url, "--json")[1]) == [ROW, KNOWN]


def test_a_key_is_asked_for_and_given(
    answer: Answer, ps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = answer(200, {"data": []}, "sk-1")
    assert ps("--url", url)[0] == 4
    assert ps("--url", url, "--api-key", "sk-1")[0] == 0
    monkeypatch.setenv("ADAPTERS_API_KEY", "sk-1")
    assert ps("--url", url)[0] == 0


@pytest.mark.parametrize(
    ("status", "content"),
    [(404, {}), (500, b"oops"), (200, b"<html>"), (200, []), (200, {"data": 7}), (200, {})],
)
def test_what_is_no_server_of_ours_is_said(
    answer: Answer, ps: Any, status: int, content: Any
) -> None:
    code, _, err = ps("--url", answer(status, content))
    assert code == 1
    assert "--url" in err


def test_nobody_there_and_no_url(ps: Any) -> None:
    assert "Connection refused" in ps("--url", "http://127.0.0.1:9")[2]
    assert ps("--url", "ftp://x")[0] == 2
    assert ps("--url", "http://[")[0] == 1


def test_its_rows_are_those_that_the_server_documents() -> None:
    from tests.adapters.test_json import SHAPES, misfits

    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    documented = json.loads(re.findall(r"```json adapter\n(.*?)```", page, re.DOTALL)[0])
    assert SHAPES["ps"] == [documented]
    assert misfits([ROW, KNOWN], SHAPES["ps"]) == []
