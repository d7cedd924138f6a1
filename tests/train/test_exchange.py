"""The choice between sparse and dense gradients, and its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from dssm.model.shards import Shard
from dssm.model.towers import build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.train.exchange import exchange_of
from dssm.train.traffic import TableUse, plan_exchange
from tests.datasets import NEGATIVE_KINDS, SIZES, VECTORS, make_settings
from tests.train.tiny import make_model

USES = {
    "small": TableUse("small", rows=50, dim=15, lookups=5_000),
    "large": TableUse("large", rows=1_000_000, dim=15, lookups=5_000),
    "one": TableUse("one", rows=1, dim=15, lookups=5_000),
}


def test_bytes_that_a_rank_receives_a_step():
    """With 16 numbers of 4 bytes a row: 15 and the id."""
    plan = plan_exchange(USES.values(), ["large"], weights=1_000, ranks=4)
    small, large, one = plan.tables
    distinct = 1_000_000 * (1 - 0.999999**5_000)  # nearly all of the look-ups find other rows
    assert 4_980 < distinct < 5_000
    assert (small.way, large.way, one.way) == ("dense", "sharded", "dense")
    assert small.bytes_by == {"sparse": pytest.approx(3 * 50 * 64), "dense": pytest.approx(1.5 * 50 * 64)}
    assert large.bytes_by == {"sharded": pytest.approx(0.75 * distinct * (4 + 60 + 64), rel=1e-6)}
    assert one.use.distinct == 1
    assert plan.weight_bytes == 1.5 * 1_000 * 4
    assert plan.expected_bytes == pytest.approx(6_000 + 4_800 + 0.75 * distinct * 128 + 96, rel=1e-6)
    assert plan.dense == {"small", "one"}
    replicated = plan_exchange([USES["large"]], [], weights=0, ranks=4).tables[0]
    assert replicated.bytes_by["sparse"] == pytest.approx(3 * distinct * 64, rel=1e-6)


@given(rows=integers(1, 10**7), dim=integers(1, 300), lookups=integers(0, 10**6), ranks=integers(2, 65))
def test_a_table_goes_dense_where_a_rank_looks_up_more_than_its_share(rows: int, dim: int, lookups: int, ranks: int):
    use = TableUse("t", rows, dim, lookups)
    assert 0 <= use.distinct <= min(lookups, rows) * (1 + 1e-9)
    (table,) = plan_exchange([use], [], 0, ranks).tables
    assert table.expected_bytes == min(table.bytes_by.values())
    share = use.distinct / rows
    if abs(share - 2 / ranks) > 1e-6:
        assert table.way == ("dense" if share > 2 / ranks else "sparse")


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_even_draws_find_the_expected_rows_and_uneven_ones_fewer(power: float):
    rows, lookups, random = 300, 400, np.random.default_rng(2)
    chances = 1 / np.arange(1, rows + 1) ** power
    drawn = [len(set(random.choice(rows, lookups, p=chances / chances.sum()))) for _ in range(300)]
    expected = TableUse("t", rows, 4, lookups).distinct
    if power:
        assert np.mean(drawn) < 0.8 * expected
    else:
        assert np.mean(drawn) == pytest.approx(expected, rel=0.01)


def test_one_rank_receives_nothing():
    plan = plan_exchange(USES.values(), [], weights=1_000, ranks=1)
    assert plan.expected_bytes == 0
    assert [table.way for table in plan.tables] == ["sparse"] * 3


def test_look_ups_are_those_of_a_ranks_step():
    """A batch of 4 users and, with 3 negatives each, 16 items; `clicked` has 5 items, `liked` 4 topics."""
    settings = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce")
    model = make_model(settings)
    plan = exchange_of(settings, model, ranks=2)
    found = {table.use.name: (table.use.rows, table.use.dim, table.use.lookups) for table in plan.tables}
    assert found == {
        "embedding_user_id": (12, 4, 4),
        "embedding_item_id": (20, 4, 16 + 4 * 5),
        "embedding_topic_id": (7, 3, 16 + 4 * 4),
    }
    tables = sum(rows * dim for rows, dim, _ in found.values())
    assert plan.weights == sum(int(np.prod(v.shape)) for v in model.trainable_variables) - tables
    mixed = make_settings("unused", loss={"kind": "mixed_negative", "uniform": 9})
    of_mixed = exchange_of(mixed, make_model(mixed), ranks=2).tables
    assert {t.use.name: t.use.lookups for t in of_mixed}["embedding_item_id"] == 4 + 9 + 4 * 5


def test_sharded_tables_are_told_by_their_placement():
    settings = make_settings("unused", model={"embedding": {"placement": "sharded", "min_rows": 12}})
    towers = build_towers(settings.model, settings.features, SIZES, settings.vectors, {"post": VECTORS}, Shard(1, 3))
    plan = exchange_of(settings, TwoTowerModel(settings.model, settings.train.loss, towers), ranks=3)
    found = {table.use.name: (table.use.rows, table.way == "sharded") for table in plan.tables}
    assert found == {
        "embedding_user_id": (12, True), "embedding_item_id": (20, True), "embedding_topic_id": (7, False),
    }  # fmt: skip


def test_the_choice_is_shown_with_its_arithmetic():
    plan = plan_exchange(USES.values(), ["large"], weights=1_000, ranks=4)
    header, small, large, _, weights, together = plan.rows()
    assert len({len(row) for row in plan.rows()}) == 1
    assert dict(zip(header, small, strict=True)) == {
        "table": "small", "rows × dim": "50 × 15", "look-ups": "5,000", "expected rows": "≤ 50",
        "sparse": "9.60 kB", "dense": "4.80 kB", "goes": "dense, 4.80 kB",
    }  # fmt: skip
    assert large[4:] == ("–", "–", "sharded, 479 kB")
    assert (weights[0], weights[-1], together[-1]) == ("other weights", "dense, 6.00 kB", "490 kB")


def test_a_forced_way_is_taken():
    plan = plan_exchange(USES.values(), [], weights=0, ranks=4)
    assert plan.dense == {"small", "one"}
    forced = plan.forced({"small": "sparse", "large": "dense"})
    assert forced.dense == {"large", "one"}
    assert forced.tables[0].expected_bytes == plan.tables[0].bytes_by["sparse"]
