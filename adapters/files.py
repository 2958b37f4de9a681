"""Files of a version: which may exist, their hashes, and how they are copied in.

Does not know what is in them (`adapters.lint` does) nor where they go (`adapters.backends`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from adapters.errors import InvalidAdapter
from adapters.types import File

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
RECEIPT_FILE = "data_receipt.json"
"""Where each row of the dataset went; see `train.rows.receipt`."""
CURVE_FILE = "loss.png"
"""The run's loss curve, as the model card shows it; see `train.plots`."""
SWEEP_FILE = "sweep.json"
"""The trials among which the version is the best; see `train.sweep`."""
SERVING_FILE = "serving.json"
"""What the server adds to requests; see `adapters.serving`."""
CANARY_FILE = "canary.json"
"""How it answered where it was published; see `adapters.canary`."""
TOLD_FILES = (CARD_FILE, RECEIPT_FILE, CURVE_FILE, "loss.svg", "loss.csv", SWEEP_FILE)
"""What tells people of a version; nothing that computes reads them."""
_OPTIONAL = frozenset(
    {
        *TOLD_FILES,
        SERVING_FILE,
        CANARY_FILE,
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    }
)
ALLOWED = frozenset({CONFIG_FILE, WEIGHTS_FILE}) | _OPTIONAL
_CHUNK_BYTES = 1 << 20


def version_files(folder: Path) -> list[str]:
    """Return the file names of a version's folder, sorted; only files a version may hold.

    An adapter has weights and their configuration, a prompt-only version neither of them but
    `serving.json`. `manifest.json` is left out: a published folder can be published again.

    Raises:
        InvalidAdapter: no such folder, a file missing, or one that is not a plain file of the
            known names (links, pipes, folders, pickles …).
    """
    if not folder.is_dir():
        raise InvalidAdapter(f"{folder} is not a folder.", fix="Name a PEFT adapter folder.")
    try:
        names = sorted(name for name in os.listdir(folder) if name != MANIFEST_FILE)
    except OSError as error:
        raise InvalidAdapter(
            f"{folder} cannot be read: {error.strerror}.", fix="Check the folder and its rights."
        ) from error
    for name in names:
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            raise InvalidAdapter(
                f"{folder / name} is not a plain file.",
                fix="Links, pipes and folders are never published: remove it or copy its content.",
            )
        if name not in ALLOWED:
            pickled = Path(name).suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
            raise InvalidAdapter(
                f"{folder / name} {'is a pickle' if pickled else 'does not belong in an adapter'}.",
                fix="Save with save_pretrained(safe_serialization=True) into an empty folder."
                if pickled
                else f"A version holds {', '.join(sorted(ALLOWED))}.",
            )
    if is_prompt_only(names):
        return names
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in names:
            raise InvalidAdapter(
                f"{folder} has no {required}.", fix="Name a folder written by save_pretrained()."
            )
    return names


def is_prompt_only(names: Collection[str]) -> bool:
    """Say whether a folder of these files is a prompt-only version's, which has no weights."""
    return SERVING_FILE in names and not {CONFIG_FILE, WEIGHTS_FILE}.intersection(names)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(files: Mapping[str, File]) -> str:
    """Return the digest of a version: sha256 of `sha256sum` lines sorted by path.

    The same as, in the folder: `sha256sum $(ls | grep -v manifest.json) | sha256sum` with
    `LC_ALL=C`.
    """
    lines = "".join(f"{files[path].sha256}  {path}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def differences(folder: Path, files: Mapping[str, File]) -> list[str]:
    """Say how a version's folder differs from its manifest's files; reads every byte."""
    found = {entry.name for entry in os.scandir(folder)} - {MANIFEST_FILE}
    said = [f"{path} was added" for path in sorted(found - set(files))]
    for path in sorted(files):
        if path not in found:
            said.append(f"{path} is missing")
        elif not stat.S_ISREG((folder / path).lstat().st_mode):
            said.append(f"{path} is not a plain file")
        elif sha256_file(folder / path) != files[path].sha256:
            said.append(f"{path} was changed")
    return said


def copy_in(source: Path, target: Path) -> File:
    """Copy one plain file, hashing what was written; durable and read-only on return.

    The source is opened without following links, so a swap between check and copy is refused.

    Raises:
        OSError: the source is a link, or reading or writing failed.
    """
    sha256, size = hashlib.sha256(), 0
    with (
        os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as reader,
        target.open("xb") as writer,
    ):
        while chunk := reader.read(_CHUNK_BYTES):
            sha256.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        seal(writer.fileno())
    return File(sha256.hexdigest(), size)


def open_plain(path: Path, mode: str = "rb", *, rights: int = 0o666) -> BinaryIO:
    """Open a plain file in binary; follows no link and waits at no pipe.

    `rights`: of the file if it is made, less the umask.

    Raises:
        OSError: it is a link or no plain file, or cannot be opened.
    """
    never = os.O_NOFOLLOW | os.O_NONBLOCK
    stream = open(path, mode, opener=lambda name, flags: os.open(name, flags | never, rights))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "It is not a plain file", str(path))
    return cast(BinaryIO, stream)


def read_up_to(stream: BinaryIO, most_bytes: int) -> bytes:
    """Read an open file as a whole.

    Raises:
        ValueError: it is larger than `most_bytes`; then nothing is read.
    """
    size = os.fstat(stream.fileno()).st_size
    if size > most_bytes:
        raise ValueError(f"it has {size:,} bytes, and {most_bytes:,} is the most")
    return stream.read()


def write_durably(target: Path, content: bytes) -> None:
    """Write a new read-only file and fsync it."""
    with target.open("xb") as writer:
        writer.write(content)
        writer.flush()
        seal(writer.fileno())


def seal(descriptor: int) -> None:
    """Make an open file read-only and durable."""
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents where they do not exist, each durable in its own parent."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
