"""What vLLM is started with, read by vLLM's own parser."""

from __future__ import annotations

from argparse import Namespace

import pytest

from adapters import bases
from serve.routes.snapshot import EMPTY


def parsed(*own: str) -> Namespace:
    from serve.engines import vllm_engine
    from serve.settings import Settings, flags_of

    flags, _ = flags_of(Settings("tiny", vllm_flags=own), bases.resolve("tiny"), EMPTY, 0, cpu=True)
    return vllm_engine.parse(flags)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "https://example.com/a.png"])
def test_nothing_is_fetched_for_a_client(url: str) -> None:
    from vllm.multimodal.media.connector import MediaConnector

    connector = MediaConnector(allowed_media_domains=parsed().allowed_media_domains)
    with pytest.raises(ValueError, match="allowed domains"):
        connector.fetch_image(url)


def test_but_from_where_the_operator_says() -> None:
    assert parsed("--allowed-media-domains=a.example").allowed_media_domains == ["a.example"]
