"""Tables of which each rank has some rows: their initial values, and look-ups in the rows at hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dssm.model import sharded
from dssm.model.embedding_bag import EmbeddingBag
from dssm.model.sharded import HeldRows, ShardedEmbedding, held_rows, look_up, shapes_alone
from dssm.model.shards import Shard

ROWS, DIM = 50, 3


def _table(rows: int = ROWS, shard: Shard | None = None, seed: int | None = 5, name: str = "embedding_a"):
    table = ShardedEmbedding(rows, DIM, ("a", "b"), 0.25, shard, seed, name=name)
    table.build(())
    return table


def _whole(ranks: int, **how) -> np.ndarray:
    """Returns the table that its shards make."""
    whole = np.full((how.get("rows", ROWS), DIM), np.nan, np.float32)
    for rank in range(ranks):
        whole[rank::ranks] = _table(shard=Shard(rank, ranks), **how).embeddings.numpy()
    return whole


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which the table has several, the last one in part."""
    monkeypatch.setattr(sharded, "BLOCK_ROWS", 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ranks", [2, 3, 7, 64])
def test_initial_rows_do_not_depend_on_the_number_of_ranks(ranks: int):
    np.testing.assert_array_equal(_whole(ranks), _table().embeddings)


@pytest.mark.usefixtures("small_blocks")
def test_initial_rows_are_the_seeds_and_the_tables_own_and_stay_when_it_grows():
    whole = _table().embeddings.numpy()
    assert len(np.unique(whole)) == ROWS * DIM
    np.testing.assert_array_equal(_whole(3, rows=ROWS + 30)[:ROWS], whole)
    for other in (_table(seed=6), _table(name="embedding_b")):
        assert not np.isin(other.embeddings, whole).any()
    assert not _table(seed=None).embeddings.numpy().any()


def test_initial_rows_are_normal():
    values = _table(rows=40_000).embeddings.numpy().ravel()
    assert values.mean() == pytest.approx(0, abs=0.003)
    assert values.std() == pytest.approx(0.25, rel=0.01)
    assert (np.abs(values) < 0.25).mean() == pytest.approx(0.6827, abs=0.005)
    assert (np.abs(values) > 0.75).mean() == pytest.approx(0.0027, abs=0.0006)  # no truncation at 2 deviations


@pytest.mark.parametrize("ranks", [2, 3])
def test_keys_ascend_by_rank_and_by_row_there(ranks: int):
    table = _table(shard=Shard(0, ranks))
    keys = table.keys(tf.range(ROWS)).numpy()
    by_rank = np.concatenate([np.arange(ROWS)[rank::ranks] for rank in range(ranks)])
    assert np.argsort(keys).tolist() == by_rank.tolist()
    capacity = -(-ROWS // ranks)
    assert (keys // capacity).tolist() == (np.arange(ROWS) % ranks).tolist()
    assert (keys % capacity).tolist() == (np.arange(ROWS) // ranks).tolist()


def _held(table: ShardedEmbedding, whole: np.ndarray, ids: list[int]) -> tuple[HeldRows, np.ndarray]:
    keys = table.keys(tf.constant(ids)).numpy()
    order = np.argsort(keys)
    return HeldRows(tf.constant(keys[order]), tf.constant(whole[ids][order])), np.array(ids)[order]


def test_look_ups_in_the_rows_at_hand_are_those_in_the_whole_table():
    whole = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    table = _table(shard=Shard(1, 3))
    held, ids_held = _held(table, whole, [0, 3, 4, 11, 12, 13, 49])
    lists = tf.constant([[4, 49, 0], [11, 4, 13]])
    bag = EmbeddingBag(table, "mean")
    upstream = tf.constant(np.random.default_rng(1).normal(size=(2, DIM)), tf.float32)
    with held_rows({table.name: held}), tf.GradientTape() as tape:
        tape.watch(held.rows)
        np.testing.assert_array_equal(table(lists), whole[lists])
        np.testing.assert_array_equal(look_up(table, tf.constant([12, 3])), whole[[12, 3]])
        loss = tf.reduce_sum(bag(lists) * upstream)
    np.testing.assert_allclose(
        loss, ((whole[[4, 49]].mean(0), whole[[11, 4, 13]].mean(0)) * upstream.numpy()).sum(), 1e-5
    )
    gradient = tape.gradient(loss, held.rows)
    assert isinstance(gradient, tf.IndexedSlices)
    assert sorted(ids_held[gradient.indices]) == [4, 11, 13, 49]  # padding is not looked up


def test_rows_that_were_not_fetched_are_no_zeros():
    table = _table(shard=Shard(0, 2))
    with pytest.raises(RuntimeError, match="embedding_a: its rows lie on 2 ranks and were not fetched"):
        look_up(table, tf.constant([1]))
    with shapes_alone():
        assert table(tf.constant([[1, 2]])).shape == (1, 2, DIM)


def test_one_rank_looks_up_in_its_own_table():
    table = _table()
    np.testing.assert_array_equal(table(tf.constant([[1, 2], [49, 0]])), table.embeddings.numpy()[[[1, 2], [49, 0]]])
