from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from benchmarks import retrieve as bench

USERS, ITEMS = 70, 9000  # a block of items and a part of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("retrieve")
    bench.write(str(made), USERS, ITEMS, dim=8)
    return str(made)


def test_the_bare_sides_find_the_best_items(folder: str) -> None:
    arrays = bench.mapped(folder)
    users, items = (arrays[name] for name in ("users", "vectors-000000000000"))
    best = np.argsort(-(users @ items.T), axis=1)[:, : bench.COUNT]
    for side in (bench.merged, bench.partitioned):
        assert (side(users, folder) == best).mean() > 0.99  # but for sums in another order
    bench.check(folder)


def test_a_side_that_finds_other_items_is_an_error(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "partitioned", lambda users, folder: np.zeros((len(users), bench.COUNT), np.int64))
    with pytest.raises(RuntimeError, match=r"argpartition of each block: 0\.\d% of the best items"):
        bench.check(folder)


def test_every_side_ranks_for_all_users(folder: str) -> None:
    blocks = bench.blocks_of(USERS)
    found = bench.costs(lambda side: [bench.measure(side, folder, blocks)], USERS, rounds=1)
    assert list(found) == [bench.OURS, bench.MERGED, bench.PARTITIONED, bench.PRODUCT]
    assert all(cost.wall_s > 0 for cost in found.values())
    with pytest.raises(RuntimeError, match=r"evaluate's task.*: 3 users of 70 ranked for"):
        bench.costs(lambda side: [(1, 0.1), (2, 0.1)], USERS, rounds=1)


def test_ours_is_held_against_the_faster_bare_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    found = dict(zip(bench.SIDES, map(bench.Cost, (4.0, 3.0, 12.0, 2.0), (8.0, 6.0, 24.0, 4.0)), strict=True))
    given = argparse.Namespace(users=1000, items=2_000_000, dim=128, processes=2, rounds=1)
    bench.show(found, given, keep=True)
    kept = json.loads((tmp_path / "retrieve.json").read_text())
    assert kept["ratios"] == {"vs_blas": 0.75, "vs_product_alone": 0.5}
    assert kept["rows"][0][1:] == ["250", "4.00", "1.00"]
    assert "vs_blas: 0.75" in capsys.readouterr().out
