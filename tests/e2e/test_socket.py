"""The listening socket as the real engine binds it."""

from __future__ import annotations

import socket
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit


def test_small_answers_do_not_wait_for_each_other() -> None:
    """vLLM's own socket leaves Nagle's algorithm on: 40 ms on every answer in two segments."""
    from serve.engines import vllm_engine

    flags = ["--model=x", "--served-model-name=x", "--enable-lora", "--host=127.0.0.1", "--port=0"]
    with vllm_engine.bind(vllm_engine.parse(flags)) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connection_is_kept_for_longer_than_clients_keep_it(url: str) -> None:
    """httpx, and so `openai`, keeps one for 5 s; so does vLLM, and sometimes closes it first."""
    connection = HTTPConnection(urlsplit(url).netloc)
    for pause_s in (5.5, 0):
        connection.request("GET", "/health")
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b"")
        time.sleep(pause_s)
    connection.close()
