"""What the real server says of its requests without being asked for JSON."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from openai import OpenAI

from tests.e2e.conftest import FLEET


def test_every_request_is_a_line_on_stderr_and_in_the_file(
    client: OpenAI, url: str, home: Path
) -> None:
    messages = [{"role": "user", "content": "Name three birds."}]
    raw = client.chat.completions.with_raw_response.create(
        model=FLEET[0],
        messages=messages,  # type: ignore[arg-type]
        max_tokens=2,
    )
    answered = f"POST /v1/chat/completions 200 {raw.headers['x-adapter']}"
    assert f"INFO switchyard.access: {answered}" in (home / "server.log").read_text()
    file = home / "logs" / f"serve-{urlsplit(url).port}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    (mine,) = [each for each in lines if each.get("request_id") == raw.headers["x-request-id"]]
    assert mine["message"].startswith(answered)
