"""`/openapi.json`: names what a client may ask for, as the gate has it, and nothing else."""

from __future__ import annotations

import json
import re

import pytest

from serve.http.access import Kind
from serve.http.openapi import kind_of
from tests.serve.conftest import MakeServer

OURS = {
    "/ready": {"get"},
    "/v1/models/{model}": {"get"},
    "/v1/adapters": {"get"},
    "/v1/adapters/{ref}": {"get"},
    "/v1/adapters/{ref}/load": {"post"},
    "/v1/adapters/{ref}/pin": {"post", "delete"},
    "/v1/feedback": {"post"},
    "/v1/experiments": {"get", "post"},
    "/v1/experiments/{name}": {"get"},
    "/v1/experiments/{name}/log": {"get"},
    "/v1/experiments/{name}/start": {"post"},
    "/v1/experiments/{name}/ramp": {"post"},
    "/v1/experiments/{name}/take-out": {"post"},
    "/v1/experiments/{name}/pause": {"post"},
    "/v1/experiments/{name}/stop": {"post"},
    "/v1/experiments/{name}/report": {"get"},
    "/v1/experiments/{name}/promote": {"post"},
}


def test_it_names_what_exists_of_the_engines_and_ours(serve: MakeServer) -> None:
    document = serve().ask("GET", "/openapi.json").json()
    routed = {path for path in document["paths"] if kind_of(path) is Kind.ROUTED}
    assert {"/v1/chat/completions", "/v1/messages", "/tokenize"} < routed
    others = {"/v1/responses/{response_id}", "/health"}
    assert document["paths"].keys() == routed | others | OURS.keys()
    for path, methods in OURS.items():
        assert document["paths"][path].keys() == methods
    assert all(kind_of(path) is not Kind.DENIED for path in document["paths"])


def test_schemas_of_what_is_denied_are_left_out_and_every_reference_leads_somewhere(
    serve: MakeServer,
) -> None:
    document = serve().ask("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas.keys() == {"Chat", "Turn"}
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas


def test_model_is_required_as_it_is_here(serve: MakeServer) -> None:
    server = serve()
    found = server.ask("GET", "/openapi.json").json()["components"]["schemas"]["Chat"]
    assert "model" in found["required"]
    assert found["properties"]["model"]["type"] == "string"
    assert server.ask("POST", "/v1/completions", json={}).status_code == 400
    kept = server.engine.document()["components"]["schemas"]["Chat"]
    assert "required" not in kept, "the app's own document stays as it is"


def test_it_says_that_a_key_is_needed_where_one_is(serve: MakeServer) -> None:
    server = serve(keys=["secret"])
    assert server.ask("GET", "/openapi.json").status_code == 401
    reply = server.ask("GET", "/openapi.json", headers={"x-api-key": "secret"})
    document = reply.json()
    assert document["security"] == [{"bearer": []}, {"x-api-key": []}]
    for path, item in document["paths"].items():
        for operation in item.values():
            assert ("security" in operation) == (path in ("/health", "/ready"))


def test_it_is_read_not_written(serve: MakeServer) -> None:
    assert "paths" not in serve().ask("POST", "/openapi.json").json()


def test_what_this_base_has_not_says_so(serve: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.engines.echo_engine._PATHS", ("/v1/chat/completions",))
    reply = serve().ask("POST", "/v1/embeddings", json={"model": "small", "input": "hello"})
    assert reply.status_code == 404
    assert "/v1/embeddings" in reply.json()["error"]["message"]
    assert serve().chat("small").status_code == 200
