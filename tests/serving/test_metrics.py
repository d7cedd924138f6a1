from __future__ import annotations

from dssm.serving.metrics import Metrics


def test_the_text_is_prometheus() -> None:
    metrics = Metrics()
    for status in (200, 200, 422):
        metrics.add("requests", path="/recommend", status=status)
    for seconds in (0.0005, 0.001, 0.03, 9.0):
        metrics.took("/recommend", seconds)
    metrics.add("reloads")
    lines = metrics.text({"items": 5_000_001}, {"version": 'a"b\\c\nd'}).splitlines()
    for line in (
        "# TYPE dssm_requests_total counter",
        'dssm_requests_total{path="/recommend",status="200"} 2',
        'dssm_requests_total{path="/recommend",status="422"} 1',
        "dssm_reloads_total 1",
        'dssm_request_seconds_bucket{path="/recommend",le="0.001"} 2',
        'dssm_request_seconds_bucket{path="/recommend",le="0.05"} 3',
        'dssm_request_seconds_bucket{path="/recommend",le="2.5"} 3',
        'dssm_request_seconds_bucket{path="/recommend",le="+Inf"} 4',
        'dssm_request_seconds_sum{path="/recommend"} 9.031500',
        'dssm_request_seconds_count{path="/recommend"} 4',
        "dssm_items 5000001",
        'dssm_loaded{version="a\\"b\\\\c\\nd"} 1',
    ):
        assert line in lines
    assert sum(line.startswith("# TYPE") for line in lines) == len(
        {line for line in lines if line.startswith("# TYPE")}
    )
