"""One line a request that says what became of it, and nothing of what was asked or answered."""

from __future__ import annotations

import io
import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters import log_files
from adapters.cli import main
from adapters.errors import NotFound
from adapters.experiments import Arm
from adapters.log_files import log_file
from adapters.registry import Registry
from adapters.types import Version
from serve.watching import logs
from tests.serve.conftest import MakeServer

SECRET = "sk-very-secret"
PROMPT = "the launch code is 0000"


class Lines:
    """Everything that is logged, at any level, as the JSON format writes it."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(logs.formatter())

        self.handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the client's

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def access(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in found if line["logger"] == "switchyard.access"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(lines.handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(lines.handler)
    root.setLevel(before)


def test_a_line_a_request(
    serve: MakeServer, registry: Registry, support: tuple[Version, Version], lines: Lines
) -> None:
    registry.start_experiment("support", [Arm("v1", 1, 99.9999999), Arm("v2", 2, 1e-7)])
    server = serve()
    server.chat(
        "support", content={"max_tokens": 3, "stream": True}, headers={"x-request-id": "mine"}
    )
    (line,) = lines.access()
    assert line.pop("time").endswith("+00:00")
    assert line.pop("duration_ms") >= line.pop("ttft_ms") >= 0
    assert line.pop("message").startswith("POST /v1/chat/completions 200 support@v1+")
    assert line == {
        "level": "INFO",
        "logger": "switchyard.access",
        "process": "MainProcess",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "adapter": "support",
        "engine_name": support[0].engine_name,
        "arm": "v1",
        "prompt_tokens": 2,
        "completion_tokens": 3,
    }


def test_neither_keys_nor_prompts_nor_answers_are_logged(
    serve: MakeServer, support: tuple[Version, Version], lines: Lines
) -> None:
    server = serve(keys=[SECRET])
    key = {"authorization": f"Bearer {SECRET}"}
    for model in ("support", "small", "nobody", PROMPT):
        for stream in (False, True):
            content = {"messages": [{"role": "user", "content": PROMPT}], "stream": stream}
            reply = server.chat(model, content=content, headers=key)
            assert reply.status_code in (200, 400, 404)
    server.chat("support", content={"messages": PROMPT}, headers={"x-api-key": f"{SECRET}x"})
    server.ask("POST", "/v1/completions", content=f'{{"prompt": "{PROMPT}'.encode(), headers=key)
    server.ask("GET", f"/v1/models?key={SECRET}", headers=key)
    server.engine.trouble = "dead"
    server.chat("support@v2", content={"prompt": PROMPT}, headers=key)
    assert len(lines.access()) == 12
    assert SECRET not in lines.text
    assert PROMPT not in lines.text


def test_prompts_are_logged_where_that_is_asked_for(serve: MakeServer, lines: Lines) -> None:
    server = serve(log_prompts=True)
    messages = [{"role": "user", "content": PROMPT}]
    server.chat("small", content={"messages": messages})
    assert lines.access()[0]["prompt"] == {"messages": messages}


def test_probes_say_nothing_until_they_fail(serve: MakeServer, lines: Lines) -> None:
    server = serve()
    for path in ("/ready", "/health", "/metrics"):
        server.ask("GET", path)
    assert lines.access() == []
    server.engine.trouble = "dead"
    server.ask("GET", "/ready")
    assert [line["status"] for line in lines.access()] == [503]


def test_a_path_cannot_forge_a_line(serve: MakeServer, lines: Lines) -> None:
    server = serve()
    server.ask("GET", "/x%0AINFO%20forged")
    (line,) = lines.access()
    assert "\n" not in line["message"]
    assert line["status"] == 404


def test_an_exception_stays_one_line(lines: Lines) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("anybody").exception("It failed")
    (line,) = [json.loads(line) for line in lines.text.splitlines()]
    assert (line["level"], line["message"]) == ("ERROR", "It failed")
    assert "ValueError: broken" in line["exception"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a server on port 8000, as long as the test runs."""
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path))
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    root.setLevel(logging.INFO)
    logs.keep(8000)
    yield log_file(8000)
    root.setLevel(level)
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()


def test_the_file_holds_the_same_lines_for_its_owner_alone(
    serve: MakeServer, support: tuple[Version, Version], file: Path
) -> None:
    serve().chat("support")
    assert file.stat().st_mode & 0o777 == 0o600
    (line,) = log_files.last(8000, 10, "support")
    assert (line["status"], line["engine_name"]) == (200, support[0].engine_name)
    assert log_files.last(8000, 10, "tone") == []


def test_what_is_written_is_followed_past_a_full_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = logging.getLogger("switchyard.access")
    following = log_files.follow(8000, "support")
    came: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in following:
            came.put(line)

    threading.Thread(target=read, daemon=True).start()
    time.sleep(0.1)
    for number in range(3):
        access.info("line %d", number, extra={"adapter": "support"})
        access.info("another", extra={"adapter": "tone"})
        assert came.get(timeout=5)["message"] == f"line {number}"
        if number == 1:
            (handler,) = [h for h in logging.getLogger().handlers if hasattr(h, "doRollover")]
            handler.doRollover()


def test_a_port_without_a_server_names_the_others(file: Path) -> None:
    with pytest.raises(NotFound, match="8000"):
        log_files.last(9, 10)


def test_the_command_shows_the_last_lines(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        logging.getLogger("serve").warning("line %d", number)
    with file.open("a") as half:
        half.write('{"cut')
    with pytest.raises(SystemExit):
        main(["logs", "-n", "2"])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1] for line in shown] == ["WARNING line 3", "WARNING line 4"]


def test_where_nothing_can_be_written_it_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    (tmp_path / "logs").write_text("no folder")
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path))
    logs.keep(8000)
    assert "No log file" in lines.text
