"""What this machine has and can: a free port, bfloat16 in silicon, experts. Linux."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.errors import Unavailable, UsageError

_CPUINFO = Path("/proc/cpuinfo")


def check_port(host: str, port: int) -> None:
    """Find out, before minutes of loading, whether the server could listen.

    Raises:
        UsageError: no host of that name, or a number that is no port.
        Unavailable: the port is taken, or not allowed.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port} is not a port.", fix="Use 1024 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}.", fix="Use e.g. 127.0.0.1.") from error
    except OSError as error:
        raise port_error(host, port, error) from error


def check_exposure(host: str | None) -> None:
    """Refuse to let other machines in where nobody is asked for a key.

    `host`: a name or an address; None or empty means every interface.

    Raises:
        UsageError: it is not of this machine alone.
    """
    if not host or not all(_is_loopback(address) for address in _addresses(host)):
        raise UsageError(
            f"Without a key, everybody who reaches {host or '0.0.0.0'} could use this server.",
            fix="Make one: adapters keys create --name web --allow '*'. Or say --api-key, or "
            "--insecure.",
        )


def _addresses(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:  # `check_port` says so
        return [host]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def port_error(host: str, port: int, error: OSError) -> Unavailable:
    """Say why nothing can listen there, and what to do."""
    return Unavailable(
        f"Cannot listen on {host}:{port}: {error.strerror or error}.",
        fix="Stop what listens there, or choose another port with --port.",
    )


def has_bf16(cpuinfo: str | None = None) -> bool:
    """Return whether the CPU multiplies bfloat16 itself; emulated, it is far slower than fp32.

    `cpuinfo`: the content of /proc/cpuinfo; None reads it.
    """
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    return bool(re.search(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b",
                          cpuinfo, re.MULTILINE))  # fmt: skip


def check_experts(config: Mapping[str, Any]) -> None:
    """Refuse, on a CPU, a base whose experts vLLM would compute with a GPU's kernel.

    With LoRA on, vLLM 0.32 has Triton compute experts, adapted or not; its CPU build has none,
    starts all the same, and ends at the first request. `config`: the base's config.json.

    Raises:
        Unavailable: the base is a mixture of experts.
    """
    text = config.get("text_config") or config
    if any(text.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise Unavailable(
            "vLLM serves LoRA on a mixture of experts on a GPU only.",
            fix="Serve this base on a machine with a GPU.",
        )
