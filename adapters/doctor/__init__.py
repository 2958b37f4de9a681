"""What keeps adapters from being trained or served here, with the fix beside each.

Reads metadata of packages and imports none of the heavy ones: they may be what is broken.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapters.doctor.finding import Finding
from adapters.doctor.keys import examine_keys
from adapters.doctor.machine import examine_machine, examine_port
from adapters.doctor.packages import examine_builds, examine_names, examine_versions
from adapters.doctor.registry import examine_registry

__all__ = ["Finding", "examine"]


def examine(
    *, registry: str | None = None, base: str | None = None, host: str, port: int
) -> Iterator[Finding]:
    """Yield a finding each; raises nothing of ours."""
    yield from examine_names()
    yield from examine_versions()
    yield from examine_builds()
    yield from examine_machine()
    yield from examine_registry(registry, base)
    yield from examine_keys()
    yield from examine_port(host, port)
