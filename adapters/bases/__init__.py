"""Where a base lies on this machine and what identifies it.

`tiny` is the project's own (see `adapters/bases/tiny/README.md`); anything else is a local
folder or a Hub id. Imports nothing heavy; loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import NotFound, Rejected, Unavailable
from adapters.files import RECEIPT_FILE, sha256_file
from adapters.types import BaseModel

TINY = "tiny"
_WEIGHTS = "*.safetensors"
_PATTERNS = ("*.json", _WEIGHTS, "*.jinja", "tokenizer.model", "*.txt")
_LEFT_OUT = ("original/*", "consolidated*", "onnx/*")
LINEAGE_FILE = "lineage.json"
"""Where a base that was trained here came from; see `train.full`."""


@dataclass(frozen=True, slots=True)
class LocalBase:
    """A base whose files are on this machine."""

    model: BaseModel
    path: Path


def resolve(base: str, *, revision: str | None = None, weights: bool = True) -> LocalBase:
    """Find a base; downloads a Hub id that is not cached (not with HF_HUB_OFFLINE=1).

    `weights=False` leaves a Hub id's weights there: config.json and the tokenizer are enough to
    identify it, and to say what it takes.

    A local folder's revision is a digest of its files, read in full (about a second a GB).

    Raises:
        NotFound: no such folder and no such Hub id or revision.
        Rejected: a folder without config.json or safetensors weights.
        Unavailable: the Hub cannot be reached, or wants a login.
    """
    if base == TINY:
        path = Path(__file__).parent / TINY
        return LocalBase(_identify(base, path, None), path)
    if Path(base).expanduser().is_dir():
        if revision:
            raise Rejected(f"{base} is a folder, it has no revision.", fix="Leave out --revision.")
        path = Path(base).expanduser().absolute()
        return LocalBase(_identify(base, path, None), path)
    path, commit = from_hub(base, revision, weights=weights)
    return LocalBase(_identify(base, path, commit, weights=weights), path)


def from_hub(base: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Return the snapshot folder of a Hub id and its commit sha."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        snapshot = snapshot_download(
            base,
            revision=revision,
            allow_patterns=[p for p in _PATTERNS if weights or p != _WEIGHTS],
            ignore_patterns=list(_LEFT_OUT),
        )
    except HFValidationError as error:
        raise NotFound(
            f"There is no {base!r}, neither here nor on the Hub.",
            fix="Name a folder, a Hub id such as Qwen/Qwen3-0.6B, or the base tiny.",
        ) from error
    except GatedRepoError as error:
        raise Unavailable(
            f"{base} is gated.", fix="Ask for access on its page, then run: hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise NotFound(
            f"The Hub has no {base}{at}, or your token cannot see it.",
            fix="Check the id; a private one needs: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"{base} is neither a folder here, nor in the Hub cache, nor can the Hub be reached.",
            fix="Check the spelling and the network; HF_HUB_OFFLINE=1 allows cached bases only.",
        ) from error
    return Path(snapshot), Path(snapshot).name


def _identify(base: str, path: Path, commit: str | None, *, weights: bool = True) -> BaseModel:
    config = path / "config.json"
    if not config.is_file() or (weights and not any(path.glob(_WEIGHTS))):
        raise Rejected(
            f"{path} is not a base: it needs config.json and *.safetensors.",
            fix="Name a folder written by save_pretrained().",
        )
    tokenizer = next(
        (path / n for n in ("tokenizer.json", "tokenizer.model") if (path / n).is_file()), None
    )
    return BaseModel(
        id=base,
        revision=commit or f"sha256:{_folder_digest(path)}",
        config_sha256=sha256_file(config),
        tokenizer_sha256=sha256_file(tokenizer) if tokenizer else "",
        chat_template_sha256=_template_digest(path),
    )


def _folder_digest(path: Path) -> str:
    names = sorted({file.name for pattern in _PATTERNS for file in path.glob(pattern)})
    names = [name for name in names if name not in (LINEAGE_FILE, RECEIPT_FILE)]
    lines = "".join(f"{sha256_file(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def _template_digest(path: Path) -> str:
    template = path / "chat_template.jinja"
    if template.is_file():
        return sha256_file(template)
    settings = path / "tokenizer_config.json"
    content = json.loads(settings.read_bytes()) if settings.is_file() else {}
    embedded = content.get("chat_template")
    return hashlib.sha256(json.dumps(embedded).encode()).hexdigest() if embedded else ""
