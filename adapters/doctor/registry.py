"""The registry, and how its versions would fit into a server's slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adapters import bases
from adapters.doctor.finding import Finding, failed
from adapters.errors import AdaptersError
from adapters.lint import read_base_config
from adapters.memory import free_bytes
from adapters.registry import Registry
from adapters.types import PRODUCTION


def examine_registry(location: str | None, base: str | None) -> Iterator[Finding]:
    """Whether it can be read, what is damaged, and what would thrash.

    `base`: as for `adapters serve`; None plans for the base of most versions, if it is here.
    """
    from serve.routes.snapshot import take

    try:
        registry = Registry.open(location)
        snapshot = take(registry)
    except AdaptersError as error:
        yield failed("registry", error)
        return
    versions = snapshot.versions()
    for trouble in snapshot.troubles[:5]:
        yield Finding(
            "fail",
            "registry",
            trouble,
            "See: adapters verify --all"
            if snapshot.reachable
            else "Check the folder, the network or the login; --registry names another.",
        )
    if not snapshot.reachable:
        return
    yield Finding(
        "ok",
        "registry",
        f"{registry.location}: {len(snapshot.adapters)} adapters, {len(versions)} versions",
    )
    commonest = Counter(version.manifest.base.name for version in versions).most_common(1)
    wanted = base or (commonest[0][0] if commonest else None)
    if not wanted:
        return
    try:
        found = bases.resolve(wanted, weights=base is not None)
    except AdaptersError as error:
        yield Finding(
            "warn" if base is None else "fail", f"base {wanted}", error.message, error.fix
        )
        return
    here = [v for v in versions if v.manifest.base.revision == found.model.revision]
    hot = {
        adapter.versions[adapter.aliases[PRODUCTION]].engine_name
        for adapter in snapshot.adapters.values()
        if PRODUCTION in adapter.aliases
    } & {version.engine_name for version in here}
    yield _slots(found, [int(v.manifest.peft.get("r") or 0) for v in here], len(hot))


def _slots(base: bases.LocalBase, ranks: list[int], hot: int) -> Finding:
    """Plan as `adapters serve` would on this machine, in two bytes a number."""
    from serve.loading.slots import size

    planned = size(
        ranks,
        read_base_config(base.path),
        base_bytes=sum(file.stat().st_size for file in base.path.glob("*.safetensors")),
        free_bytes=free_bytes(),
        element_bytes=2,
        named=hot,
    )
    subject = f"slots for {base.model.name}"
    if hot > planned.max_loras:
        return Finding(
            "warn",
            subject,
            f"{hot} versions are in production and {planned.max_loras} slots planned: asked for at "
            "once, they take turns.",
            f"Where memory allows: adapters serve … -- --max-loras={hot}",
        )
    return Finding("ok", subject, f"{' '.join(planned.flags())} ({planned.reason})")
