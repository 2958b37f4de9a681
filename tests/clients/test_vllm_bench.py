"""`vllm bench serve`, the client, over adapters: vLLM's own, from the server's environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

# What the command `vllm` runs, which itself asks for a distribution called otherwise on a CPU.
BENCH = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""
REQUESTS = 32


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_no_request_fails(url: str, key: str, tmp_path: Path, backend: str) -> None:
    path = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}[backend]
    done = subprocess.run(
        [os.environ["SWITCHYARD_PYTHON"], "-c", BENCH, "--backend", backend, "--base-url", url,
         "--endpoint", path, "--model", "tiny", "--tokenizer", os.environ["SWITCHYARD_BASE"],
         "--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "8",
         "--num-prompts", str(REQUESTS), "--lora-modules", "support", "support@v2", "fleet-1",
         "--save-result", "--result-dir", str(tmp_path), "--result-filename", "bench.json",
         "--disable-tqdm"],
        env={**os.environ, "OPENAI_API_KEY": key}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "bench.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0)
    assert result["total_output_tokens"] > 0
