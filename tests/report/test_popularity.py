from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.report.figures import POPULARITY_GROUPS
from dssm.report.popularity import item_positives, popularity, popularity_groups
from tests.report.handmade import item, sample, write_run


def test_the_popularity_curve() -> None:
    found = popularity(np.array([0, 4, 20, 10, 6, 0, 0, 0, 0, 0]))
    assert (found.items, found.never, found.half) == (10, 6, 1)
    assert (found.top_1_percent, found.top_10_percent) == (0.5, 0.5)
    assert (found.ranks, found.counts) == ([1, 2, 3, 4], [20, 10, 6, 4])
    assert dict(zip(POPULARITY_GROUPS, found.items_by_group, strict=True)) == {
        "top 1 %": 1, "1 to 10 %": 0, "10 to 50 %": 3, "50 to 100 %": 0, "no positive": 6,
    }  # fmt: skip
    assert found.positives_by_group == [20, 0, 20, 0, 0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300).filter(any))
def test_the_groups_are_those_of_the_ranks(counts: list[int]) -> None:
    groups, found = popularity_groups(np.array(counts)), popularity(np.array(counts))
    ranked = sorted(range(len(counts)), key=lambda place: (-counts[place], place))
    for rank, place in enumerate(ranked):
        limit = [np.ceil(len(counts) * share) for share in (0.01, 0.1, 0.5, 1)]
        assert groups[place] == (4 if not counts[place] else sum(rank >= edge for edge in limit))
    descending = np.sort(counts)[::-1]
    assert found.top_10_percent == pytest.approx(descending[: int(np.ceil(len(counts) / 10))].sum() / sum(counts))
    assert descending[: found.half].sum() >= sum(counts) / 2 > descending[: found.half - 1].sum()
    assert found.ranks[-1] == sum(count > 0 for count in counts)


def test_no_item_has_a_positive() -> None:
    found = popularity(np.zeros(3, np.int64))
    assert (found.never, found.half, found.ranks, found.top_1_percent) == (3, 0, [], 0.0)


def test_positives_stand_by_item_index(tmp_path: Path) -> None:
    items = [item(2, 25), item(0, 75), item(1)]
    assert item_positives(write_run(tmp_path, [[sample()]], items=items)).tolist() == [75, 0, 25]
