"""One line a request that says what became of it, and nothing of what was asked or answered."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from adapters.registry import Registry
from adapters.types import Arm, Version
from serve import logs
from tests.serve.conftest import MakeServer

SECRET = "sk-very-secret"
PROMPT = "the launch code is 0000"


class Lines:
    """Everything that is logged, at any level, as the JSON format writes it."""

    def __init__(self) -> None:
        config = json.loads(logs.CONFIG.read_text())
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        configurator = logging.config.DictConfigurator(config)
        self.handler.setFormatter(configurator.configure_formatter(config["formatters"]["json"]))

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
    registry.start_experiment("support", [Arm("v1", 1, 1e9), Arm("v2", 2, 1e-9)])
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
