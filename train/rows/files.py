"""Files as records, streamed: JSON, JSONL, CSV, TSV and Parquet, gzipped or not; folders; the Hub.

Every line that holds something becomes one `Record`. What cannot be read is a record too, with the
reason, so that the receipt can count it; only a file that is no such file at all is an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from adapters.errors import InvalidDataset, NotFound, Unavailable
from adapters.weights import refuse_constant

_LARGEST_LINE_BYTES = 64 << 20
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_TOLD_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in a file."""

    file: str
    """The file's name within the dataset."""
    line: int
    """A line of JSONL, CSV and TSV, an item of a JSON list, a row of Parquet; from 1."""
    content: dict[str, Any]
    wrong: str = ""
    """Why there is no content, where that is so."""


def dataset_files(dataset: Path) -> list[Path]:
    """Return the files of a dataset: itself, or what a folder holds of known kinds, sorted.

    Raises:
        InvalidDataset: nothing there, or nothing of a known kind.
    """
    if dataset.is_dir():
        files = sorted(p for p in dataset.rglob("*") if _suffix(p) in _READERS and p.is_file())
        if not files:
            raise InvalidDataset(f"{dataset} holds no dataset file.", fix=_KINDS)
        return files
    if not dataset.exists():
        raise InvalidDataset(
            f"{dataset} cannot be read: No such file or directory.",
            fix="Name a dataset file, a folder of them, or a Hub dataset (owner/name).",
        )
    if _suffix(dataset) not in _READERS:
        raise InvalidDataset(f"{dataset} is of no known kind.", fix=_KINDS)
    return [dataset]


def fetch_dataset(dataset: str, *, revision: str | None = None) -> tuple[Path, str]:
    """Return the folder or file of a dataset, and the commit it came from (empty where local).

    A name that is no path here and looks like a Hub id is fetched into the Hub client's cache; of
    its files only those of known kinds. No code of the dataset is ever run.

    Raises:
        NotFound: no such dataset on the Hub, or none that this token may read.
        Unavailable: the Hub cannot be reached.
    """
    path = Path(dataset).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(dataset) or dataset.startswith("."):
        return path, ""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        fetched = snapshot_download(
            dataset,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[f"*{suffix}" for suffix in _READERS],
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFound(
            f"No file and no Hub dataset {dataset!r}{f' @ {revision}' if revision else ''}.",
            fix="Check the path or the id; for a private one: hf auth login.",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"{dataset} is no file here, and the Hub cannot be reached.",
            fix="Check the path, or the network.",
        ) from error
    return Path(fetched), Path(fetched).name


def read_records(dataset: Path) -> Iterator[Record]:
    """Yield every record of a dataset in the order of its files and lines. Streams.

    Raises:
        InvalidDataset: as `dataset_files`; a file that cannot be opened or is not what its suffix
            says from some point on (a JSON list or Parquet that breaks off, a damaged gzip).
    """
    files = dataset_files(dataset)
    for path in files:
        name = path.name if len(files) == 1 else str(path.relative_to(dataset))
        try:
            for line, content, wrong in _READERS[_suffix(path)](path):
                if wrong or isinstance(content, dict):
                    yield Record(name, line, {} if wrong else content, wrong)
                else:
                    yield Record(name, line, {}, f"no object but {type(content).__name__}")
        except _Broken as error:
            raise InvalidDataset(
                f"{path}: {error}.", fix="Mend the file, or leave it out."
            ) from error
        except (OSError, EOFError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise InvalidDataset(
                f"{path} cannot be read: {said}.", fix="Name a whole file."
            ) from error


# -- kinds ----------------------------------------------------------------------------------------

_Lines = Iterator[tuple[int, Any, str]]
"""Line, content, and what is wrong with it."""


class _Broken(ValueError):
    """Nothing further can be read from this file."""


def _jsonl(path: Path) -> _Lines:
    for line, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            yield line, json.loads(raw, parse_constant=refuse_constant), ""
        except UnicodeDecodeError as error:
            yield line, None, f"byte {raw[error.start]:#04x} is not UTF-8"
        except (ValueError, RecursionError) as error:
            yield line, None, f"not whole JSON ({error})"


def _json(path: Path) -> _Lines:
    """A list of rows, streamed; a file of one object a line is read as JSONL whatever its name."""
    import ijson

    with _open(path) as stream:
        start = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        return
    if start[:1] != b"[":
        yield from _jsonl(path)
        return
    with _open(path) as stream:
        if stream.read(3) != codecs.BOM_UTF8:
            stream.seek(0)
        line = 0
        try:
            for line, content in enumerate(ijson.items(stream, "item", use_float=True), start=1):
                yield line, content, ""
        except (ijson.JSONError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())[:120]
            raise _Broken(f"no JSON any more after row {line} ({said})") from error


def _separated(delimiter: str) -> Callable[[Path], _Lines]:
    def read(path: Path) -> _Lines:
        with _open(path) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            header: list[str] = []
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if not header:
                        raise _Broken(f"no header ({error})") from error
                    yield line, None, f"not whole CSV ({error})"
                    continue
                if not cells:
                    continue
                if not header:
                    header = _header(cells)
                elif len(cells) != len(header):
                    yield line, None, f"{len(cells)} columns where the header has {len(header)}"
                elif bad := next(filter(None, map(_not_utf8, cells)), ""):
                    yield line, None, bad
                else:
                    yield line, dict(zip(header, cells, strict=True)), ""

    return read


def _parquet(path: Path) -> _Lines:
    import pyarrow
    from pyarrow import parquet

    line = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for content in batch.to_pylist():
                line += 1
                yield line, content, ""
    except pyarrow.ArrowInvalid as error:
        raise _Broken(f"no Parquet any more after row {line} ({error})") from error


_READERS: dict[str, Callable[[Path], _Lines]] = {
    kind + packed: reader
    for kind, reader in {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": _separated(","),
        ".tsv": _separated("\t"),
    }.items()
    for packed in ("", ".gz")
} | {".parquet": _parquet}
_KINDS = f"Name a file that ends in {', '.join(_TOLD_SUFFIXES)} (or .gz), or a folder of them."


def _suffix(path: Path) -> str:
    name = path.name.lower()
    packed = ".gz" if name.endswith(".gz") else ""
    return Path(name.removesuffix(".gz")).suffix + packed


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _open(path) as stream:
        number = 0
        while raw := stream.readline(_LARGEST_LINE_BYTES):
            number += 1
            if len(raw) == _LARGEST_LINE_BYTES:
                raise _Broken(f"line {number} is longer than {_LARGEST_LINE_BYTES >> 20} MiB")
            yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _header(cells: list[str]) -> list[str]:
    if bad := next(filter(None, map(_not_utf8, cells)), ""):
        raise _Broken(f"line 1: {bad}")
    if len(set(cells)) != len(cells):
        raise _Broken("two columns have one name")
    return cells


def _not_utf8(cell: str) -> str:
    """Say which byte of a cell was not UTF-8 (kept as a lone surrogate); empty where all were."""
    found = next((char for char in cell if "\udc80" <= char <= "\udcff"), "")
    return f"byte {ord(found) - 0xDC00:#04x} is not UTF-8" if found else ""
