"""Answers of one version that is made by hand: norms that differ, items that are seen, indexes that find too few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm import published
from dssm.paths import RunPaths
from dssm.retrieval.index import index_items
from dssm.retrieval.sinks.faiss import in_memory
from dssm.sections.indexing import FaissFlat, FaissHnsw, FaissIvf
from dssm.serving.loaded import ItemIndex, Loaded, SeenItems, _users, find_target
from dssm.serving.lookup import Lookup
from dssm.serving.search import ExactIndex
from tests.retrieval.test_index import publish, settings_of
from tests.serving.tables import unit_rows, write_model_manifest, write_published

ITEMS = 60
IDS = pa.array([f"i{place}" for place in range(ITEMS)])
UNIT = unit_rows(ITEMS, 4)
MATRIX = UNIT * np.linspace(0.5, 2, ITEMS, dtype=np.float32)[:, None]
FAR_APART = UNIT * np.geomspace(1e-3, 1e3, ITEMS, dtype=np.float32)[::-1, None]
QUERY = unit_rows(1, 4, seed=6)[0]


def loaded(matrix: np.ndarray = MATRIX, norm: float | None = None) -> Loaded:
    nothing: Any = None
    seen = SeenItems(Lookup(pa.array(["b", "a"])), np.array([0, 2, 5]), np.array([7, 8, 1, 2, 3]))
    return Loaded(
        manifest=nothing, norm=norm, tower=nothing, rescorer=None, indexes={None: ExactIndex(IDS, matrix)},
        items=Lookup(IDS), users=Lookup(pa.array(["u"])), user_vectors={None: QUERY[None]}, seen=seen, titles=nothing,
        request=nothing, index_says="",
    )  # fmt: skip


@given(count=st.integers(1, 80), without=st.sets(st.integers(0, ITEMS - 1)))
def test_what_is_left_out_makes_no_answer_shorter(count: int, without: set[int]) -> None:
    found = loaded().top(QUERY, count, None, np.array(sorted(without), np.int64))
    scores = MATRIX @ QUERY
    expected = [place for place in np.argsort(-scores).tolist() if place not in without][:count]
    assert found.places.tolist() == expected
    np.testing.assert_allclose(found.scores, scores[expected], atol=1e-6)


def test_what_a_user_has_seen() -> None:
    seen = loaded().seen
    assert [seen.of(user).tolist() for user in ("a", "b", "c")] == [[1, 2, 3], [7, 8], []]


INDEXES: dict[str, Callable[[np.ndarray], ItemIndex]] = {
    "exact": lambda matrix: ExactIndex(IDS, matrix),
    "flat": lambda matrix: in_memory(FaissFlat(), IDS, matrix),
    "lists": lambda matrix: in_memory(FaissIvf(lists=5), IDS, matrix),
    "graph": lambda matrix: in_memory(FaissHnsw(), IDS, matrix),
}


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize(("matrix", "norm"), [(UNIT, 1.0), (3 * UNIT, 3.0), (MATRIX, None), (FAR_APART, None)])
def test_similar_items_are_by_cosine_whatever_the_norms(
    kind: str, matrix: np.ndarray, norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dssm.serving.loaded.ITEMS_AT_ONCE", 7)
    cosines = UNIT @ UNIT[5]
    expected = [place for place in np.argsort(-cosines).tolist() if place != 5]
    made = Loaded(**{**vars(loaded(matrix, norm)), "indexes": {None: INDEXES[kind](matrix)}})
    for count in (1, 3, ITEMS):
        found = made.similar(5, count, None)
        assert found.places.tolist() == expected[:count]
        np.testing.assert_allclose(found.scores, cosines[expected[:count]], rtol=1e-4, atol=1e-6)


def test_an_item_without_a_direction_is_like_no_other() -> None:
    zero = MATRIX.copy()
    zero[5] = 0
    assert loaded(zero).similar(5, 3, None).scores.tolist() == [0, 0, 0]
    found = loaded(zero).similar(4, ITEMS, None)
    assert found.scores[found.places == 5].tolist() == [0]


def test_an_index_that_finds_too_few() -> None:
    class Poor(ExactIndex):
        def places(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            places, scores = super().places(queries, count)
            places[:, 3:], scores[:, 3:] = -1, -np.inf
            return places, scores

    made = loaded()
    poor = Loaded(**{**vars(made), "indexes": {None: Poor(IDS, MATRIX)}})
    found = poor.top(QUERY, 10, None, np.zeros(0, np.int64))
    assert len(found.places) == 3
    assert [set(row) for row in poor.told(found)] == [{"item", "score"}] * 3


# What is read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a description that is cut off", "an index that is gone"])
def test_a_damaged_index_is_none_which_is_said_once(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path, {"mine": {"kind": "faiss", "index": "flat"}})
    publish(settings, "v1")
    report = index_items(settings)
    assert report is not None
    asked = (settings.table_location, str(Path(settings.run_folder).parent), "faiss")
    target = find_target(*asked)  # type: ignore[arg-type]
    assert target is not None
    assert target.made == ((None, report.sinks[0].place),)
    folder = Path(report.sinks[0].place)
    if damage == "an index that is gone":
        (folder / "index.faiss").unlink()
    else:
        (folder / "index.json").write_text('{"rows"')
    capsys.readouterr()
    for told in (True, False):
        target = find_target(*asked)  # type: ignore[arg-type]
        assert target is not None
        assert target.made == ()
        shown = " ".join(capsys.readouterr().out.split())
        assert ("index_items builds it anew; until then the service makes its own" in shown) == told
    index_items(settings)
    target = find_target(*asked)  # type: ignore[arg-type]
    assert target is not None
    assert target.made == ((None, str(folder)),)


def test_the_users_of_all_objectives_are_of_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version is published while the first objective's vectors are read."""
    paths, date, location = RunPaths(f"{tmp_path}/tiny/2024-01-08"), "2024-01-08", f"{tmp_path}/users"
    model = write_model_manifest(paths, date, 4)

    def publish_users(version: str, users: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        both, own = unit_rows(users, 4, seed), unit_rows(users, 3, seed + 1)
        ids = [f"{version} {number}" for number in range(users)]
        write_published(location, date, version, "user", ids, both, objectives={"like": own})
        return both, own

    first = publish_users("v1", 5, seed=1)
    published.write_run_tables(paths.folder, {"users": location})
    batches = published.batches

    def republished(version: published.Published, objective: str | None = None) -> Iterator[Any]:
        yield from batches(version, objective)
        if objective is None:
            publish_users("v2", 6, seed=3)

    monkeypatch.setattr(published, "batches", republished)
    ids, vectors = _users(paths, model, [None, "like"])
    assert ids.to_pylist() == [f"v1 {number}" for number in range(5)]
    np.testing.assert_array_equal(vectors[None], first[0])
    np.testing.assert_array_equal(vectors["like"], first[1])
