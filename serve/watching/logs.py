"""How the server's lines look and where they go: stderr, and a file for `adapters logs`.

On stderr as text or as one JSON document each, vLLM's and uvicorn's as ours: vLLM reads the same
configuration in each of its processes. The file holds JSON, of the server's own process alone.
What a line says of a request is up to `serve.watching.observing`.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import os
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from adapters.log_files import log_file

Format = Literal["text", "json"]
CONFIG = Path(__file__).with_name("json_lines.json")
"""For `logging.config.dictConfig`."""
_FILE_BYTES, _OLDER_FILES = 16 << 20, 3

log = logging.getLogger(__name__)


def configure(form: Format) -> None:
    """Set up this process's logging, and what vLLM will find; before vLLM is imported."""
    if form == "json":
        logging.config.dictConfig(_config())
        logging.captureWarnings(True)
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(CONFIG)
    else:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)


def flags(form: Format) -> list[str]:
    """Return what has vLLM set up uvicorn's lines like its own."""
    return [f"--logging-config.pylogging_config_file={CONFIG}"] if form == "json" else []


def keep(port: int) -> None:
    """Write a file from now on; after vLLM is imported, which sets up logging anew."""
    try:
        log_file(port).parent.mkdir(parents=True, exist_ok=True)
        file = _PrivateFile(
            log_file(port), maxBytes=_FILE_BYTES, backupCount=_OLDER_FILES, encoding="utf-8"
        )
    except OSError as error:
        log.warning("No log file, `adapters logs` will show nothing: %s", error)
        return
    file.setFormatter(formatter())
    logging.getLogger().addHandler(file)


def formatter() -> logging.Formatter:
    """Return what writes a record as one line of JSON."""
    made: logging.Formatter = logging.config.DictConfigurator(_config()).configure_formatter(
        _config()["formatters"]["json"]
    )
    return made


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Prompts may stand in it: for its owner alone."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        opened = open(self.baseFilename, self.mode, encoding=self.encoding, opener=opener)  # noqa: SIM115
        assert isinstance(opened, TextIOWrapper), "the mode is a text's"
        return opened


def _config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    return config
