"""The listening socket as the real engine binds it."""

from __future__ import annotations

import socket


def test_small_answers_do_not_wait_for_each_other() -> None:
    """vLLM's own socket leaves Nagle's algorithm on: 40 ms on every answer in two segments."""
    from serve import vllm_engine

    flags = ["--model=x", "--served-model-name=x", "--enable-lora", "--host=127.0.0.1", "--port=0"]
    with vllm_engine.bind(vllm_engine.parse(flags)) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
