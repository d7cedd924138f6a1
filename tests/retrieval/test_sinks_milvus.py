"""Milvus beside what all sinks do: a server's aliases, tokens, and milvus-lite's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dssm.errors import UserError
from dssm.retrieval.sinks import Place
from dssm.retrieval.sinks.milvus import MilvusSink, _connected
from dssm.sections.indexing import Milvus, MilvusAuto, MilvusFlat, MilvusHnsw, MilvusIvf
from tests.retrieval.test_sinks import DIM, FIRST, QUERIES, SECOND, THIRD, exact, vectors_of
from tests.serving.tables import unit_rows

MATRIX = unit_rows(60, DIM)


class FakeServer:
    """A server's collections and aliases, as far as a sink moves them."""

    def __init__(self, *collections: str) -> None:
        self.collections = list(collections)
        self.aliases: dict[str, str] = {}
        self.moves: list[str] = []

    def list_collections(self) -> list[str]:
        return self.collections

    def list_aliases(self, collection_name: str) -> dict[str, Any]:
        return {"aliases": [alias for alias, name in self.aliases.items() if name == collection_name]}

    def create_alias(self, collection_name: str, alias: str) -> None:
        assert alias not in self.aliases
        self._move("create", collection_name, alias)

    def alter_alias(self, collection_name: str, alias: str) -> None:
        assert alias in self.aliases
        self._move("alter", collection_name, alias)

    def _move(self, how: str, collection: str, alias: str) -> None:
        assert collection in self.collections
        self.aliases[alias] = collection
        self.moves.append(f"{how} {alias} → {collection}")

    def drop_collection(self, name: str) -> None:
        assert name not in self.aliases.values()  # as a server refuses it
        self.collections.remove(name)


def test_a_servers_alias_is_altered_last() -> None:
    server = FakeServer(f"posts_v{FIRST}", f"posts_v{SECOND}", f"posts_v{THIRD}", "others")
    settings = Milvus(uri="http://milvus:19530", collection="posts")
    sink = MilvusSink(settings, Place("m", "p", ""), server)  # type: ignore[arg-type]
    assert (sink.versions(), sink.current(), sink.previous()) == (
        [FIRST, SECOND, THIRD], None, None,
    )  # fmt: skip
    for version in sink.versions():
        sink.switch(version)
        sink.switch(version)
    assert server.moves == [
        f"create posts → posts_v{FIRST}",
        f"create posts_before → posts_v{FIRST}",
        f"alter posts → posts_v{SECOND}",
        f"alter posts_before → posts_v{SECOND}",
        f"alter posts → posts_v{THIRD}",
    ]
    assert (sink.current(), sink.previous()) == (THIRD, SECOND)
    assert sink.drop_old() == [FIRST]
    assert server.collections == [f"posts_v{SECOND}", f"posts_v{THIRD}", "others"]


def test_collections_of_others_stay() -> None:
    others = ["items_vectors", "items_views", "items_v2", f"items_v{FIRST}_copy", f"old_items_v{FIRST}"]
    server = FakeServer(*others, *(f"items_v{version}" for version in (FIRST, SECOND, THIRD)))
    sink = MilvusSink(Milvus(uri="http://milvus:19530", collection="items"), Place("m", "p", ""), server)  # type: ignore[arg-type]
    assert sink.versions() == [FIRST, SECOND, THIRD]
    sink.switch(SECOND)
    sink.switch(THIRD)
    assert sink.drop_old() == [FIRST]
    assert server.collections == [*others, f"items_v{SECOND}", f"items_v{THIRD}"]


def test_the_index_that_a_server_is_asked_for() -> None:
    def asked(index: Any, rows: int = len(MATRIX)) -> Any:
        sink = MilvusSink(Milvus(uri="http://m:1", index=index), Place("m", "p", ""), FakeServer())  # type: ignore[arg-type]
        return sink._index_params(replace(vectors_of(MATRIX), rows=rows))

    assert asked(MilvusFlat()) == ("FLAT", {})
    assert asked(MilvusAuto()) == ("AUTOINDEX", {})
    assert asked(MilvusIvf(lists=12)) == ("IVF_FLAT", {"nlist": 12})
    assert asked(MilvusIvf(), rows=1_000_000) == ("IVF_FLAT", {"nlist": 4000})  # 4 √rows
    assert asked(MilvusIvf(), rows=400) == ("IVF_FLAT", {"nlist": 10})  # one for 39 vectors, not 80
    assert asked(MilvusHnsw(links=24, ef_construction=99)) == ("HNSW", {"M": 24, "efConstruction": 99})


@pytest.mark.parametrize("index", [MilvusFlat(), MilvusIvf(lists=4, probes=4)])
def test_milvus_lite_and_its_pointer(index: Any, tmp_path: Path) -> None:
    sink = MilvusSink(Milvus(uri=f"{tmp_path}/own.db", collection="posts", index=index), Place("m", "p", ""))
    try:
        sink.build(FIRST, vectors_of(MATRIX))
        with sink.opened(FIRST) as opened:
            assert opened.search(QUERIES, 5).ids.tolist() == exact(MATRIX, 5)[0].tolist()
        described = sink.client.describe_collection(f"posts_v{FIRST}")["description"]
        assert json.loads(described) == {"rows": 60, "model_version": "m1"}
        sink.switch(FIRST)
        pointer = json.loads((tmp_path / "own.db.posts.current").read_text())
        assert pointer == {"version": FIRST, "previous": None}
        sink.client.create_collection("posts_views", dimension=4)  # another's: `posts_v` begins its name as well
        assert (sink.versions(), sink.drop_old()) == ([FIRST], [])
        assert set(sink.client.list_collections()) == {f"posts_v{FIRST}", "posts_views"}
    finally:
        sink.close()


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.sinks\.m\.uri: .*own\.file can't be opened .*endswith \[\.db\]"):
        MilvusSink(Milvus(uri=f"{tmp_path}/own.file"), Place("m", "p", ""))


def test_the_token_is_that_of_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "s3cret")
    (tmp_path / "token").write_text("other\n")
    monkeypatch.setattr("dssm.retrieval.sinks.milvus.MilvusClient", lambda **options: options)
    places = [{"token_env": "A_TOKEN"}, {"token_file": f"{tmp_path}/token"}, {}]
    settings = [Milvus(uri="http://a:19530", **place) for place in places]
    tokens = [_connected(one, None, "index.sinks.m").get("token") for one in settings]
    assert tokens == ["s3cret", "other", None]
    assert "s3cret" not in settings[0].model_dump_json()
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(UserError, match=r"index\.sinks\.m\.token_env: the environment has no A_TOKEN; set it"):
        _connected(settings[0], None, "index.sinks.m")
