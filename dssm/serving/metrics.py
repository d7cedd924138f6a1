"""Counts and times of requests, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_Metric = TypeVar("_Metric", Counter, Gauge)
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COUNTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "requests": ("Requests, by route and status.", ("path", "status")),
    "reloads": ("Versions that were loaded beside the one before.", ()),
    "reload_failures": ("Versions that could not be loaded.", ()),
}
disable_created_metrics()  # a second series for each, of when it began


class Metrics:
    """Counters and one histogram; threads may add to them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # At once, so that one without labels is 0 before its first event: an alert on its increase needs that.
        self._counters = {
            name: Counter(f"dssm_{name}", says, labels, registry=self._registry)
            for name, (says, labels) in COUNTED.items()
        }
        self._times = Histogram(
            "dssm_request_seconds", "Time of requests, by route.", ["path"], buckets=BUCKETS_S, registry=self._registry
        )

    def add(self, name: str, **labels: Any) -> None:
        """Adds one to a counter of COUNTED."""
        _labelled(self._counters[name], labels).inc()

    def took(self, path: str, seconds: float) -> None:
        """Adds a request's time."""
        self._times.labels(path).observe(seconds)

    def text(self, gauges: Mapping[str, float], info: Mapping[str, str]) -> str:
        """Returns everything as Prometheus reads it.

        Args:
          gauges: values of now, by name.
          info: what is loaded, as labels of a gauge that is 1.
        """
        now = CollectorRegistry()
        for name, value in gauges.items():
            Gauge(f"dssm_{name}", "Of what is loaded.", registry=now).set(value)
        _labelled(Gauge("dssm_loaded", "What is loaded.", list(info), registry=now), info).set(1)
        return (generate_latest(self._registry) + generate_latest(now)).decode()


def _labelled(metric: _Metric, labels: Mapping[str, Any]) -> _Metric:
    return metric.labels(**labels) if labels else metric  # without any the library refuses the call
