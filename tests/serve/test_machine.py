"""Ports, hosts and what a CPU computes natively."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from adapters.errors import Unavailable, UsageError
from serve.machine import check_experts, check_port, has_bf16


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}.*--port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_number_that_is_no_port(port: int) -> None:
    with pytest.raises(UsageError, match=str(port)):
        check_port("127.0.0.1", port)


def test_a_host_of_no_such_name() -> None:
    with pytest.raises(UsageError, match=r"no\.such\.host\.invalid"):
        check_port("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu sse avx512f", False),
        ("model name\t: Imaginary bf16 CPU", False),
        ("", False),
    ],
)
def test_bfloat16_in_silicon(line: str, native: bool) -> None:
    assert has_bf16(f"processor\t: 0\n{line}\n") is native


@pytest.mark.parametrize(
    "config",
    [
        {"num_experts": 128},
        {"num_local_experts": 8},
        {"text_config": {"n_routed_experts": 64}},
    ],
)
def test_experts_under_lora_need_a_gpu(config: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="on a GPU only"):
        check_experts(config)


def test_a_dense_base_needs_none() -> None:
    check_experts({"model_type": "llama", "num_experts": None})
