"""What a person says to `adapters serve`, and what vLLM is told of it: flags and environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from adapters import bases
from adapters.lint import read_base_config
from adapters.memory import free_bytes
from serve.loading.slots import Overrides, Slots, size
from serve.machine import has_bf16
from serve.routes.snapshot import Snapshot
from serve.watching import logs
from serve.watching.tracing import flags as tracing_flags

_CPU_CACHE_BYTES = 1 << 30
_NO_DOMAIN = "no-domain.invalid"
"""vLLM fetches pictures from wherever a client says, the server's own network included, unless it
is told from where; that it be nowhere it cannot be told."""
_MOST_ANSWERS = "128"
"""`n` of one request, as OpenAI has it; vLLM's own 16 384 shut all others out for minutes."""
_KEEP_ALIVE_S = 75
"""Longer than clients (5 s) and load balancers (60 s) keep a connection: whoever sends into one
that closes just now gets no answer. vLLM's own default is 5 s, too."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person says. `vllm_flags` go to vLLM as they are and win over our defaults."""

    base: str
    registry: str | None = None
    revision: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    """Secrets that open everything, beside the keys of `adapters keys`."""
    insecure: bool = False
    """Let other machines in without any key."""
    open_metrics: bool = False
    """Show /metrics to everybody, not to admins alone."""
    share_prefix_cache: bool = False
    """Let one key's prompts be found in the cache by another's."""
    vllm_flags: tuple[str, ...] = ()
    drain_timeout_s: int = 20
    """What running requests get to end; below the 30 s that supervisors commonly give a server."""
    slot_turn_s: float = 1.0
    """For how long a version in a slot takes more requests while others wait for one; 0 leaves it
    to vLLM, where they may wait for ever."""
    log_format: logs.Format = "text"
    log_prompts: bool = False
    store: str | None = None
    """Where exposures and outcomes of experiments are kept, as a URL; None: a SQLite file in
    $ADAPTERS_HOME."""


def flags_of(
    settings: Settings,
    found: bases.LocalBase,
    snapshot: Snapshot,
    together: int,
    *,
    cpu: bool,
) -> tuple[list[str], Slots]:
    """Return vLLM's flags, our defaults first so that the person's own win, and the slots."""
    config = read_base_config(found.path)
    flags = [
        f"--model={found.path}",
        f"--host={settings.host}",
        f"--port={settings.port}",
        "--enable-lora",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",  # ours says more
        f"--shutdown-timeout={settings.drain_timeout_s}",
        *logs.flags(settings.log_format),
        f"--served-model-name={found.model.name}",
        f"--allowed-media-domains={_NO_DOMAIN}",
    ]
    if cpu:
        flags.append("--enforce-eager")
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            flags.append(f"--kv-cache-memory-bytes={_CPU_CACHE_BYTES}")
        if not has_bf16() or _dtype(config) == "float32":
            flags.append("--dtype=float32")
    full = "--dtype=float32" in flags or "float32" in " ".join(settings.vllm_flags)
    slots = _slots(settings, found, config, snapshot, together, 4 if full else 2)
    return [*flags, *slots.flags(), *tracing_flags(), *settings.vllm_flags], slots


def _slots(
    settings: Settings,
    found: bases.LocalBase,
    config: dict[str, Any],
    snapshot: Snapshot,
    together: int,
    element_bytes: int,
) -> Slots:
    versions = {
        version.engine_name: version
        for version in snapshot.versions()
        if version.manifest.base.revision == found.model.revision
        and version.manifest.kind == "lora"
    }
    named = {
        adapter.versions[number].engine_name
        for adapter in snapshot.adapters.values()
        for number in adapter.named()
    }
    return size(
        [int(version.manifest.peft.get("r") or 0) for version in versions.values()],
        config,
        base_bytes=sum(file.stat().st_size for file in found.path.glob("*.safetensors")),
        free_bytes=free_bytes(),
        element_bytes=element_bytes,
        named=len(named & versions.keys()),
        together=together,
        overrides=Overrides.read(settings.vllm_flags),
    )


def _dtype(config: dict[str, Any]) -> str | None:
    found = config.get("dtype") or config.get("torch_dtype")
    return found if isinstance(found, str) else None


def prepare_environment() -> None:
    """Say to vLLM, in all its processes, what its flags cannot."""
    plugins = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*plugins, "switchyard"]))
    os.environ.pop("VLLM_ALLOW_RUNTIME_LORA_UPDATING", None)  # its routes load any folder
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", _MOST_ANSWERS)
    os.environ.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", str(_KEEP_ALIVE_S))
    os.environ["VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"] = "1"  # else it closes the port on clients
    os.environ.pop("VLLM_API_KEY", None)  # ours by now, see `run`
