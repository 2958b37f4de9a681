"""`GET /openapi.json`: the engine app's own document, of what the gate lets through, and ours.

Pure. What the gate denies is left out with its schemas, so the document names only what exists; and
`model`, which the engine alone could do without, is required, as it is here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters import __version__
from serve.http.access import (
    ADAPTERS_PATH,
    EXPERIMENTS_PATH,
    FEEDBACK_PATH,
    MODELS_PATH,
    Kind,
    classify,
    keyless,
)

_SCHEMAS = "#/components/schemas/"
_SOME_ID = "resp_0"
"""Stands for whatever a client writes in place of `{…}`."""
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_OBJECT = {"type": "object", "additionalProperties": True}
_OUTCOME = {
    "type": "object",
    "required": ["metric", "value"],
    "additionalProperties": False,
    "properties": {
        "metric": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"},
        "value": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}]},
        "comment": {"type": "string", "maxLength": 4000},
        "idempotency_key": {"type": "string", "maxLength": 200},
        "token": {"type": "string", "description": "x-assignment of the answer"},
        "id": {"type": "string", "description": "in place of the token: the answer's id"},
    },
}
_OUTCOMES = {
    "type": "object",
    "required": ["outcomes"],
    "additionalProperties": False,
    "properties": {
        "outcomes": {"type": "array", "minItems": 1, "maxItems": 1000, "items": _OUTCOME}
    },
}
_OURS = {
    "/ready": {"get": "Whether requests can be served now, and what is waited for"},
    f"{MODELS_PATH}/{{model}}": {"get": "One name that can be asked for"},
    ADAPTERS_PATH: {"get": "Where every version stands on this server"},
    f"{ADAPTERS_PATH}/{{ref}}": {"get": "Where one version stands"},
    f"{ADAPTERS_PATH}/{{ref}}/load": {"post": "Load a version; returns once it is in memory"},
    f"{ADAPTERS_PATH}/{{ref}}/pin": {
        "post": "Load a version and keep it in memory",
        "delete": "Let a version be evicted again",
    },
    FEEDBACK_PATH: {"post": "Post back what came of an answer; durable once it is acknowledged"},
    EXPERIMENTS_PATH: {
        "get": "The experiments that are not over",
        "post": "Create an experiment; `start` starts it, too",
    },
    f"{EXPERIMENTS_PATH}/{{name}}": {"get": "The experiment on an adapter that is not over"},
    f"{EXPERIMENTS_PATH}/{{name}}/log": {"get": "Every phase of the experiments on an adapter"},
    f"{EXPERIMENTS_PATH}/{{name}}/report": {"get": "What is known of an experiment by now"},
    f"{EXPERIMENTS_PATH}/{{name}}/start": {"post": "Start a draft, or have a paused one go on"},
    f"{EXPERIMENTS_PATH}/{{name}}/ramp": {"post": "Give the arms other shares"},
    f"{EXPERIMENTS_PATH}/{{name}}/take-out": {"post": "Give an arm's units the control"},
    f"{EXPERIMENTS_PATH}/{{name}}/pause": {"post": "Have requests go where they would without"},
    f"{EXPERIMENTS_PATH}/{{name}}/stop": {"post": "End the experiment"},
    f"{EXPERIMENTS_PATH}/{{name}}/promote": {"post": "Have the winner take over, on evidence"},
}


def described(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of the whole server, made of the engine app's; changes nothing given."""
    components = copy.deepcopy(document.get("components", {}))
    schemas = components.get("schemas", {})
    paths = {path: copy.deepcopy(item) for path, item in document["paths"].items() if _lets(path)}
    for path, item in paths.items():
        if kind_of(path) is Kind.ROUTED:
            _require_model(item["post"], schemas)
    for path, operations in _OURS.items():
        paths[path] = {
            method: _operation(path, method, summary) for method, summary in operations.items()
        }
    for path, item in paths.items():
        if keyless(kind_of(path)):
            for operation in item.values():
                operation["security"] = []
    seen = _used(paths, schemas)
    return {
        "openapi": document["openapi"],
        "info": {"title": "Switchyard", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in schemas if name in seen},
            "securitySchemes": _KEYS,
        },
        "security": [{name: []} for name in _KEYS],
    }


def kind_of(path: str) -> Kind:
    """Return what the gate does with a path that may have `{…}` in it."""
    return classify(re.sub(r"\{\w+\}", _SOME_ID, path))


def _lets(path: str) -> bool:
    return kind_of(path) is not Kind.DENIED


def _require_model(operation: Mapping[str, Any], schemas: dict[str, Any]) -> None:
    """Make `model` a required text in every schema that the body of an operation can have."""
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    for form in body.get("anyOf", [body]):
        schema = schemas[form["$ref"].removeprefix(_SCHEMAS)]
        schema.setdefault("properties", {})["model"] = {"type": "string", "title": "Model"}
        schema["required"] = sorted({*schema.get("required", ()), "model"})


def _operation(path: str, method: str, summary: str) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    replies = {"200": {"description": "Successful Response"}}
    if named:
        replies["404"] = {"description": "Nothing here has that name"}
    operation = {"summary": summary, "parameters": named, "responses": replies}
    if method == "post" and path.startswith(EXPERIMENTS_PATH):
        replies["400"] = {"description": "It cannot be meant; the message says why"}
        replies["409"] = {"description": "Something else was decided meanwhile"}
        operation["requestBody"] = {"content": {"application/json": {"schema": _OBJECT}}}
    if path == FEEDBACK_PATH:
        replies["400"] = {"description": "No outcome, or no token of ours; the message says why"}
        replies["404"] = {"description": "No experiment here counts that answer"}
        replies["409"] = {"description": "Another value was posted under this key"}
        replies["503"] = {"description": "Nothing was kept; retry-after says when to send it again"}
        form = {"schema": {"anyOf": [_OUTCOME, _OUTCOMES]}}
        operation["requestBody"] = {"required": True, "content": {"application/json": form}}
        operation["parameters"] = [
            {
                "name": "x-assignment",
                "in": "header",
                "description": "the token, where the body has neither `token` nor `id`",
                "schema": {"type": "string"},
            }
        ]
    return operation


def _used(paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> set[str]:
    """Return the names of the schemas that paths lead to."""
    seen: set[str] = set()
    left = [paths]
    while left:
        for name in set(_references(left.pop())) - seen:
            seen.add(name)
            left.append(schemas[name])
    return seen


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        reference = part.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_SCHEMAS)
        for each in part.values():
            yield from _references(each)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)
