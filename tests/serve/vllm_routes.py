"""Print every route of vLLM's app, whatever the base does: a JSON list of method and path.

Run as a child (python -m tests.serve.vllm_routes): vLLM takes over its importer's logging.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

from vllm.entrypoints.launchers.app import build_app

from adapters import bases
from serve.engines import vllm_engine
from serve.http.openapi import described

KINDS_OF_BASE = [
    ("generate",),
    ("embed", "token_embed", "token_classify"),
    ("classify", "token_classify"),
]


def main() -> None:
    """Build the app as for each kind of base, without loading one."""
    args = vllm_engine.parse([f"--model={bases.resolve('tiny').path}", "--enable-lora"])
    routes, documented = set(), set()
    for tasks in KINDS_OF_BASE:
        model = SimpleNamespace(
            get_pooling_task=lambda tasks: tasks[0], hf_config=SimpleNamespace(num_labels=1)
        )
        app = build_app(args, tasks, model)
        documented |= described(app.openapi())["paths"].keys()
        for route in app.routes:
            methods = (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
            routes |= {(method, route.path) for method in methods}
    print(json.dumps({"routes": sorted(routes), "documented": sorted(documented)}))


if __name__ == "__main__":
    main()
