"""Which settings a built version of a sink depends on: with others of those, all vectors are indexed anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from dssm.sections.indexing import (
    Annoy,
    Faiss,
    FaissFlat,
    FaissHnsw,
    FaissIvf,
    Milvus,
    MilvusFlat,
    MilvusHnsw,
    MilvusIvf,
    Redis,
    SinkKind,
)

SERVER = "http://milvus:19530"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Faiss(), Faiss(min_recall={10: 0.5})),
        (Annoy(), Annoy(search_k=5000)),
        (Milvus(), Milvus(uri="elsewhere.db", collection="posts")),
        (Milvus(uri=SERVER, token_env="TOKEN"), Milvus(uri=SERVER, token_file="token")),
        (Milvus(index=MilvusIvf(probes=8)), Milvus(index=MilvusIvf(probes=64))),
        (Milvus(uri=SERVER, index=MilvusHnsw()), Milvus(uri=SERVER, index=MilvusHnsw(ef_search=999))),
        (Redis(), Redis(url="rediss://other:6379/1", user="dssm", password_env="PASSWORD", prefix="posts")),
        (Redis(password_env="PASSWORD"), Redis(password_file="password", rows_per_pipeline=10)),
    ],
)
def test_settings_of_searching_and_connecting_build_nothing(before: SinkKind, after: SinkKind) -> None:
    assert before != after
    assert before.made_of == after.made_of


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Faiss(), Faiss(objective="like")),
        (Faiss(), Faiss(index=FaissFlat())),
        (Faiss(), Faiss(training_vectors=50)),
        # The file holds what is set of its searches, and all who read it search so.
        (Faiss(index=FaissIvf()), Faiss(index=FaissIvf(probes=64))),
        (Faiss(index=FaissHnsw()), Faiss(index=FaissHnsw(ef_search=999))),
        (Annoy(), Annoy(trees=10)),
        (Annoy(), Annoy(metric="dot")),
        (Milvus(), Milvus(index=MilvusFlat())),
        (Milvus(index=MilvusIvf()), Milvus(index=MilvusIvf(lists=8))),
        (Milvus(uri=SERVER, index=MilvusHnsw()), Milvus(uri=SERVER, index=MilvusHnsw(links=8))),
        (Redis(), Redis(search=FaissHnsw())),
        (Redis(search=FaissHnsw()), Redis(search=FaissHnsw(ef_search=999))),  # the server's index holds it
        (Redis(ttl_hours=24), Redis()),  # keys that were written with a lifetime would still expire
    ],
)
def test_settings_of_the_build_make_another_version(before: SinkKind, after: SinkKind) -> None:
    assert before.made_of != after.made_of


def named(excluded: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yields the settings that an `exclude` of pydantic's names, as `index.probes`."""
    for name, below in excluded.items():
        yield from named(below, f"{before}{name}.") if isinstance(below, Mapping) else (f"{before}{name}",)


def settings_below(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yields the settings of a model, and of the choices of those that are of a kind."""
    for name, field in model.model_fields.items():
        yield f"{before}{name}"
        for choice in getattr(field.annotation, "choices", {}).values():
            yield from settings_below(choice, f"{before}{name}.")


OURS = [kind for kind in SinkKind.choices.values() if kind.__module__.startswith("dssm.")]


@pytest.mark.parametrize("kind", OURS)
def test_what_builds_nothing_is_a_setting(kind: type[SinkKind]) -> None:
    assert set(named(kind.not_built)) <= set(settings_below(kind))
