"""Every engine behind the one interface, each real: faiss, Annoy, milvus-lite, a redis-server of the test's own."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dssm import storage
from dssm.errors import UserError
from dssm.retrieval.sinks import VERSION, Place, Sink, Vectors, default_lists, default_probes, ids_at, version_name
from dssm.retrieval.sinks.faiss import in_memory
from dssm.sections.indexing import (
    Annoy,
    Faiss,
    FaissFlat,
    FaissHnsw,
    FaissIndex,
    FaissIvf,
    FaissPq,
    Index,
    Milvus,
    Redis,
    SinkKind,
)
from tests.serving.engines import redis_server
from tests.serving.tables import unit_rows

ROWS, DIM = 300, 8
FIRST, SECOND, THIRD = (version_name(f"2024-01-0{day}", "v1") for day in (1, 2, 3))
QUERIES = unit_rows(20, DIM, seed=9)
Make = Callable[..., Sink]


def vectors_of(matrix: np.ndarray, norm: float | None = 1.0) -> Vectors:
    """Returns rows named item0…, in three batches."""
    ids = pa.array([f"item{place}" for place in range(len(matrix))], pa.string())
    parts = np.array_split(np.arange(len(matrix)), 3)
    return Vectors(
        rows=len(matrix), dim=matrix.shape[1], norm=norm, sample=matrix, facts={"model_version": "m1"},
        batches=lambda: ((ids.take(pa.array(part)), matrix[part]) for part in parts),
    )  # fmt: skip


def exact(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and scores of the best rows for QUERIES."""
    scores = QUERIES @ matrix.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.char.add("item", best.astype(str)), np.take_along_axis(scores, best, axis=1)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


KINDS: dict[str, SinkKind] = {
    "faiss_flat": Faiss(index=FaissFlat()),
    "faiss_ivf": Faiss(index=FaissIvf(lists=4, probes=4)),
    "faiss_hnsw": Faiss(index=FaissHnsw()),
    "faiss_pq": Faiss(index=FaissPq(segments=8, bits=5)),
    "annoy_angular": Annoy(trees=40, search_k=4000),
    "annoy_dot": Annoy(trees=40, search_k=4000, metric="dot"),
    "milvus": Milvus(),
    "redis": Redis(),
}


ENGINES = ["faiss_hnsw", "annoy_angular", "milvus", "redis"]  # one of each


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes sinks of one kind in a place that is the test's own."""
    made: list[Sink] = []

    def sink(**changes: Any) -> Sink:
        settings = KINDS[request.param]
        if isinstance(settings, Redis):
            changes |= {"url": request.getfixturevalue("redis_url"), "prefix": f"test:{tmp_path.name}"}
        settings = settings.model_copy(update=changes)
        made.append(settings.build(Place("mine", "a-pipeline", str(tmp_path / "index"))))
        return made[-1]

    yield sink
    for one in made:
        one.close()


def test_every_sink_of_the_project_is_tested_here() -> None:
    ours = sorted(kind for kind, made in SinkKind.choices.items() if made.__module__.startswith("dssm."))
    assert sorted({settings.kind for settings in KINDS.values()}) == ours
    assert sorted(KINDS[name].kind for name in ENGINES) == ours
    indexes = {settings.index.kind for settings in KINDS.values() if isinstance(settings, Faiss)}
    assert indexes == {kind for kind, made in FaissIndex.choices.items() if made.__module__.startswith("dssm.")}


@pytest.mark.slow
def test_versions_from_the_first_to_the_last(make: Make) -> None:
    sink, versions = make(), [FIRST, SECOND, THIRD]
    assert (sink.versions(), sink.current(), sink.previous()) == ([], None, None)
    for number, version in enumerate(versions):
        matrix = unit_rows(ROWS, DIM, seed=number)
        assert not sink.is_whole(version, ROWS)
        sink.build(version, vectors_of(matrix))
        assert sink.is_whole(version, ROWS)
        assert not sink.is_whole(version, ROWS + 1)
        assert sink.current() == (versions[number - 1] if number else None)  # readers see the one before
        with sink.opened(version) as opened:
            assert opened.count == ROWS
            hits = opened.search(QUERIES, 10)
        ids, scores = exact(matrix, 10)
        assert hits.ids.shape == hits.scores.shape == (len(QUERIES), 10)
        right = np.mean([len(set(found) & set(wanted)) / 10 for found, wanted in zip(hits.ids, ids, strict=True)])
        codes = "pq" in str(getattr(getattr(sink, "settings", None), "index", ""))
        assert right > (0.6 if codes else 0.95)
        np.testing.assert_allclose(hits.scores[:, 0], scores[:, 0], atol=0.3 if codes else 1e-3)
        sink.switch(version)
        sink.switch(version)  # again: nothing changes
        assert sink.current() == version
        assert sink.drop_old() == (versions[:1] if number == 2 else [])
    assert sink.versions() == versions[1:]
    assert sink.previous() == versions[1]
    with sink.opened(versions[1]) as opened:  # the version before is whole
        assert opened.count == ROWS


@pytest.mark.parametrize("make", ENGINES, indirect=True)
def test_what_a_killed_run_left_is_built_anew(make: Make) -> None:
    sink, matrix = make(), unit_rows(ROWS, DIM)

    def broken() -> Iterator[tuple[pa.Array, np.ndarray]]:
        yield pa.array(["item0", "gone"]), matrix[:2]
        raise KeyboardInterrupt

    whole = vectors_of(matrix)
    with pytest.raises(KeyboardInterrupt):
        sink.build(FIRST, Vectors(ROWS, DIM, broken, matrix, 1.0))
    assert not sink.is_whole(FIRST, ROWS)
    assert sink.current() is None
    sink.build(FIRST, whole)
    assert sink.is_whole(FIRST, ROWS)
    with sink.opened(FIRST) as opened:
        assert opened.count == ROWS
        assert "gone" not in opened.search(QUERIES, ROWS).ids


@pytest.mark.parametrize("make", ENGINES, indirect=True)
def test_more_asked_for_than_there_is(make: Make) -> None:
    sink, matrix = make(), unit_rows(200, DIM)
    sink.build(FIRST, vectors_of(matrix))
    with sink.opened(FIRST) as opened:
        hits = opened.search(QUERIES[:2], 250)
    real = hits.ids != None  # noqa: E711  (element by element)
    assert (np.isneginf(hits.scores) == ~real).all()
    for row, is_real in zip(hits.ids, real, strict=True):  # of a graph by inner products some are out of reach
        assert len(set(row[is_real])) == is_real.sum() >= 190


@pytest.mark.parametrize("make", ["faiss_flat", "annoy_dot", "milvus", "redis"], indirect=True)
def test_vectors_of_any_norm_rank_by_inner_product(make: Make) -> None:
    matrix = unit_rows(ROWS, DIM) * np.random.default_rng(1).uniform(0.2, 3, (ROWS, 1)).astype(np.float32)
    sink = make()
    sink.build(FIRST, vectors_of(matrix, norm=None))
    with sink.opened(FIRST) as opened:
        hits = opened.search(QUERIES, 5)
    ids, scores = exact(matrix, 5)
    assert hits.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(hits.scores, scores, rtol=1e-4)


def test_annoy_takes_angles_only_where_all_norms_are_one(tmp_path: Path) -> None:
    for norm, metric in ((1.0, "angular"), (2.5, "angular"), (None, "dot")):
        sink = Annoy(trees=40, search_k=4000).build(Place("a", "p", f"{tmp_path}/{norm}"))
        matrix = unit_rows(ROWS, DIM) * (norm or 1)
        sink.build(FIRST, vectors_of(matrix, norm))
        assert sink._metric(norm) == metric
        with sink.opened(FIRST) as opened:
            found = opened.search(3 * QUERIES, 1).scores
        np.testing.assert_allclose(found, 3 * exact(matrix, 1)[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Faiss(index=FaissPq(segments=3)), "index.sinks.mine.index.segments: 3 do not divide vectors of 8; expected 1"),
        (Faiss(index=FaissPq(bits=10)), "index.bits: 10 bits, so 1,024 centres for 300 training vectors"),
        (Faiss(index=FaissIvf(lists=301)), "index.sinks.mine.index.lists: 301 centres for 300 training vectors"),
    ],
)
def test_parameters_that_do_not_fit_the_vectors(settings: Faiss, message: str, tmp_path: Path) -> None:
    sink = settings.build(Place("mine", "p", str(tmp_path)))
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        sink.build(FIRST, vectors_of(unit_rows(ROWS, DIM)))
    assert sink.versions() == []


def test_a_faiss_index_in_memory_finds_and_gives_vectors_back() -> None:
    matrix = unit_rows(ROWS, DIM)
    ids = pa.array([f"item{place}" for place in range(ROWS)])
    for settings in (FaissFlat(), FaissHnsw(), FaissIvf(lists=3)):
        index = in_memory(settings, ids, matrix)
        places, scores = index.places(matrix[[5, 7]], 2)
        assert places[:, 0].tolist() == [5, 7]
        np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
        np.testing.assert_array_equal(index.vector(9), matrix[9])


def test_a_damaged_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "_current").write_text("{")
    with pytest.raises(UserError, match="_current: damaged; remove it"):
        Faiss().build(Place("mine", "p", str(tmp_path))).current()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "no description": ("index.json", lambda _: None),
    "half a description": ("index.json", lambda content: content[:9]),
    "a description with another key": ("index.json", lambda content: content.replace(b'"rows"', b'"more": 1, "rows"')),
    "no index": ("index.faiss", lambda _: None),
    "half an index": ("index.faiss", lambda content: content[:-9]),
    "no ids": ("ids.parquet", lambda _: None),
}


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_not_whole_and_is_built_anew(
    damage: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path) if place == "local" else f"memory://{tmp_path.name}"
    sink = Faiss(index=FaissFlat()).build(Place("mine", "p", root))
    sink.build(FIRST, vectors_of(unit_rows(ROWS, DIM)))
    name, damaged = DAMAGE[damage]
    path = f"{sink.place(FIRST)}/{name}"
    content = damaged(storage.read_bytes(path))
    storage.remove(path)
    if content is not None:
        system, inside = storage.filesystem(path)
        system.pipe_file(inside, content)
    assert not sink.is_whole(FIRST, ROWS)
    told = "".join(capsys.readouterr().out.split())
    assert ("index_itemsbuildsitanew" in told) == (damage != "no description")
    if name != "index.json":
        there = "not there" if content is None else f"{len(content):,} bytes"
        with pytest.raises(UserError, match=rf"/{name}: {there}, expected [\d,]+ bytes; index_items builds it anew"):
            sink.load(FIRST)
    sink.build(FIRST, vectors_of(unit_rows(ROWS, DIM)))
    assert sink.is_whole(FIRST, ROWS)


def test_an_index_from_before_sizes_were_kept_is_read(tmp_path: Path) -> None:
    sink = Faiss(index=FaissFlat()).build(Place("mine", "p", str(tmp_path)))
    sink.build(FIRST, vectors_of(unit_rows(ROWS, DIM)))
    path = Path(sink.place(FIRST), "index.json")
    description = json.loads(path.read_text())
    assert {*description.pop("files")} == {"ids.parquet", "index.faiss"}
    path.write_text(json.dumps(description))
    assert sink.is_whole(FIRST, ROWS)
    assert sink.load(FIRST).count == ROWS


def test_a_drop_that_is_killed_leaves_nothing_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Faiss(index=FaissFlat()).build(Place("mine", "p", str(tmp_path)))
    sink.build(FIRST, vectors_of(unit_rows(ROWS, DIM)))
    monkeypatch.setattr(shutil, "rmtree", lambda _: Path(sink.place(FIRST), "index.faiss").unlink())  # and no more
    sink.drop(FIRST)
    assert [path.name for path in Path(sink.place(FIRST)).iterdir()] == ["ids.parquet"]
    assert not sink.is_whole(FIRST, ROWS)
    assert sink.versions() == [FIRST]  # for the next drop


def test_folders_of_others_stay(tmp_path: Path) -> None:
    others = {"notes", "version=mine", "version=20240101", f"version={FIRST}_copy", ".version=mine.tmp", FIRST}
    for name in others:
        (tmp_path / name).mkdir()
    sink = Faiss(index=FaissFlat()).build(Place("mine", "p", str(tmp_path)))
    for version in (FIRST, SECOND, THIRD):
        sink.build(version, vectors_of(unit_rows(ROWS, DIM)))
        sink.switch(version)
    (tmp_path / f".version={FIRST}.tmp").mkdir()  # a killed run's
    assert sink.drop_old() == [FIRST]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "_current", f"version={SECOND}", f"version={THIRD}"}


def test_a_versions_name_is_its_date_and_a_digest() -> None:
    assert version_name("2024-01-08", "v1") == "20240108_964b4bf2932b9233"
    assert len({version_name("2024-01-01", *parts) for parts in (("v1",), ("v2",), ("v1", ""))}) == 3
    assert VERSION.fullmatch(FIRST)
    assert not any(map(VERSION.fullmatch, ("20240101_964B4BF2932B9233", f"{FIRST}0", "ectors", "")))


def test_folders_on_another_file_system() -> None:
    matrix = unit_rows(ROWS, DIM)
    for settings in (Faiss(index=FaissFlat()), Annoy(trees=40, search_k=4000)):
        sink = settings.build(Place("mine", "p", f"memory://indexes/{settings.kind}"))
        sink.build(FIRST, vectors_of(matrix))
        sink.switch(FIRST)
        assert (sink.versions(), sink.current()) == ([FIRST], FIRST)
        with sink.opened(FIRST) as opened:
            assert opened.search(QUERIES, 1).ids[:, 0].tolist() == exact(matrix, 1)[0][:, 0].tolist()


def test_an_embedded_milvus_needs_a_local_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        Milvus().build(Place("mine", "p", "hdfs:///runs/p/index/mine"))
    assert str(caught.value) == (
        "index.sinks.mine.uri: found none, and hdfs:///runs/p/index/mine is no place for milvus-lite's file; expected "
        "a local path, or a server's URI"
    )
    assert list(tmp_path.iterdir()) == []  # such as a folder that is called hdfs:
    with contextlib.closing(Milvus().build(Place("mine", "p", f"file://{tmp_path}/index"))) as sink:
        assert sink.file == tmp_path / "index/milvus.db"
    with contextlib.closing(Milvus(uri="own.db").build(Place("mine", "p", "hdfs:///runs/p/index/mine"))) as sink:
        assert sink.file == tmp_path / "own.db"


def test_ids_at_places() -> None:
    found = ids_at(pa.array(["a", "b"]), np.array([[1, -1], [0, 1]]))
    assert found.tolist() == [["b", None], ["a", "b"]]


def test_lists_and_probes() -> None:
    assert [default_lists(rows, rows) for rows in (1, 77, 2000, 1_000_000)] == [1, 1, 51, 4000]
    assert default_lists(1_000_000, 100_000) == 2564
    assert [default_probes(lists) for lists in (1, 40, 256, 4096)] == [1, 32, 32, 512]


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        ({"a": {"kind": "annoi"}}, "did you mean 'annoy'"),
        ({"a": {"kind": "annoy", "index": "flat"}}, "'index' goes with kind: faiss or milvus"),
        ({"a": {"kind": "faiss", "index": {"kind": "flat", "probes": 3}}}, "'probes' goes with kind: ivf"),
        ({"a": {"kind": "milvus", "index": "hnsw"}}, "milvus-lite has no hnsw"),
        ({"a": {"kind": "milvus", "token_env": "A", "token_file": "b"}}, "give one of them"),
        ({"a": {"kind": "redis", "url": "http://host"}}, "expected redis://host"),
        ({"a": {"kind": "redis", "url": "redis://:secret@host"}}, "name its environment variable in password_env"),
        ({"a": {"kind": "redis", "search": "pq"}}, "expected flat or hnsw"),
        ({"a-b": "faiss"}, "'a-b' is no name"),
        ({}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit(sinks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Index.model_validate({"sinks": sinks})
    assert "secret@" not in raised.value.errors()[0]["msg"]


def test_a_sink_is_named_by_its_kind_alone() -> None:
    index = Index.model_validate({"sinks": {"f": {"index": {"kind": "ivf", "lists": 9}}, "r": "redis"}})
    assert index.sinks["f"] == Faiss(index=FaissIvf(lists=9))
    assert index.sinks["r"] == Redis()
    assert Index.model_validate_json(index.model_dump_json()) == index
