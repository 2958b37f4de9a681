"""What `model` means, word for word as the registry resolves it."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import AdaptersError, BaseMismatch, NotFound, Rejected
from adapters.experiments import Arm, Design
from adapters.lint.classifier import HEAD_KEY
from adapters.registry import Registry
from adapters.types import Version
from serve.routes.routing import Route, route
from serve.routes.snapshot import EMPTY, take
from serve.routes.units import Unit, Who
from tests.conftest import LLAMA
from tests.serve.conftest import FOREIGN, SERVED, Publish


def lead(registry: Registry, model: str, unit: str = "u") -> Route:
    return route(take(registry), SERVED, model, named(unit))


def named(unit: str) -> Who:
    return lambda _: Unit(unit, "user")


def test_who_takes_no_part_is_led_as_without_the_experiment(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    design = Design(exclude=("ann",), allow={"bob": "v2"})
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)], design=design)
    assert lead(registry, "support", "ann") == Route(support[0], alias="production")
    tried = lead(registry, "support", "bob")
    assert (tried.version, tried.probability) == (support[1], None)


@pytest.mark.parametrize("model", SERVED.names)
def test_the_bases_own_names(registry: Registry, model: str) -> None:
    assert lead(registry, model) == Route(None)


def test_every_form_of_a_ref(registry: Registry, support: tuple[Version, Version]) -> None:
    one, two = support
    assert lead(registry, "support") == Route(one, alias="production")
    assert lead(registry, "support@production") == Route(one, alias="production")
    assert lead(registry, "support@latest") == Route(two, alias="latest")
    assert lead(registry, "support@v2") == Route(two)
    assert lead(registry, two.engine_name) == Route(two)
    assert lead(registry, f"support@sha256:{two.manifest.digest}") == Route(two)
    assert lead(registry, f"support@sha256:{two.manifest.digest[:8]}") == Route(two)


def test_it_means_what_the_registry_means(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    refs = ["support", "support@production", "support@latest", "support@v1", support[1].engine_name]
    assert [lead(registry, ref).version for ref in refs] == [registry.resolve(ref) for ref in refs]


def test_without_production_a_name_means_the_latest(registry: Registry, publish: Publish) -> None:
    publish("support")
    latest = publish("support")
    assert lead(registry, "support") == Route(latest, alias="latest")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("suport", "support"),
        ("support@produktion", "production"),
        ("support@v9", "v1, v2"),
        ("support@v1+000000000000", "adapters list"),
        ("support@sha256:00000000", "adapters list"),
        ("../x", "small"),
        ("/etc/passwd", "small"),
        ("Support", "support"),
        ("support@", "support"),
        ("support@v1@v2", "support"),
        ("smal", "small"),
        ("x" * 10_000, "small"),
    ],
)
def test_what_leads_nowhere_is_not_found_and_says_what_there_is(
    registry: Registry, support: tuple[Version, Version], model: str, said: str
) -> None:
    with pytest.raises(NotFound, match=said) as raised:
        lead(registry, model)
    assert len(str(raised.value)) < 400


def test_an_engine_name_needs_number_and_digest_of_one_version(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    with pytest.raises(NotFound):
        lead(registry, f"support@v1+{support[1].manifest.digest[:12]}")


def test_a_version_of_another_base_is_refused_naming_both(
    registry: Registry, publish: Publish
) -> None:
    publish("stranger", FOREIGN)
    for model in ("stranger", "stranger@v1", "stranger@latest"):
        with pytest.raises(BaseMismatch, match=r"another/base .* small"):
            lead(registry, model)


def test_what_a_base_is_called_does_not_matter(registry: Registry, publish: Publish) -> None:
    version = publish("support", replace(SERVED.model, id="/some/folder"))
    assert lead(registry, "support").version == version


def test_an_experiment_decides_for_the_bare_name_alone(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    one, two = support
    arms = [Arm("v1", 1, 40), Arm("v2", 2, 30), Arm("base", None, 30)]
    phase = registry.start_experiment("support", arms)
    found = {f"user-{n}": lead(registry, "support", f"user-{n}") for n in range(40)}
    versions = {"v1": one, "v2": two, "base": None}
    for unit, each in found.items():
        assert each.arm
        assert each == Route(
            versions[each.arm.name],
            phase=phase,
            arm=each.arm,
            unit=Unit(unit, "user"),
            probability=pytest.approx(each.arm.weight / 100),
        )
    assert {each.arm for each in found.values()} == set(phase.arms)
    for pinned in ("support@v1", "support@production", "support@latest", one.engine_name):
        assert lead(registry, pinned).phase is None
    assert route(take(registry), SERVED, "support", None) == Route(one, alias="production")
    registry.pause_experiment("support")
    assert lead(registry, "support", "user-1") == Route(one, alias="production")
    registry.resume_experiment("support")
    again = [lead(registry, "support", f"user-{n}").arm for n in range(40)]
    assert again == [each.arm for each in found.values()]
    registry.stop_experiment("support")
    assert lead(registry, "support") == Route(one, alias="production")


def test_the_bases_name_wins_over_an_adapter_of_that_name(
    registry: Registry, publish: Publish
) -> None:
    version = publish("small")
    assert lead(registry, "small") == Route(None)
    assert lead(registry, "small@v1") == Route(version)


@given(st.text(max_size=300))
@settings(max_examples=300)
def test_no_text_gets_anything_but_an_answer_or_a_typed_error(model: str) -> None:
    if model in SERVED.names:
        assert route(EMPTY, SERVED, model, named("u")) == Route(None)
        return
    with pytest.raises(AdaptersError) as raised:
        route(EMPTY, SERVED, model, named("u"))
    assert 400 <= raised.value.http_status < 500


def test_a_reward_model_is_refused_as_it_says_nothing(registry: Registry, publish: Publish) -> None:
    head = numpy.ones((1, LLAMA["hidden_size"]), dtype="float32")
    config = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    publish("judge", config=config, tensors={HEAD_KEY: head})
    with pytest.raises(Rejected, match=r"judge@v1 is a reward model .* generates text") as refused:
        lead(registry, "judge")
    assert "adapters lint judge@v1" in refused.value.fix
