"""Counts and times of requests, in Prometheus' text format."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and one histogram; threads may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = defaultdict(float)
        self._times: dict[Labels, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))
        self._seconds: dict[Labels, float] = defaultdict(float)

    def add(self, name: str, **labels: Any) -> None:
        """Adds one to a counter."""
        with self._lock:
            self._counts[name, _labels(labels)] += 1

    def took(self, path: str, seconds: float) -> None:
        """Adds a request's time."""
        labels = _labels({"path": path})
        with self._lock:
            self._times[labels][bisect.bisect_left(BUCKETS_S, seconds)] += 1
            self._seconds[labels] += seconds

    def text(self, gauges: Mapping[str, float], info: Mapping[str, str]) -> str:
        """Returns everything as Prometheus reads it.

        Args:
          gauges: values of now, by name.
          info: what is loaded, as labels of a gauge that is 1.
        """
        return "\n".join(self._lines(gauges, info)) + "\n"

    def _lines(self, gauges: Mapping[str, float], info: Mapping[str, str]) -> Iterator[str]:
        with self._lock:
            counts, seconds = sorted(self._counts.items()), dict(self._seconds)
            times = {labels: list(of) for labels, of in sorted(self._times.items())}
        for name in dict.fromkeys(name for (name, _), _ in counts):
            yield f"# TYPE dssm_{name}_total counter"
            of_name = ((labels, value) for (known, labels), value in counts if known == name)
            yield from (f"dssm_{name}_total{_braces(labels)} {value:.15g}" for labels, value in of_name)
        yield "# TYPE dssm_request_seconds histogram"
        for labels, found in times.items():
            total = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), found, strict=True):
                total += count
                yield f"dssm_request_seconds_bucket{_braces((*labels, ('le', bound)))} {total}"
            yield f"dssm_request_seconds_sum{_braces(labels)} {seconds[labels]:.6f}"
            yield f"dssm_request_seconds_count{_braces(labels)} {total}"
        for name, value in gauges.items():
            yield f"# TYPE dssm_{name} gauge"
            yield f"dssm_{name} {value:.15g}"
        yield "# TYPE dssm_loaded gauge"
        yield f"dssm_loaded{_braces(_labels(info))} 1"


def _labels(labels: Mapping[str, Any]) -> Labels:
    return tuple((name, str(value)) for name, value in labels.items())


def _braces(labels: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}" if labels else ""
