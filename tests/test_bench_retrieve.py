from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

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


def test_the_sides_take_turns(folder: str) -> None:
    blocks = [slice(0, 30), slice(30, 60), slice(60, USERS)]
    found = bench.costs(lambda side, turn: [bench.measure(side, folder, turn)], blocks, per_turn=2)
    assert list(found) == [bench.OURS, bench.MERGED, bench.PARTITIONED, bench.PRODUCT]
    users = {side: cost.users for side, cost in found.items()}
    assert (users[bench.OURS], users[bench.PRODUCT]) == (70, 60)
    assert sorted(users[side] for side in bench.BARE) == [60, 70]  # the faster one's rest may make it the slower one
    assert all(cost.wall_s > 0 and cost.cpu_s > 0 for cost in found.values())
    with pytest.raises(RuntimeError, match=r"evaluate's task.*: 3 users of 60 ranked for"):
        bench.costs(lambda side, turn: [(1, 0.1), (2, 0.1)], blocks, per_turn=2)


def test_ours_is_held_against_the_faster_bare_side(kept_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = ((1000, 4.0, 8.0), (1000, 3.0, 6.0), (500, 6.0, 12.0), (500, 1.0, 2.0))
    costs = [bench.Cost(*of_side) for of_side in seconds]
    given = argparse.Namespace(users=1000, items=2_000_000, dim=128, processes=2)
    bench.show(dict(zip(bench.SIDES, costs, strict=True)), given, keep=True)
    kept = json.loads((kept_in / "retrieve.json").read_text())
    assert kept["ratios"] == {"vs_blas": 0.75, "vs_product_alone": 0.5}
    assert kept["rows"][0][1:] == ["1,000", "250", "4.00", "1.00"]
    assert kept["rows"][2][1:] == ["500", "83", "12.00", "3.00"]
    assert "vs_blas: 0.75" in capsys.readouterr().out
