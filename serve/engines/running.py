"""What vLLM tells of the adapters that run: one series, the last."""

from __future__ import annotations

from prometheus_client import Gauge


def keep_latest_only(gauge: Gauge) -> None:
    """Have a gauge whose labels are its value show the last one, not every one that ever was.

    vLLM tells the adapters that run by a label of `vllm:lora_requests_info`: a series for each
    list of names there ever was, for ever.
    """
    labels = gauge.labels

    def latest(*values: object, **named: object) -> Gauge:
        gauge.clear()
        return labels(*values, **named)

    gauge.labels = latest  # type: ignore[method-assign]
