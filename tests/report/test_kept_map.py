from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dssm.report import kept_map
from dssm.report.kept_map import kept_layout
from tests.report.full_run import clustered_vectors


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all maps that were really laid out."""
    seeds: list[int] = []
    layout = kept_map.layout

    def noting(vectors: np.ndarray, seed: int) -> np.ndarray | None:
        seeds.append(seed)
        return layout(vectors, seed)

    monkeypatch.setattr(kept_map, "layout", noting)
    return seeds


def test_a_map_is_laid_out_once_and_drawn_the_same_again(tmp_path: Path, laid_out: list[int]) -> None:
    vectors, path = clustered_vectors(), str(tmp_path / "run" / "map.json")
    first, again = (kept_layout(path, vectors, 3) for _ in range(2))
    assert first is not None
    assert again is not None
    assert laid_out == [3]
    assert first.shape == (len(vectors), 2)
    assert (first == again).all()


def test_other_vectors_another_seed_and_another_way_are_laid_out_anew(
    tmp_path: Path, laid_out: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, path = clustered_vectors(), str(tmp_path / "map.json")
    kept_layout(path, vectors, 3)
    moved = vectors.copy()
    moved[0] += 1
    kept_layout(path, moved, 3)
    kept_layout(path, moved, 4)
    monkeypatch.setattr(kept_map, "HOW", (*kept_map.HOW, "other"))
    kept_layout(path, moved, 4)
    kept_layout(path, moved, 4)
    assert laid_out == [3, 3, 4, 4]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"of": 1}', "\udcff"])
def test_a_file_that_is_no_map_is_replaced(tmp_path: Path, laid_out: list[int], content: str) -> None:
    vectors, path = clustered_vectors(), tmp_path / "map.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    kept_layout(str(path), vectors, 3)
    kept_layout(str(path), vectors, 3)
    assert laid_out == [3]


def test_what_has_no_map_leaves_no_file(tmp_path: Path) -> None:
    assert kept_layout(str(tmp_path / "map.json"), np.ones((50, 4), np.float32), 0) is None
    assert list(tmp_path.iterdir()) == []
