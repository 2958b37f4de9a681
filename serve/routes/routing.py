"""What a request's `model` means: the base or one version, and through what. Pure.

The same words as `Registry.resolve`, over a snapshot, plus the base's own names and the running
experiment. Client text passes `Ref.parse` before anything else looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters.errors import (
    BaseMismatch,
    InvalidName,
    NotFound,
    Rejected,
    Unavailable,
    UsageError,
    nearest,
)
from adapters.experiments import Arm, Phase
from adapters.lint.classifier import CLASSIFIER
from adapters.types import LATEST, BaseModel, Ref, Version
from serve.routes.assignment import assign
from serve.routes.snapshot import Adapter, Snapshot
from serve.routes.units import Unit, Who


@dataclass(frozen=True, slots=True)
class Base:
    """The base this server serves."""

    names: tuple[str, ...]
    """What requests call it; the first is what answers call it. Empty where a caller may not."""
    model: BaseModel


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `version` None: to the base."""

    version: Version | None
    alias: str | None = None
    """The alias it went through, `latest` included."""
    phase: Phase | None = None
    """The experiment that decided, then with its `arm` and `unit`."""
    arm: Arm | None = None
    unit: Unit | None = None
    probability: float | None = None
    """With which the unit got its arm; None: by hand, or there is none."""
    ground: Version | None = None
    """What the version stands on, of a prompt-only one over another."""

    @property
    def weights(self) -> Version | None:
        """Whose weights answer: the version's own, or its ground's. None: the base's alone."""
        if self.version is None or self.version.manifest.kind == "lora":
            return self.version
        return self.ground


def route(snapshot: Snapshot, base: Base, model: str, who: Who | None) -> Route:
    """Return where `model` leads, to what is served.

    Raises:
        As `lead` and `check_stands`.
    """
    found = lead(snapshot, base, model, who)
    check_stands(snapshot, base, found)
    return found


def lead(snapshot: Snapshot, base: Base, model: str, who: Who | None) -> Route:
    """Return where `model` leads, served or not.

    `who` decides between the arms where an experiment runs and nothing is pinned; None asks
    what stands behind the name apart from any experiment.

    Raises:
        NotFound: no such adapter, version, alias or digest; names the nearest ones.
        UsageError: a digest that several versions begin with.
    """
    if model in base.names:
        return Route(None)
    try:
        ref = Ref.parse(model)
    except InvalidName:
        raise NotFound(
            f"No model {model[:80]!r}.", fix=_known(snapshot, base, model[:80])
        ) from None
    adapter = snapshot.adapters.get(ref.name)
    if adapter is None:
        raise NotFound(f"No adapter {ref.name!r}.", fix=_known(snapshot, base, ref.name))
    return _choose(adapter, ref, who)


def check_stands(snapshot: Snapshot, base: Base, found: Route) -> None:
    """Refuse a route to what is not served.

    Raises:
        Retired, Quarantined: the version is there and not served any more, or not for now.
        BaseMismatch: the version was trained on another base than the one served.
        Rejected: it is a classifier or a reward model.
    """
    if (version := found.version) is not None:
        if standing := snapshot.adapters[version.name].standings.get(version.number):
            raise standing.refusal(version.name, version.number)
        check_served(version, base)


def grounded(snapshot: Snapshot, found: Route) -> Route:
    """Return a route with its ground, which need not be the caller's own to ask for.

    Raises:
        As `ground_of`; Rejected: see `check_task`.
    """
    ground = ground_of(snapshot, found.version) if found.version else None
    if ground is None:
        return found
    check_task(ground)
    return replace(found, ground=ground)


def ground_of(snapshot: Snapshot, version: Version) -> Version | None:
    """Return what a prompt-only version stands on; None: the base, or it is none.

    Raises:
        NotFound: the ground is not there.
        BaseMismatch: it is of another base, as the registry lets no version be.
        Unavailable: it is not served, for now.
    """
    if (on := version.manifest.on) is None:
        return None
    try:
        adapter = snapshot.adapters[on.name]
        ground = _by_digest(adapter, on)
    except (KeyError, NotFound):  # whose message would name it, to callers who do not see it
        raise NotFound(
            f"What {version.ref} stands on is gone.",
            fix=f"See what that was, and pull it again: adapters show {version.ref}",
        ) from None
    if ground.manifest.base.revision != version.manifest.base.revision:
        raise BaseMismatch(
            f"{version.ref} and what it stands on are of two bases.",
            fix="Publish it again with: adapters prompt new --on",
        )
    if standing := adapter.standings.get(ground.number):
        raise Unavailable(
            f"What {version.ref} stands on is {standing.state}.",
            fix=f"See what that is: adapters show {version.ref}",
        )
    return ground


def weights_of(snapshot: Snapshot, version: Version) -> Version | None:
    """Return whose weights a version answers with, its own or its ground's; None: the base's.

    Raises:
        As `grounded`.
    """
    return grounded(snapshot, Route(version)).weights


def check_served(version: Version, base: Base) -> None:
    """Refuse a version that no server of this base serves.

    Raises:
        BaseMismatch: it was trained on other weights; names both bases.
        Rejected: it is a classifier or a reward model.
    """
    _check_base(version, base)
    check_task(version)


def _check_base(version: Version, base: Base) -> None:
    trained = version.manifest.base
    if trained.revision != base.model.revision:
        served = (
            f"{base.model.name} at {base.model.revision[:19]}" if base.names else "another base"
        )
        raise BaseMismatch(
            f"{version.ref} was trained on {trained.name} at {trained.revision[:19]}; this server "
            f"serves {served}.",
            fix=f"Serve it with: adapters serve --base {trained.name}",
        )


def check_task(version: Version) -> None:
    """Refuse a version that says nothing: its head gives numbers, and this engine has none.

    Raises:
        Rejected: it is a classifier or a reward model.
    """
    if version.manifest.peft.get("task_type") == CLASSIFIER:
        raise Rejected(
            f"{version.ref} is a reward model or another classifier; this server generates text.",
            fix=f"`adapters lint {version.ref}` says how plain vLLM serves it.",
        )


def _choose(adapter: Adapter, ref: Ref, who: Who | None) -> Route:
    if ref.digest:
        return Route(_by_digest(adapter, ref))
    if ref.number:
        return Route(_numbered(adapter, ref.name, ref.number))
    if ref.alias is None and who and (phase := adapter.running):
        unit = who(phase)
        if assigned := assign(phase, unit.name):
            arm = assigned.arm
            version = None if arm.version is None else _numbered(adapter, ref.name, arm.version)
            return Route(version, phase=phase, arm=arm, unit=unit, probability=assigned.probability)
    alias = ref.alias or adapter.plain
    number = adapter.leads_to(alias)
    if number is None:
        known = [LATEST, *adapter.aliases, *(f"v{n}" for n in adapter.versions)]
        raise NotFound(
            f"{ref.name} has no alias {alias!r}.",
            fix=nearest(alias, known) or f"It has {', '.join(known[:12])}.",
        )
    return Route(_numbered(adapter, ref.name, number), alias=alias)


def _numbered(adapter: Adapter, name: str, number: int) -> Version:
    version = adapter.versions.get(number)
    if version is None:
        known = ", ".join(f"v{n}" for n in list(adapter.versions)[-12:])
        raise NotFound(f"{name} has no version v{number}.", fix=f"It has {known}.")
    return version


def _by_digest(adapter: Adapter, ref: Ref) -> Version:
    assert ref.digest
    found = [
        version
        for number, version in adapter.versions.items()
        if ref.number in (None, number) and version.manifest.digest.startswith(ref.digest)
    ]
    if not found:
        raise NotFound(f"No version is {ref}.", fix=f"See: adapters list {ref.name}")
    if len({version.manifest.digest for version in found}) > 1:
        raise UsageError(f"{ref} means several versions.", fix="Write more of the digest.")
    return found[-1]


def _known(snapshot: Snapshot, base: Base, word: str) -> str:
    revision = base.model.revision
    served = [
        name
        for name, adapter in snapshot.adapters.items()
        if any(v.manifest.base.revision == revision for v in adapter.versions.values())
    ]
    known = [*base.names, *served]
    here = f"Here are {', '.join(known[:12])}; see" if known else "See"
    return nearest(word, known) or f"{here} GET /v1/models."
