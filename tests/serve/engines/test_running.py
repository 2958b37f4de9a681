"""What vLLM tells of running adapters does not grow with time."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from serve.engines.running import keep_latest_only


def test_a_gauge_whose_labels_are_its_value_has_one_series() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("running", "Which run.", ["names"], registry=registry)
    keep_latest_only(gauge)
    for names in ("a", "a,b", "b"):
        gauge.labels(names=names).set_to_current_time()
    (family,) = registry.collect()
    assert [sample.labels for sample in family.samples] == [{"names": "b"}]
