"""What would take the server with it is refused before any compiler of grammars sees it."""

from __future__ import annotations

from typing import Any

import pytest

from serve.http.failures import RequestRefused
from serve.http.grammars import check_grammars

LONG = "x" * 262_000


def array(**bounds: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "integer"}, **bounds}


@pytest.mark.parametrize(
    "content",
    [
        {"structured_outputs": ["regex", "a"]},
        {"structured_outputs": "a"},
        {"structured_outputs": False},
        {"structured_outputs": {"json": array(minItems=1 << 40)}},
        {"structured_outputs": {"regex": LONG + LONG}},
        {"structured_outputs": {"choice": [LONG, LONG]}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": array(maxItems=1e9)},
            }
        },
        {"response_format": {"schema": {"properties": {"a": {"anyOf": [array(minItems=10_001)]}}}}},
        {"response_format": {"schema": {"properties": {LONG: {}, LONG.upper(): {}}}}},
        {"text": {"format": {"schema": array(minItems=10_001)}}},
        {"output_config": {"format": {"schema": array(minItems=10_001)}}},
        {"tools": [{"type": "function"}, {"function": {"parameters": array(maxItems=10_001)}}]},
    ],
)
def test_refused(content: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as refused:
        check_grammars(content)
    assert refused.value.status == 400
    assert refused.value.param in content


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"structured_outputs": None, "response_format": None, "tools": None, "text": None},
        {"structured_outputs": {"regex": LONG}},
        {"response_format": {"schema": array(minItems=1, maxItems=10_000)}},
        {"response_format": {"schema": {"properties": {"minItems": {"type": "integer"}}}}},
        {"tools": [{"function": {"name": "a", "description": LONG}} for _ in range(4)]},
        {"tools": "none", "messages": [{"content": LONG + LONG}]},
    ],
)
def test_let_through(content: dict[str, Any]) -> None:
    check_grammars(content)
