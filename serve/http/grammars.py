"""What a request may ask the grammar compilers for: they run beside everybody's requests. Pure.

vLLM hands schemas, expressions and grammars to xgrammar and llguidance in the server's own process.
Measured on both: an array of 10^6 items takes llguidance 1.6 GB and more than 12 s, 10^12 all the
memory there is; 10^5 names one after another take either as long. Up to these limits it is under a
second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.http.failures import RequestRefused

_LARGEST = 256 << 10
"""Characters of one grammar; the whole of it, names and all."""
_MOST_ITEMS = 10_000
_ITEMS = ("minItems", "maxItems")
_PLACES = ("response_format", "structured_outputs", "text", "output_config", "output_format")
_TOOLS = "tools"


def check_grammars(content: Mapping[str, Any]) -> None:
    """Refuse a body whose grammars would take the server with them.

    Raises:
        RequestRefused: 400.
    """
    asked = content.get("structured_outputs")
    if asked is not None and not isinstance(asked, dict):
        raise RequestRefused(
            400,
            "`structured_outputs` is not an object.",
            fix='Send {"json": …}, {"regex": …}, {"choice": […]} or {"grammar": …}.',
            param="structured_outputs",
        )
    for place in _PLACES:
        _check(content.get(place), place)
    tools = content.get(_TOOLS)
    for tool in tools if isinstance(tools, list) else ():
        _check(tool, _TOOLS)


def _check(grammar: object, place: str) -> None:
    size, left = 0, [grammar]
    while left:
        value = left.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict):
            size += sum(map(len, value))
            left += value.values()
            for key in _ITEMS:
                bound = value.get(key)
                if isinstance(bound, int | float) and bound > _MOST_ITEMS:
                    raise RequestRefused(
                        400,
                        f"`{key}` in `{place}` is {bound}.",
                        fix=f"Ask for at most {_MOST_ITEMS} items.",
                        param=place,
                    )
        elif isinstance(value, list):
            size += len(value)
            left += value
    if size > _LARGEST:
        raise RequestRefused(
            400,
            f"A grammar in `{place}` has {size} characters.",
            fix=f"Send at most {_LARGEST}.",
            param=place,
        )
