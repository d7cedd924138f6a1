"""Columns of Parquet that are neither text nor numbers: times, flags, lists and bytes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import ALWAYS, ITEM_ID, ITEM_INDEX, UPLOAD_TIME, USER_ID
from tests.samples.feed import TinyFeed, quarantined_rows
from tests.samples.reading import Reader, message, write_parquet_log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def write_posts(feed: TinyFeed, **columns: Any) -> None:
    rows = len(columns["post_id"])
    pq.write_table(pa.table({"topic_id": [1] * rows, "length": [1] * rows, **columns}), feed.folder / "posts.parquet")
    feed.config["catalogue"] |= {"path": "{data}/posts.parquet", "format": "parquet"}


# Newest rows -------------------------------------------------------------------------------------------------

DAYS = [dt.datetime(2024, 1, 9), dt.datetime(2024, 1, 10, 0, 0, 0, 1), dt.datetime(2024, 1, 10), None]
LARGE = 2**60


@pytest.mark.parametrize(
    "versions",
    [
        pa.array(DAYS, pa.timestamp("us")),
        pa.array(DAYS, pa.timestamp("us", "UTC")),
        pa.array([dt.date(2024, 1, 9), dt.date(2024, 1, 10), dt.date(1969, 1, 1), None]),
        pa.array([False, True, False, None]),
        pa.array([LARGE, LARGE + 1, -1, None]),
        pa.array([9.0, 10.0, float("nan"), None]),
        pa.array([Decimal("9.5"), Decimal("10.5"), Decimal("-11.0"), None]),
        pa.array([b"9", b"10", b"", None]),
    ],
    ids=["timestamp_ntz", "timestamp", "date", "boolean", "bigint", "double", "decimal", "binary"],
)
def test_the_newest_row_by_a_column_of_any_kind(reader: Reader, versions: pa.Array) -> None:
    write_posts(reader.feed, post_id=["p1", "p1", "p1", "p1"], topic_id=[0, 1, 2, 3], version=versions)
    reader.feed.config["catalogue"]["latest_by"] = "version"
    assert [(row["row__id"], row["topic_id"]) for row in reader.catalogue().collect()] == [("p1", 1)]
    assert reader.counts("catalogue").filtered == {"an older row of its id": 3}


@pytest.mark.parametrize(
    ("versions", "kind"),
    [
        (pa.array([[1], [2]]), "array<bigint>"),
        (pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())), "map<string,bigint>"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct<a:bigint>"),
    ],
)
def test_columns_that_order_no_rows(reader: Reader, versions: pa.Array, kind: str) -> None:
    write_posts(reader.feed, post_id=["p1", "p1"], version=versions)
    reader.feed.config["catalogue"]["latest_by"] = "version"
    assert message(reader.catalogue) == (
        f"catalogue.latest_by: 'version' holds {kind}; expected numbers, times or text"
    )


# Bytes -------------------------------------------------------------------------------------------------------

# A lone byte, a cut-off character, and UTF-16's surrogates, which are no text; U+FFFD itself is one.
NO_TEXT = [b"\xff", b"a\xe3\x83", b"\xed\xa0\x80"]
TEXT = ["p1", "ユ", "\ufffd"]
BYTES = [*[text.encode() for text in TEXT], *NO_TEXT]


def test_ids_of_a_log_that_are_no_text(reader: Reader) -> None:
    users = pa.array([*BYTES, *[b"7"] * 6])
    items = pa.array([*[b"p1"] * 6, *BYTES])
    write_parquet_log(reader.feed, 12, client_id=users, post_id=items)
    found = [(row[USER_ID], row[ITEM_ID]) for row in reader.events().select(USER_ID, ITEM_ID).collect()]
    assert sorted(found) == sorted([(text, "p1") for text in TEXT] + [("7", text) for text in TEXT])
    counts = reader.counts("sources.feed")
    reasons = {"user in 'client_id' is not UTF-8 text": 3, "item in 'post_id' is not UTF-8 text": 3}
    assert counts.quarantined == reasons
    rows = quarantined_rows(reader.feed.folder, "sources.feed")
    assert sorted(row["reason"] for row in rows) == sorted(list(reasons) * 3)


def test_what_where_leaves_out_may_be_no_text(reader: Reader) -> None:
    write_parquet_log(reader.feed, client_id=pa.array([b"7", b"\xff"]), channel=["home", "ad"])
    assert sorted(row["__kept"] for row in reader.events().collect()) == [False, True]
    assert reader.counts("sources.feed").quarantined == {}


def test_ids_of_the_catalogue_that_are_no_text(reader: Reader) -> None:
    write_posts(reader.feed, post_id=pa.array([*BYTES, b"a", b"b"]), topic_id=pa.array([b"5"] * 7 + [b"\xff"]))
    rows = reader.catalogue().collect()
    assert sorted(row["row__id"] for row in rows) == sorted([*TEXT, "a"])
    assert reader.counts("catalogue").quarantined == {
        "id in 'post_id' is not UTF-8 text": 3, "'topic_id' is not UTF-8 text": 1,
    }  # fmt: skip


def test_ids_of_a_profile_that_are_no_text(reader: Reader) -> None:
    table = {"client_id": pa.array(BYTES), "read_post_id": [["p1"]] * len(BYTES)}
    pq.write_table(pa.table(table), reader.feed.folder / "reads.parquet")
    assert sorted(row["row__id"] for row in reader.profile("reads").collect()) == sorted(TEXT)
    assert reader.counts("profiles.reads").quarantined == {"id in 'client_id' is not UTF-8 text": 3}


@pytest.mark.parametrize("as_lists", [False, True])
def test_lists_that_a_history_goes_on_with_that_are_no_text(reader: Reader, as_lists: bool) -> None:
    lists = [[value, None] for value in BYTES] if as_lists else BYTES
    table = {"client_id": [str(number) for number in range(len(BYTES))], "read_post_id": lists}
    pq.write_table(pa.table(table), reader.feed.folder / "reads.parquet")
    assert sorted(row["row__id"] for row in reader.profile("reads").collect()) == ["0", "1", "2"]
    assert reader.counts("profiles.reads").quarantined == {"'read_post_id' is not UTF-8 text": 3}


def test_ids_of_vectors_that_are_no_text(reader: Reader) -> None:
    table = {"post_id": pa.array(BYTES), "values": [[1.0, 2.0]] * len(BYTES)}
    pq.write_table(pa.table(table), reader.feed.folder / "vectors.parquet")
    reader.feed.config["vectors"]["post"] |= {"path": "{data}/vectors.parquet", "format": "parquet"}
    assert sorted(row["id"] for row in reader.vectors().collect()) == sorted(TEXT)
    assert reader.counts("vectors.post").quarantined == {"id in 'post_id' is not UTF-8 text": 3}


# Ids of features ----------------------------------------------------------------------------------------

NAN = float("nan")
DECIMALS = pa.decimal128(5, 1)


@pytest.mark.parametrize(
    ("feature", "values", "spelled"),
    [
        (
            {"kind": "SparseFeat"}, pa.array([7.0, -3.0, 0.5, 2.0**53, NAN, None]),
            ["7", "-3", "0.5", "9.007199254740992E15"],
        ),
        ({"kind": "SparseFeat"}, pa.array([Decimal("8.0"), Decimal("8.5"), None], DECIMALS), ["8", "8.5"]),
        ({"kind": "VarLenSparseFeat"}, pa.array([[7.0, None], [NAN, 8.0], None]), [["7", None], [None, "8"]]),
        ({"kind": "VarLenSparseFeat"}, pa.array([[Decimal("7.0")], []], pa.list_(DECIMALS)), [["7"], []]),
        ({"kind": "DenseFeat", "pre_embed": "post"}, pa.array([7.0, None], "float32"), ["7"]),
    ],
)  # fmt: skip
def test_floats_of_ids_are_spelled_as_integers(
    reader: Reader, feature: dict[str, Any], values: pa.Array, spelled: list[Any]
) -> None:
    """As pandas writes integers with nulls; beyond 2^53 a float is one of several integers."""
    write_posts(reader.feed, post_id=[f"p{number}" for number in range(len(values))], author=values)
    reader.feed.config["features"] |= {"author": {"side": "item", **feature}}
    of_posts = {row["row__id"]: row["author"] for row in reader.catalogue().collect()}
    found = [of_posts[f"p{number}"] for number in range(len(values))]
    assert found == spelled + [None] * (len(values) - len(spelled))
    assert reader.counts("catalogue").quarantined == {}


def test_the_newest_row_by_floats_that_are_ids_too(reader: Reader) -> None:
    """By number: as texts, 9 would be above 10."""
    write_posts(reader.feed, post_id=["p1", "p1"], version=[9.0, 10.0])
    reader.feed.config["catalogue"]["latest_by"] = "version"
    reader.feed.config["features"] |= {"version": {"kind": "SparseFeat", "side": "item"}}
    assert [row["version"] for row in reader.catalogue().collect()] == ["10"]


def test_a_vocabulary_counts_floats_as_they_are_looked_up(reader: Reader) -> None:
    from dssm.samples.raw_columns import raw_item_features
    from dssm.samples.vocabulary import token_counts

    write_posts(reader.feed, post_id=["p1", "p2", "p3"], author=[7.0, NAN, None])
    reader.feed.config["features"] |= {"author": {"kind": "SparseFeat", "side": "item"}}
    rows = reader.catalogue().selectExpr("*", "1 AS events")
    (author,) = (f for f in raw_item_features(reader.feed.settings()) if f.name == "author")
    counted = token_counts(rows, [author], "events").collect()
    assert [(row["token"], row["events"]) for row in counted] == [("7", 1)]


def test_a_list_of_floats_that_a_history_goes_on_with(reader: Reader) -> None:
    pq.write_table(pa.table({"client_id": ["7"], "read_post_id": [[7.0]]}), reader.feed.folder / "reads.parquet")
    assert [row["read_post_id"] for row in reader.profile("reads").collect()] == [["7"]]


# Items -------------------------------------------------------------------------------------------------------


def test_groups_are_no_lists(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.raw_columns import check_item_columns

    tiny_feed.config["samples"]["negatives"] = {"near": {"kind": "group", "column": "tags"}}
    tiny_feed.config["train"] = {"loss": "weighted_bce"}
    settings = tiny_feed.settings()
    columns = "post_id string, topic_id string, length double"
    check_item_columns(settings, spark.createDataFrame([], f"{columns}, tags string"))
    with pytest.raises(UserError) as caught:
        check_item_columns(settings, spark.createDataFrame([], f"{columns}, tags array<string>"))
    assert str(caught.value) == (
        "samples.negatives.near.column: 'tags' holds array<string>; expected a column with one value an item"
    )


def test_items_uploaded_later_are_not_numbered(spark: SparkSession) -> None:
    from dssm.samples.items import with_item_index
    from dssm.samples.sources import ID

    rows = [("d", 5), ("a", 10), ("c", ALWAYS), ("b", 9)]
    frame = spark.createDataFrame(rows, f"`{ID}` string, `{UPLOAD_TIME}` bigint")
    found = {row[ID]: row[ITEM_INDEX] for row in with_item_index(frame, 10).collect()}
    assert found == {"b": 0, "c": 1, "d": 2, "a": -1}
    assert {row[ID]: row[ITEM_INDEX] for row in with_item_index(frame).collect()} == {"a": 0, "b": 1, "c": 2, "d": 3}
