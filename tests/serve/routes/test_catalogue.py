"""`/v1/models` lists what can be asked for, in OpenAI's shape, without a file path."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from tests.serve.conftest import FOREIGN, MakeServer, Publish


def test_it_lists_what_can_be_asked_for_and_no_paths(
    serve: MakeServer, support: tuple[Version, Version], registry: Registry, publish: Publish
) -> None:
    publish("stranger", FOREIGN)
    server = serve()
    reply = server.ask("GET", "/v1/models")
    roots = {card["id"]: card["root"] for card in reply.json()["data"]}
    one, two = (version.engine_name for version in support)
    assert roots == {
        "small": "small",
        "small-alias": "small",
        "support": one,
        "support@production": one,
        "support@latest": two,
        "support@v1": one,
        "support@v2": two,
    }
    assert str(Path(registry.location)) not in reply.text
    assert all(server.chat(model).is_success for model in roots)


def test_cards_have_openais_shape(serve: MakeServer, support: tuple[Version, Version]) -> None:
    card = serve().ask("GET", "/v1/models/support").json()
    assert card == {
        "id": "support",
        "object": "model",
        "created": card["created"],
        "owned_by": "switchyard",
        "root": support[0].engine_name,
        "parent": "small",
    }
    assert isinstance(card["created"], int)


@pytest.mark.parametrize("escape", [True, False])
def test_one_model_whatever_its_id_holds(
    serve: MakeServer, support: tuple[Version, Version], escape: bool
) -> None:
    for model in ("small", "support@v2", support[1].engine_name):
        path = quote(model, safe="") if escape else model
        assert serve().ask("GET", f"/v1/models/{path}").json()["id"] == model


@pytest.mark.parametrize("model", ["nobody", "support@v9", "..%2Fx", "support/x"])
def test_a_model_there_is_not(
    serve: MakeServer, support: tuple[Version, Version], model: str
) -> None:
    reply = serve().ask("GET", f"/v1/models/{model}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


def test_an_experiment_hides_no_name(
    serve: MakeServer, registry: Registry, support: tuple[Version, Version]
) -> None:
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("base", None, 50)])
    ids = [card["id"] for card in serve().ask("GET", "/v1/models").json()["data"]]
    assert "support" in ids
