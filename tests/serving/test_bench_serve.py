"""The load test's own parts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import serve as bench
from dssm.paths import RunPaths


@pytest.mark.slow
def test_the_command_answers_every_kind_of_request_until_it_is_told_to_end(
    served: RunPaths, kept_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = bench.requests_of(served)
    with bench.service(served, "exact") as url:
        assert bench.health(url)["version"] == "v1"
        apart = bench.in_a_process(url, requests[bench.RAW], 2, 5, 30.0)
        monkeypatch.setattr(bench, "in_a_process", bench.load)  # a process takes seconds to start
        given = argparse.Namespace(requests=12, seconds=30.0, rounds=2)
        found = bench.measured(url, requests, given)
        none = bench.load(url, requests[bench.KNOWN], 2, 100, -1.0)  # no time is left
        missing = bench.load(url, [("GET", "/similar?item=gone", None)], 1, 3, 30.0)
    assert len(found) == len(requests) * len(bench.CLIENTS)
    assert (len(apart["times"]), apart["failed"]) == (5, 0)
    assert {(len(of["times"]), of["failed"]) for of in found.values()} == {(24, 0)}
    assert all(0 < time < of["wall_s"] for of in found.values() for time in of["times"])
    assert (none["times"], missing["failed"]) == ([], 3)
    bench.show(found, {"items": 15}, "exact", keep=True)
    kept = json.loads((kept_in / "serve.json").read_text())
    of_known = kept["figures"][f"{bench.KNOWN}, 1 client"]
    assert 0 < of_known["p50_ms"] <= of_known["p99_ms"]
    assert set(kept["ratios"]) == {"raw_features_vs_known_user"}
    assert "p99 ms" in capsys.readouterr().out
