from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import encoded_columns
from dssm.packing import unpack
from dssm.samples import ragged
from dssm.samples.encoding import encode_features
from dssm.samples.hashing import bucket_ids
from dssm.samples.history_encoding import ItemCodes, encode_history, item_codes
from dssm.samples.lookup_tables import Tables, Vectors
from dssm.samples.ragged import Lists
from dssm.sections import VectorTable

ITEMS = 5
BEYOND = ITEMS + 1  # an item index that no code knows
MATRIX = np.array([[1, 2], [-3, 0.5], [0.25, 4]], np.float32)
SPECS = {"pre": VectorTable(path="-", width=2), "table": VectorTable(path="-", width=2, storage="table")}
VECTORS = Vectors(pa.array(["i3", "i0", "i4"]), MATRIX)
TABLES = Tables(
    vocabularies={"post": pa.array(["i2", "i0", "gone"])},
    buckets={"hashed": 1000},
    vectors={"pre": VECTORS, "table": VECTORS},
    storage={name: spec.storage for name, spec in SPECS.items()},
)
ITEM_IDS = pa.array([f"i{item}" for item in range(ITEMS)])

histories = st.lists(st.lists(st.integers(-1, BEYOND), max_size=9), max_size=7)
of_items = st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 9, 300]), min_size=3, max_size=3), min_size=ITEMS)
maxlens = st.integers(1, 5)


def lists(rows: Sequence[Sequence[int]]) -> Lists:
    flat = [value for row in rows for value in row]
    return Lists(np.cumsum([0, *map(len, rows)]), np.array(flat, np.int32))


def encode(feature: AnyFeature, rows: Sequence[Sequence[int]], codes: ItemCodes) -> dict[str, np.ndarray]:
    """Encodes histories and checks the columns against the manifest's description."""
    encoded = encode_history(feature, lists(rows), codes, TABLES)
    specs = encoded_columns(feature, SPECS)
    assert set(encoded) == set(specs)
    assert [len(column) for column in encoded.values()] == [len(rows)] * len(specs)
    return {name: unpack(encoded[name], spec) for name, spec in specs.items()}


def padded(values: Sequence[float], width: int) -> list[float]:
    return [*values[:width], *[0] * (width - len(values))]


def codes_of_lists(of: Sequence[Sequence[int]]) -> tuple[ItemCodes, list[list[int]]]:
    feature = VarLenSparseFeat(name="f", side="user", of="tags", share_embedding="tags")
    codes = item_codes(feature, ITEM_IDS, TABLES, {"tags": np.array(of[:ITEMS], np.int32)})
    return codes, [[entry for entry in row if entry >= 2] for row in of[:ITEMS]] + [[]] * (BEYOND + 1 - ITEMS) + [[]]


@given(rows=histories, maxlen=maxlens)
def test_a_history_lists_the_newest_items(rows: list[list[int]], maxlen: int) -> None:
    feature = VarLenSparseFeat(name="f", side="user", share_embedding="post", maxlen=maxlen)
    codes = item_codes(feature, ITEM_IDS, TABLES, {})
    ids = {0: 3, 2: 2}
    expected = [padded([ids.get(item, 1) for item in row], maxlen) for row in rows]
    assert encode(feature, rows, codes)["f"].tolist() == expected


def test_a_history_of_hashed_items() -> None:
    feature = VarLenSparseFeat(name="f", side="user", share_embedding="hashed", maxlen=3)
    codes = item_codes(feature, ITEM_IDS, TABLES, {})
    assert codes.ids is not None
    assert codes.ids.tolist() == bucket_ids(ITEM_IDS, 1000).tolist()
    assert encode(feature, [[4, -1]], codes)["f"].tolist() == [[codes.ids[4], 1, 0]]


@given(rows=histories, of=of_items, maxlen=maxlens, at_once=st.integers(1, 12))
def test_a_history_lists_the_ids_of_its_items(
    rows: list[list[int]], of: list[list[int]], maxlen: int, at_once: int
) -> None:
    feature = VarLenSparseFeat(name="f", side="user", of="tags", share_embedding="tags", maxlen=maxlen)
    codes, ids = codes_of_lists(of)
    with mock.patch.object(ragged, "MAX_ENTRIES", at_once):
        found = encode(feature, rows, codes)
    assert found["f"].tolist() == [padded([i for item in row for i in ids[item]], maxlen) for row in rows]


@given(rows=histories, of=of_items, maxlen=maxlens, at_once=st.sampled_from([1, 3, 10, 10**6]))
def test_favourites(rows: list[list[int]], of: list[list[int]], maxlen: int, at_once: int) -> None:
    feature = VarLenSparseFeat(name="f", side="user", of="tags", share_embedding="tags", maxlen=maxlen, weighted=True)
    codes, ids = codes_of_lists(of)
    with mock.patch.object(ragged, "MAX_ENTRIES", at_once):
        found = encode(feature, rows, codes)
    counts = [Counter(i for item in row for i in ids[item]) for row in rows]
    ranked = [sorted(count.items(), key=lambda pair: (-pair[1], pair[0])) for count in counts]
    assert found["f"].tolist() == [padded([i for i, _ in row], maxlen) for row in ranked]
    shares = [
        padded([times / count.total() for _, times in row], maxlen) for row, count in zip(ranked, counts, strict=True)
    ]
    np.testing.assert_array_equal(found["f__weight"], np.array(shares, np.float32).reshape(-1, maxlen))


@pytest.mark.parametrize("topics", [3, 100_000], ids=["few ids: counted", "many ids: sorted"])
def test_favourites_of_few_and_of_many_ids(topics: int) -> None:
    feature = VarLenSparseFeat(name="f", side="user", of="topic", share_embedding="topic", maxlen=2, weighted=True)
    encoded = np.array([2, topics, 1, 2, topics - 1], np.int32)
    codes = item_codes(feature, ITEM_IDS, TABLES, {"topic": encoded})
    # Shares are of all occurrences, the third topic's too; the unknown topic of item 2 is none.
    found = encode(feature, [[1, 0, 4, 1, 3, 2], [2], [4, 1]], codes)
    if topics == 3:  # items 0, 3 and 4 are of topic 2
        assert found["f"].tolist() == [[2, 3], [0, 0], [2, 3]]
        np.testing.assert_array_equal(found["f__weight"], np.array([[0.6, 0.4], [0, 0], [0.5, 0.5]], np.float32))
    else:
        assert found["f"].tolist() == [[2, topics], [0, 0], [topics - 1, topics]]
        np.testing.assert_array_equal(found["f__weight"], np.array([[0.4, 0.4], [0, 0], [0.5, 0.5]], np.float32))


def test_items_beyond_the_encoded_ones_have_no_ids() -> None:
    feature = VarLenSparseFeat(name="f", side="user", of="topic", share_embedding="topic", maxlen=3)
    codes = item_codes(feature, ITEM_IDS, TABLES, {"topic": np.array([7, 8], np.int32)})
    assert encode(feature, [[4, 1, 2, 0]], codes)["f"].tolist() == [[8, 7, 0]]


@given(rows=histories, maxlen=st.one_of(st.none(), maxlens), reduce=st.sampled_from(["mean", "sum"]))
def test_the_vectors_of_a_history(rows: list[list[int]], maxlen: int | None, reduce: str) -> None:
    feature = DenseFeat(name="f", side="user", pre_embed="pre", reduce_type=reduce, maxlen=maxlen)
    codes = item_codes(feature, ITEM_IDS, TABLES, {})
    vectors = {3: MATRIX[0], 0: MATRIX[1], 4: MATRIX[2]}
    expected = []
    for row in rows:
        found = [vectors[item] for item in row if item in vectors][:maxlen]
        expected.append(np.sum(found, axis=0) / (len(found) if reduce == "mean" else 1) if found else np.zeros(2))
    np.testing.assert_allclose(encode(feature, rows, codes)["f"], np.reshape(expected, (-1, 2)), rtol=1e-6)


@given(rows=histories, maxlen=maxlens)
def test_a_history_as_rows_of_the_table(rows: list[list[int]], maxlen: int) -> None:
    feature = DenseFeat(name="f", side="user", pre_embed="table", reduce_type="mean", maxlen=maxlen)
    codes = item_codes(feature, ITEM_IDS, TABLES, {})
    numbers = {3: 1, 0: 2, 4: 3}
    expected = [padded([numbers[item] for item in row if item in numbers], maxlen) for row in rows]
    assert encode(feature, rows, codes)["f"].tolist() == expected


@pytest.mark.parametrize(
    "feature",
    [
        VarLenSparseFeat(name="f", side="user", share_embedding="post", maxlen=2),
        VarLenSparseFeat(name="f", side="user", of="topic", share_embedding="topic", maxlen=2),
        VarLenSparseFeat(name="f", side="user", of="topic", share_embedding="topic", maxlen=2, weighted=True),
        DenseFeat(name="f", side="user", pre_embed="pre", reduce_type="mean"),
        DenseFeat(name="f", side="user", pre_embed="table", reduce_type="mean", maxlen=2),
    ],
    ids=["ids", "of", "favourites", "inline", "table"],
)
@pytest.mark.parametrize("rows", [[], [[]], [[], [-1, 7], []]], ids=["no row", "an empty history", "no known item"])
def test_without_a_catalogue_nothing_is_known(feature: AnyFeature, rows: list[list[int]]) -> None:
    codes = item_codes(feature, pa.array([], pa.string()), TABLES, {"topic": np.array([], np.int32)})
    found = encode(feature, rows, codes)
    unknown = isinstance(feature, VarLenSparseFeat) and feature.of is None
    expected = [[1, 1] if row and unknown else [0, 0] for row in rows]
    assert all(values.tolist() == expected for values in found.values())


@given(rows=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6), max_size=5))
def test_a_history_is_encoded_as_the_list_of_its_ids_would_be(rows: list[list[int]]) -> None:
    columns = {"read": pa.array([[f"i{item}" for item in row] for row in rows], pa.list_(pa.string()))}
    features: list[AnyFeature] = [
        VarLenSparseFeat(name="ids", side="user", column="read", share_embedding="post", maxlen=4),
        DenseFeat(name="inline", side="user", column="read", pre_embed="pre", reduce_type="mean", maxlen=2),
        DenseFeat(name="table", side="user", column="read", pre_embed="table", reduce_type="mean", maxlen=2),
    ]
    as_lists = encode_features(columns, features, TABLES)
    for feature in features:
        codes = item_codes(feature, ITEM_IDS, TABLES, {})
        assert encode_history(feature, lists(rows), codes, TABLES)[feature.name].equals(as_lists[feature.name])


def test_the_favourites_of_a_post_feed() -> None:
    """What `all_topic_fav_7` holds, from the log: topic by topic, the share of what the user read."""
    topic = SparseFeat(name="topic_id", side="item")
    tables = Tables({"topic_id": pa.array(["502", "278", "1"])})
    catalogue = encode_features({"topic_id": pa.array(["1", "502", "278", "1", "177"])}, [topic], tables)
    feature = VarLenSparseFeat(
        name="all_topic_fav_7", side="user", column="reads", of="topic_id", share_embedding="topic_id", weighted=True
    )
    codes = item_codes(feature, ITEM_IDS, tables, {"topic_id": catalogue["topic_id"].to_numpy()})
    found = encode(feature, [[0, 1, 4, 3, 2]], codes)
    assert found["all_topic_fav_7"][0].tolist() == padded([4, 2, 3], 20)
    expected = np.array(padded([0.5, 0.25, 0.25], 20), np.float32)
    np.testing.assert_array_equal(found["all_topic_fav_7__weight"][0], expected)
