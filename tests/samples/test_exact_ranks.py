"""Ranks by inner product against a sort, and their independence of the queries beside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.samples import exact_ranks
from dssm.samples.exact_ranks import top_ranks


def ranked_by_hand(query: Sequence[float], vectors: Sequence[Sequence[float]], items: Sequence[int]) -> list[int]:
    score = {item: sum(q * v for q, v in zip(query, vectors[item], strict=True)) for item in items}
    return sorted(items, key=lambda item: (-score[item], item))


SMALL = st.integers(-3, 3)


@settings(deadline=None)
@given(st.data())
def test_top_ranks_are_those_of_a_sort(data: st.DataObject) -> None:
    width, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    vector = st.lists(SMALL, min_size=width, max_size=width)
    vectors = data.draw(st.lists(vector, min_size=size, max_size=size))
    queries = data.draw(st.lists(vector, min_size=1, max_size=5))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    first = data.draw(st.integers(1, 14))
    last = data.draw(st.integers(first, 15))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_ranks, "SCORES_AT_ONCE", data.draw(st.integers(1, 40)))
        found = top_ranks(np.float32(queries), np.float32(vectors), (first, last), mask)
    assert found.shape == (len(queries), last - first + 1)
    for query, ranked in zip(queries, found.tolist(), strict=True):
        expected = ranked_by_hand(query, vectors, np.flatnonzero(mask).tolist())[first - 1 : last]
        assert ranked == expected + [-1] * (len(ranked) - len(expected))


def test_top_ranks_do_not_depend_on_the_queries_beside() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3000, 100)).astype(np.float32)
    vectors[1::2] = vectors[::2] * np.float32(1 + 2**-23)  # pairs that only the last bit tells apart
    queries = random.standard_normal((37, 100)).astype(np.float32)
    together = top_ranks(queries, vectors, (1, 3000))
    alone = np.concatenate([top_ranks(query[None], vectors, (1, 3000)) for query in queries])
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(top_ranks(1e-20 * queries, vectors, (5, 9)), together[:, 4:9])
    exact = vectors.astype(np.float64) @ queries.astype(np.float64).T
    lost = exact.T[np.arange(37)[:, None], together]
    assert np.diff(lost, axis=1).max() < 1e-5  # in order, but for what rounding to 23 bits makes equal


@pytest.mark.parametrize("width", [1, 2, 64, 100, 128, 768, 5000])
def test_inner_products_of_whole_numbers_are_exact(width: int) -> None:
    random = np.random.default_rng(width)
    vectors = np.vstack([np.full(width, 1.99999), random.standard_normal((3, width))]).astype(np.float32)
    for axis in (None, 1):
        whole = exact_ranks._whole_numbers(vectors, axis)
        scale = whole / vectors
        assert width * int(np.abs(whole).max()) ** 2 <= 2**53
        assert whole.max() > 2**19
        np.testing.assert_array_equal(whole, np.rint(whole))
        np.testing.assert_allclose(scale[0], scale[0, 0])


def test_top_ranks_of_nothing() -> None:
    assert top_ranks(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), (1, 2)).shape == (0, 2)
    assert top_ranks(np.ones((1, 4), np.float32), np.empty((0, 4), np.float32), (1, 2)).tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="finite"):
        top_ranks(np.full((1, 2), np.nan, np.float32), np.ones((3, 2), np.float32), (1, 2))
