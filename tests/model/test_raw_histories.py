"""The raw encoder's histories against those of the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, VarLenSparseFeat
from dssm.manifest import encoded_columns
from dssm.packing import unpack
from dssm.samples.hashing import bucket_ids
from dssm.samples.history_encoding import encode_history, item_codes
from dssm.samples.ragged import Lists
from tests.model.raw_rows import (
    ITEMS,
    MAXLEN,
    SPECS,
    TABLES,
    TOKENS,
    assert_same,
    compiled,
    encode,
    fast,
    reduces,
    tables,
)

pytestmark = pytest.mark.slow

histories = st.lists(st.lists(st.integers(0, len(ITEMS)), max_size=5), max_size=6)
SENT = [*ITEMS, "unknown"]


@pytest.fixture(scope="module", autouse=True)
def _no_function_outlives_tensorflow() -> Iterator[None]:
    yield
    compiled.cache_clear()


def from_log(feature: AnyFeature, rows: Sequence[Sequence[int]], **encoded_items: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the samples hold of histories, newest first; the item behind the last is unknown."""
    history = Lists(np.cumsum([0, *map(len, rows)]), np.array([item for row in rows for item in row], np.int32))
    codes = item_codes(feature, pa.array(ITEMS), TABLES, encoded_items)
    encoded = encode_history(feature, history, codes, TABLES)
    return {name: unpack(encoded[name], spec) for name, spec in encoded_columns(feature, SPECS).items()}


@fast
@given(rows=histories, vocabulary=st.sampled_from(["item", "hashed"]))
def test_a_history(rows: list[list[int]], vocabulary: str) -> None:
    feature = VarLenSparseFeat(name="h", side="user", column="clicks", maxlen=MAXLEN, share_embedding=vocabulary)
    sent = [{"h": [SENT[item] for item in row]} for row in rows]
    if vocabulary == "hashed":  # see below
        rows = [[item for item in row if item < len(ITEMS)] for row in rows]
        sent = [{"h": [SENT[item] for item in row]} for row in rows]
    assert_same(encode(feature, sent), from_log(feature, rows))


def test_an_item_that_nobody_knows_is_hashed_though_it_is_unknown_in_the_samples() -> None:
    feature = VarLenSparseFeat(name="h", side="user", column="clicks", maxlen=2, share_embedding="hashed")
    known, unknown = bucket_ids(pa.array([ITEMS[0], "unknown"]), TABLES.buckets["hashed"]).tolist()
    assert from_log(feature, [[0, len(ITEMS)]])["h"].tolist() == [[known, 1]]
    assert encode(feature, [{"h": [ITEMS[0], "unknown"]}])["h"].tolist() == [[known, unknown]]


def test_a_history_is_no_longer_than_the_logs() -> None:
    feature = VarLenSparseFeat(name="h", side="user", column="clicks", maxlen=9, share_embedding="item")
    assert encode(feature, [{"h": ["a"] * 4 + ["", "b"] * 4}])["h"].tolist() == [[2] * 4 + [3] + [0] * 4]
    comma = VarLenSparseFeat(name="h", side="user", column="clicks", maxlen=2, share_embedding="comma")
    assert encode(comma, [{"h": ["d, e", " c"]}])["h"].tolist() == [[4, 1]]


@fast
@given(rows=histories, reduce=reduces, name=tables)
def test_the_vectors_of_a_history(rows: list[list[int]], reduce: Any, name: str) -> None:
    feature = DenseFeat(name="h", side="user", column="clicks", pre_embed=name, reduce_type=reduce, maxlen=3)
    assert_same(encode(feature, [{"h": [SENT[item] for item in row]} for row in rows]), from_log(feature, rows))


TAGS = [["a"], ["007", "a"], [], ["x y", "unknown", "0"], ["0"]]


@fast
@given(rows=histories, weighted=st.booleans())
def test_the_ids_of_a_historys_items(rows: list[list[int]], weighted: bool) -> None:
    feature = VarLenSparseFeat(
        name="h", side="user", column="clicks", of="tags", share_embedding="f", maxlen=MAXLEN, weighted=weighted
    )  # fmt: skip
    encoded = np.zeros((len(ITEMS), 3), np.int32)
    for item, tags in enumerate(TAGS):
        encoded[item, : len(tags)] = [TOKENS.index(tag) + 2 if tag in TOKENS else 1 for tag in tags]
    listed = [[tag for item in row if item < len(ITEMS) for tag in TAGS[item]] for row in rows]
    if weighted:  # repeated ids add up
        sent = [[f"{tag}:1" for tag in row] for row in listed]
        counted = [[f"{tag}:{row.count(tag)}" for tag in sorted(set(row))] for row in listed]
        expected = from_log(feature, rows, tags=encoded)
        assert_same(encode(feature, [{"h": row} for row in sent]), expected)
        assert_same(encode(feature, [{"h": ",".join(row)} for row in counted]), expected)
    else:
        assert_same(encode(feature, [{"h": row} for row in listed]), from_log(feature, rows, tags=encoded))
