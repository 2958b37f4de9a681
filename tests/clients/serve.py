"""`python -m tests.clients.serve COMMAND`: serve genuine adapters while a command runs.

Runs where the server is installed; the command, in an environment of its own, finds it by
environment variables (`tests/clients/conftest.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from adapters import bases
from adapters.demo.server import served
from adapters.keys import KeyJournal
from adapters.registry import Registry
from loadtests import fleet

ADMIN = "an-admins-secret"
VLLM_FLAGS = [
    # What clients' defaults need: tools that the model may choose, JSON that ends.
    *(
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--tool-strict-level",
        "parameter",
    ),
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]


def main() -> None:
    """Publish, make keys, serve, run the command; exits as it does."""
    with tempfile.TemporaryDirectory(prefix="adapters-clients-") as scratch:
        home = Path(scratch)
        registry = Registry.open(home)
        fleet.publish(registry, ["fleet-0", "fleet-1", "support", "support"])
        registry.promote("support@v1")
        keys = KeyJournal(home / "keys.jsonl")
        _, secret = keys.create("clients", allow=["*"])
        _, poor = keys.create("poor", allow=["*"], rpm=1)
        environment = {
            **os.environ,
            "SWITCHYARD_KEY": secret,
            "SWITCHYARD_POOR_KEY": poor,
            "SWITCHYARD_ADMIN_KEY": ADMIN,
            "SWITCHYARD_PYTHON": sys.executable,
            "SWITCHYARD_BASE": str(bases.resolve("tiny").path),
        }
        os.environ["VLLM_ENABLE_RESPONSES_API_STORE"] = "1"
        flags = ["--base", "tiny", "--registry", str(home), "--api-key", ADMIN, "--", *VLLM_FLAGS]
        log = home / "server.log"
        with served(flags, log) as url:
            environment["SWITCHYARD_URL"] = url
            code = subprocess.run(sys.argv[1:], env=environment, check=False).returncode
        if code:
            print(f"The server's log ends:\n{log.read_text(errors='replace')[-8000:]}")
    sys.exit(code)


if __name__ == "__main__":
    main()
