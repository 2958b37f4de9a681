"""How the server's lines look: text, or one JSON document each, vLLM's and uvicorn's as ours.

vLLM reads the same file in each of its processes, so all of them write alike. What a line says of
a request is up to `serve.observing`.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
from pathlib import Path
from typing import Literal

Format = Literal["text", "json"]
CONFIG = Path(__file__).with_name("json_lines.json")
"""For `logging.config.dictConfig`."""


def configure(form: Format) -> None:
    """Set up this process's logging, and what vLLM will find; before vLLM is imported."""
    if form == "json":
        logging.config.dictConfig(json.loads(CONFIG.read_text()))
        logging.captureWarnings(True)
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(CONFIG)
    else:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
