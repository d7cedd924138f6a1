"""Sharded tables in one process; `test_ranks.py` has what several ranks do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dssm.checks import check_placement
from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import UNKNOWN_ID
from dssm.manifest import WEIGHT
from dssm.model.sharded import HeldRows, held_rows
from dssm.model.shards import Shard
from dssm.model.towers import TwoTowers, build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import Model, Train
from dssm.sections.model import EmbeddingTables
from dssm.train.sharding import gathered_blocks, shard_states, shared_variables, whole_towers
from dssm.train.step import make_optimizer, make_step
from tests.datasets import NEGATIVE_KINDS, SIZES, VECTORS, make_rows, make_settings
from tests.model.tiny import vectors_of
from tests.train.tiny import make_negatives

pytestmark = pytest.mark.usefixtures("single_rank")

SHARDED = {"placement": "sharded", "min_rows": 12}  # of 20, 12 and 7 rows
EVERY = {**SHARDED, "min_rows": 1}
HOW = {"negatives": NEGATIVE_KINDS, "loss": "weighted_bce", "optimizer": "lazy_adam", "learning_rate": 0.05}


def _settings(embedding: dict[str, Any] | None = None, **how: Any) -> Settings:
    return make_settings("unused", model={"embedding": embedding or {}}, **{**HOW, **how})


def _towers(settings: Settings, shard: Shard | None = None) -> TwoTowers:
    tf.keras.utils.set_random_seed(3)
    return build_towers(settings.model, settings.features, SIZES, settings.vectors, {"post": VECTORS}, shard)


def _model(settings: Settings, shard: Shard | None = None) -> TwoTowerModel:
    return TwoTowerModel(settings.model, settings.train.loss, _towers(settings, shard))


def _copy(source: TwoTowers, target: TwoTowers, shard: Shard) -> None:
    """Gives towers the weights of others with whole tables."""
    spread = {id(table.embeddings) for table in target.sharded}
    for new, old in zip(target.variables, source.variables, strict=True):
        assert new.name == old.name
        new.assign(old[shard.rank :: shard.ranks] if id(new) in spread else old)


@pytest.mark.slow
def test_with_one_rank_a_sharded_model_is_the_replicated_one():
    whole, sharded = _settings(), _settings(EVERY)
    models = [_model(whole), _model(sharded)]
    _copy(models[0].towers, models[1].towers, Shard())
    assert [len(model.towers.sharded) for model in models] == [0, 3]
    batch = {name: tf.constant(values) for name, values in make_rows(whole, 8, seed=1).items()}
    found = []
    for settings, model in zip((whole, sharded), models, strict=True):
        optimizer = make_optimizer(settings.train, 5, model)
        step = make_step(settings, model, optimizer, make_negatives(settings))
        losses = [float(step(batch, {})["loss"]) for _ in range(5)]
        assert losses[-1] < losses[0]
        found.append((losses, [v.numpy() for v in (*model.variables, *optimizer.variables)]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_tables_below_min_rows_stay_whole():
    model = _model(_settings(SHARDED), Shard(1, 3))
    assert {t.name: t.embeddings.shape.as_list() for t in model.towers.tables.values()} == {
        "embedding_user_id": [4, 4],
        "embedding_item_id": [7, 4],  # rows 1, 4, … 19
        "embedding_topic_id": [7, 3],
    }
    assert {t.name: t.columns for t in model.towers.sharded} == {
        "embedding_user_id": ("user_id",),
        "embedding_item_id": ("clicked", "item_id"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "slots"), [("lazy_adam", 2), ("rowwise_adagrad", 1), ("sgd", 0), ("rmsprop", 1)])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_ranks_memory_for_tables_and_their_state_falls_with_the_number_of_ranks(
    ranks: int, optimizer: str, slots: int
):
    settings = _settings(SHARDED, optimizer=optimizer)
    held, whole = 0, 0
    for rank in range(ranks):
        model = _model(settings, Shard(rank, ranks))
        state = make_optimizer(settings.train, 5, model)
        found = shard_states(model, state)
        assert len(found) == 2 * (1 + slots)
        for part in found:
            assert part.variable.shape[0] == len(range(rank, part.rows, ranks))
            held += part.variable.numpy().nbytes
            whole += part.variable.numpy()[:1].nbytes * part.rows
        shared = {id(variable) for variable in shared_variables(model, state)}
        every = {id(v) for v in (*model.variables, *state.variables)}
        assert every - shared == ({id(part.variable) for part in found} if ranks > 1 else set())
    assert held == whole / ranks > 0  # all ranks' rows are the table once


def test_a_tower_whose_rows_are_at_hand_gives_the_vectors_of_a_whole_one():
    whole, shard = _towers(_settings()), Shard(1, 3)
    sharded = _towers(_settings(EVERY), shard)
    _copy(whole, sharded, shard)
    rows = make_rows(_settings(), 6, seed=2)
    held = {}
    for vocabulary, table in sharded.tables.items():
        ids = tf.argsort(table.keys(tf.range(table.rows)))
        keys = tf.sort(table.keys(tf.range(table.rows)))
        held[table.name] = HeldRows(keys, tf.gather(whole.tables[vocabulary].embeddings, ids))
    for name in ("user", "item"):
        expected = vectors_of(getattr(whole, name), rows)
        with held_rows(held):
            np.testing.assert_allclose(vectors_of(getattr(sharded, name), rows), expected, rtol=1e-6, atol=1e-7)
        with pytest.raises(RuntimeError, match="were not fetched"):
            vectors_of(getattr(sharded, name), rows)


def test_one_ranks_table_is_whole():
    settings = _settings(EVERY)
    towers = _towers(settings)
    assert whole_towers(settings, towers) is towers
    table = towers.tables["item_id"]
    blocks = list(gathered_blocks(table.embeddings, table.rows, table.shard, block_rows=8))
    assert [start for start, _ in blocks] == [0, 8, 16]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), table.embeddings)


def test_padding_alone_moves_nothing():
    settings = _settings(EVERY)
    model = _model(settings)
    rows = make_rows(settings, 4)
    batch = {name: tf.constant(np.zeros_like(values)) for name, values in rows.items()}
    batch["user_id"] = tf.fill([4], UNKNOWN_ID)
    before = [table.numpy() for table in model.towers.embeddings]
    step = make_step(settings, model, make_optimizer(settings.train, 5, model), make_negatives(settings))
    assert not batch[WEIGHT].numpy().any()
    assert float(step(batch, {})["loss"]) == 0
    for table, old in zip(model.towers.embeddings, before, strict=True):
        np.testing.assert_array_equal(table, old)


def test_min_rows_goes_with_sharded():
    assert EmbeddingTables(placement="sharded").shards(100_000)
    assert not EmbeddingTables(placement="sharded").shards(99_999)
    assert not EmbeddingTables().shards(10**9)
    with pytest.raises(ValueError, match="min_rows: goes with placement: sharded"):
        EmbeddingTables(min_rows=5)


def test_shards_need_ranks_that_stay():
    sharded, elastic = Model(embedding=EmbeddingTables(placement="sharded")), Train(launch="spark-elastic")
    with pytest.raises(UserError, match=r"placement: sharded, but train\.elastic goes on"):
        check_placement(sharded, elastic)
    check_placement(sharded, Train())
    check_placement(Model(), elastic)
