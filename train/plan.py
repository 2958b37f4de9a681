"""What a run is to do, with all that it names found: which run it is, and whether it is done."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import __version__, bases
from adapters.errors import MissingExtra, NotFound
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version, check_name
from train import trackers
from train.full import check_target
from train.recipe import Recipe
from train.resume import run_key
from train.rewards import sources
from train.rows.files import dataset_files, fetch_dataset

if TYPE_CHECKING:
    from train.replay import Replay

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
"""What a run computes with."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, where it goes."""

    dataset: str
    """A file, a folder of files, or a Hub dataset's id."""
    base: str
    name: str | None
    """The adapter whose next version it becomes; None: see `output_dir`."""
    recipe: Recipe
    revision: str | None = None
    eval_dataset: str | None = None
    dataset_revision: str | None = None
    replay: str | None = None
    """Another dataset and its share of all rows: `general.jsonl=0.1` (see `train.replay`)."""
    tags: Sequence[str] = ()
    notes: str = ""
    serving: Serving = field(default_factory=Serving)
    """The server's defaults; those of its template's arguments that it says nothing of, training
    says."""
    again: bool = False
    """Train it even if there is a version that the same run made."""
    output_dir: Path | None = None
    """Where a full model goes, which is no version: a folder that does not exist."""

    def served(self, trained: Mapping[str, Any] | None) -> Serving:
        """Return the defaults of the version. `trained`: the template's arguments in training."""
        return self.serving.over(Serving.from_json({"chat_template_kwargs": {**(trained or {})}}))

    @property
    def title(self) -> str:
        """What people call what it makes."""
        return self.name or str(self.output_dir and self.output_dir.name)


@dataclass(frozen=True, slots=True)
class Plan:
    """A job with what it names found."""

    job: Job
    base: bases.LocalBase
    replay: Replay | None
    identity: dict[str, Any]
    """The datasets by content, see `train.prepare.identify`."""
    code: dict[str, str]
    """Versions of what computes the weights, and sha256 of reward functions."""

    @property
    def key(self) -> str:
        """Which run it is, see `train.resume.run_key`."""
        return run_key(asdict(self.base.model), asdict(self.job.recipe), self.identity, self.code)

    def weights(self) -> Path:
        """Return the base's folder with its weights, which may have to come from the Hub yet.

        Raises:
            NotFound, Rejected, Unavailable: see `adapters.bases.resolve`.
        """
        if self.base.model.local:
            return self.base.path
        return bases.resolve(self.job.base, revision=self.base.model.revision).path


def make_plan(job: Job, registry: Registry | None) -> Plan:
    """Find what a job names, before anything large is loaded.

    `registry`: where its version goes; None where it makes none.

    Raises:
        InvalidName, InvalidDataset, UsageError, NotFound, Rejected, Unavailable: see
            `train.run.run`.
        MissingExtra: a package is not installed.
    """
    check_target(job)
    if job.name:
        check_name(job.name)
    path, _ = fetch_dataset(job.dataset, revision=job.dataset_revision)
    dataset_files(path)
    if registry:
        registry.check_writable()
    need("datasets")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    need("transformers")
    trackers.check_trackers(job.recipe.report_to)
    from train.prepare import identify
    from train.replay import Replay

    replay = Replay.parse(job.replay) if job.replay else None
    base = bases.resolve(job.base, revision=job.revision, weights=False)
    say(f"base {base.model.id} @ {base.model.revision[:19]}")
    identity = identify(
        job.dataset, revision=job.dataset_revision, eval_dataset=job.eval_dataset, replay=replay
    )
    return Plan(job, base, replay, identity, _code(job.recipe))


def _code(recipe: Recipe) -> dict[str, str]:
    try:
        code = {package: package_version(package) for package in PACKAGES}
    except PackageNotFoundError as error:
        raise _missing(str(error.name), error) from error
    code |= sources(recipe)
    return {"lora-switchyard": __version__, **code}


def finished_by(plan: Plan, registry: Registry) -> Version | None:
    """Return the last version in good standing that the same run made, with the same defaults."""
    name = str(plan.job.name)
    try:
        versions = registry.versions(name)
    except NotFound:
        return None
    against = registry.standings(name)
    for version in reversed(versions):
        m = version.manifest
        key = run_key(asdict(m.base), m.recipe, m.dataset, m.code)
        served = plan.job.served(m.serving.get("chat_template_kwargs")).as_json()
        if key == plan.key and served == m.serving and version.number not in against:
            return version
    return None


def need(package: str) -> Any:
    """Import a package.

    Raises:
        MissingExtra: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise _missing(package, error) from error


def _missing(package: str, error: ImportError) -> MissingExtra:
    return MissingExtra(
        f"Training needs {package}: {error}.",
        fix="Install it: pip install 'lora-switchyard[cpu]' or 'lora-switchyard[gpu]'.",
    )


def say(text: str) -> None:
    """Tell how it goes, on stderr."""
    print(text, file=sys.stderr)
