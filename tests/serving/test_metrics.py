from __future__ import annotations

from dssm.serving.metrics import Metrics


def test_what_has_not_happened_is_counted_as_none() -> None:
    """`increase` sees no first failure in a counter that begins with it."""
    lines = Metrics().text({}, {"version": "v1"}).splitlines()
    assert "dssm_reload_failures_total 0.0" in lines
    assert "dssm_reloads_total 0.0" in lines
    assert "# TYPE dssm_requests_total counter" in lines


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
        'dssm_requests_total{path="/recommend",status="200"} 2.0',
        'dssm_requests_total{path="/recommend",status="422"} 1.0',
        "dssm_reloads_total 1.0",
        'dssm_request_seconds_bucket{le="0.001",path="/recommend"} 2.0',
        'dssm_request_seconds_bucket{le="0.05",path="/recommend"} 3.0',
        'dssm_request_seconds_bucket{le="2.5",path="/recommend"} 3.0',
        'dssm_request_seconds_bucket{le="+Inf",path="/recommend"} 4.0',
        'dssm_request_seconds_sum{path="/recommend"} 9.0315',
        'dssm_request_seconds_count{path="/recommend"} 4.0',
        "dssm_items 5.000001e+06",
        'dssm_loaded{version="a\\"b\\\\c\\nd"} 1.0',
    ):
        assert line in lines
    assert not any("_created" in line for line in lines)
    assert sum(line.startswith("# TYPE") for line in lines) == len(
        {line for line in lines if line.startswith("# TYPE")}
    )
