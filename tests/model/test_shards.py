"""Rows spread over ranks, for any number of ranks and rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from dssm.model.shards import Shard, resliced

RANKS, ROWS = integers(1, 9), integers(0, 60)


def split(table: np.ndarray, ranks: int) -> list[np.ndarray]:
    return [table[rank::ranks] for rank in range(ranks)]


@given(rows=ROWS, ranks=RANKS)
def test_every_row_is_held_once_and_no_rank_holds_two_more_than_another(rows: int, ranks: int):
    held = [Shard(rank, ranks).rows(rows) for rank in range(ranks)]
    assert sum(held) == rows
    assert max(held) - min(held) <= 1
    assert max(held) == Shard(0, ranks).capacity(rows)


@given(rows=ROWS, ranks=RANKS, block=integers(1, 20))
def test_blocks_of_rows_make_the_table_and_the_shards(rows: int, ranks: int, block: int):
    table = np.arange(rows)
    for rank in range(ranks):
        shard, found = Shard(rank, ranks), np.full(Shard(rank, ranks).rows(rows), -1)
        for start in range(0, rows, block):
            stop = min(start + block, rows)
            of_block, of_shard = shard.within(start, stop)
            found[of_shard] = table[start:stop][of_block]
        np.testing.assert_array_equal(found, table[rank::ranks])


@given(rows=ROWS, before=RANKS, after=RANKS)
def test_shards_of_any_number_become_those_of_another(rows: int, before: int, after: int):
    table = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    for rank in range(after):
        made = resliced(iter(split(table, before)), before, rows, Shard(rank, after))
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, table[rank::after])
        state = resliced(split(table[:, 0], before), before, rows, Shard(rank, after))  # one number a row
        np.testing.assert_array_equal(state, table[rank::after, 0])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, 3, 2), "found 3 shards, expected 4"),
        ((4, 4, 3, 2), "shard 0 of 4: found 4 rows, expected 3 of 10"),
        ((), "found 0 shards, expected 4"),
        ((3, 3, 2, 2, 2), "shard 4 of 4: found 2 rows, expected 0 of 10"),
    ],
)
def test_shards_that_are_not_a_tables_are_refused(lengths: tuple[int, ...], message: str):
    shards = [np.zeros((length, 2)) for length in lengths]
    with pytest.raises(ValueError, match=message):
        resliced(shards, 4, 10, Shard())
