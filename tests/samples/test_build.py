"""build_samples on a feed small enough to work the samples out by hand: see tests/samples/feed.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    ITEM_TITLE,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SEEN,
    SOURCE,
    TARGETS,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    VocabularySpec,
    read_manifest,
)
from tests.samples.feed import (
    HEADER,
    LAST_TRAIN_DAY,
    TinyFeed,
    build,
    files_of,
    ms,
    read_part,
    token_digest,
    write_tiny_feed,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

ITEM_FEATURES = ("post_id", "topic_id", "length", "post_embed")
# Ids: 0 padding, 1 unknown, then the vocabularies' tokens.
POST = {"p1": 2, "p2": 3, "p3": 4, "p4": 1, "gone": 1}
TOPIC = {"1": 2, "2": 3, "9": 1}


def approx(row: dict[str, Any]) -> dict[str, Any]:
    return {k: pytest.approx(v, rel=1e-6) if isinstance(v, (float, list)) else v for k, v in row.items()}


def ids(vocabulary: dict[str, int], tokens: str, width: int) -> list[int]:
    found = [vocabulary[token] for token in tokens.split()]
    return found + [0] * (width - len(found))


PROFILE = {
    "007": {
        "client_id": 2,
        "client_type": 2,
        "age": math.log(8),
        "follow": [2, 3],
        "fav": [2, 1],
        "fav__weight": [0.5, 2],
    },
    "7": {"client_id": 1, "client_type": 3, "age": 0, "follow": [0, 0], "fav": [0, 0], "fav__weight": [0, 0]},
    "ユ": {"client_id": 1, "client_type": 2, "age": 0, "follow": [3, 1], "fav": [3, 0], "fav__weight": [1, 0]},
    "new": {"client_id": 1, "client_type": 1, "age": 0, "follow": [0, 0], "fav": [0, 0], "fav__weight": [0, 0]},
}
ITEM = {
    "p1": {"post_id": 2, "topic_id": 2, "length": 3, "post_embed": [1, 0], ITEM_PROBABILITY: 3 / 7},
    "p2": {"post_id": 3, "topic_id": 3, "length": 1.5, "post_embed": [0, 2], ITEM_PROBABILITY: 3 / 7},
    "p3": {"post_id": 4, "topic_id": 2, "length": 0, "post_embed": [0, 0], ITEM_PROBABILITY: 1 / 7},
    "p4": {"post_id": 1, "topic_id": 1, "length": 10, "post_embed": [3, 3], ITEM_PROBABILITY: 0},
    "p5": {"post_id": 1, "topic_id": 1, "length": 2, "post_embed": [0, 0], ITEM_PROBABILITY: 0},
}


def user_columns(user: str, clicks: str, touched: str, embed: list[float]) -> dict[str, Any]:
    histories = {"click_history": ids(POST, clicks, 3), "touch_history": ids(POST, touched, 3), "click_embed": embed}
    return {USER_ID: user, **PROFILE[user], **histories}


def sample(
    user: str, item: str, time: int, weight: float, clicks: str, touched: str, embed: list[float],
    label: float = 1, source: str = "feed",
) -> dict[str, Any]:  # fmt: skip
    keys = {ITEM_ID: item, EVENT_TIME: time, LABEL: label, WEIGHT: weight, SOURCE: source}
    return {**user_columns(user, clicks, touched, embed), **ITEM[item], **keys}


TRAIN = [
    # Before 2024-01-08 what was read earlier is not known yet.
    sample("007", "p2", ms(7, 10), 5, "p1", "p1", [1, 0]),
    sample("7", "p1", ms(7, 12), 2, "", "", [0, 0]),
    sample("ユ", "p1", ms(7, 13), 1, "", "", [0, 0]),
    # The two at the same time do not see each other; the log's two clicks go before the list of older reads.
    sample("007", "p1", ms(9, 9), 1, "p2 p1 p4", "p3 p2", [4 / 3, 5 / 3]),
    sample("007", "p3", ms(9, 9), 2, "p2 p1 p4", "p3 p2", [4 / 3, 5 / 3]),
    sample("ユ", "p2", ms(9, 10), 1, "p1", "p1", [1, 0]),
    sample("7", "p2", ms(9, 12), 1, "p1", "p1", [1, 0], source="likes"),
]
TEST = [
    sample("007", "p4", ms(10, 8), 3, "p3 p1 p2", "p3 p1", [0.5, 1]),
    sample("007", "p2", ms(10, 9), 1, "p4 p3 p1", "p4 p3", [2, 1.5], label=0),
    sample("new", "p1", ms(10, 10), 1, "", "", [0, 0]),
]


@pytest.mark.parametrize(("part", "expected"), [("train", TRAIN), ("test", TEST)], ids=["train", "test"])
def test_samples(tiny_build: TinyFeed, part: str, expected: list[dict[str, Any]]) -> None:
    found = {(row[USER_ID], row[ITEM_ID], row[EVENT_TIME]): row for row in read_part(tiny_build, part)}
    assert len(found) == len(expected)
    for row in expected:
        sample = found[row[USER_ID], row[ITEM_ID], row[EVENT_TIME]]
        keys = {USER_KEY: sample[USER_KEY], ITEM_KEY: sample[ITEM_KEY]}
        assert sample == {**approx(row), **keys}


def test_equal_ids_have_equal_keys(tiny_build: TinyFeed) -> None:
    rows = [*read_part(tiny_build, "train"), *read_part(tiny_build, "test")]
    users = {row[USER_ID]: row[USER_KEY] for row in rows}
    items = {row[ITEM_ID]: row[ITEM_KEY] for row in read_part(tiny_build, "items")}
    assert len(set(users.values())) == len(users) == 4
    assert len(set(items.values())) == len(items) == 5
    assert all((row[USER_KEY], row[ITEM_KEY]) == (users[row[USER_ID]], items[row[ITEM_ID]]) for row in rows)


def test_items_are_the_whole_catalogue_in_the_order_of_their_ids(tiny_build: TinyFeed) -> None:
    rows = sorted(read_part(tiny_build, "items"), key=lambda row: row[ITEM_INDEX])
    assert [(row[ITEM_INDEX], row[ITEM_ID]) for row in rows] == list(enumerate(ITEM))
    assert [row[ITEM_TITLE] for row in rows] == ["1", "2", "1", "3", "p5"]  # p5 has none: its id stands in
    for row in rows:
        expected = ITEM[row[ITEM_ID]]
        assert {name: row[name] for name in expected} == approx(expected)


def test_items_are_encoded_as_in_the_samples(tiny_build: TinyFeed) -> None:
    items = {row[ITEM_ID]: row for row in read_part(tiny_build, "items")}
    for row in read_part(tiny_build, "train"):
        assert {name: row[name] for name in ITEM_FEATURES} == {
            name: items[row[ITEM_ID]][name] for name in ITEM_FEATURES
        }


def test_users_are_those_with_a_positive_in_the_test_window_as_of_its_start(tiny_build: TinyFeed) -> None:
    rows = {row[USER_ID]: row for row in read_part(tiny_build, "users")}
    assert rows == {
        "007": approx({**user_columns("007", "p3 p1 p2", "p3 p1", [0.5, 1]), CLICKED: [3], WARM: 1}),
        "new": approx({**user_columns("new", "", "", [0, 0]), CLICKED: [0], WARM: 0}),
    }


def test_interactions_are_what_each_user_did_before_the_test_window(tiny_build: TinyFeed) -> None:
    """Beside the samples: what lies before the windows, and negatives; not ads, not items outside the catalogue."""
    names = (SEEN, POSITIVE, TARGETS, LAST_TIME)
    rows = {row[USER_ID]: [row[name] for name in names] for row in read_part(tiny_build, "interactions")}
    assert rows == {
        "007": [[0, 1, 2], [1, 1, 1], [2, 1, 1], [ms(9, 9), ms(7, 10), ms(9, 9)]],
        "7": [[0, 1], [1, 1], [1, 0], [ms(7, 12), ms(9, 12)]],  # p2 is of a source that is not tested on
        "ユ": [[0, 1], [1, 1], [1, 1], [ms(7, 13), ms(9, 10)]],
    }


# Vocabularies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("client_id", [("007", 3)]),  # min_count 3; leading zeros are kept
        ("client_type", [("a", 5), ("b", 2)]),
        ("post_id", [("p1", 3), ("p2", 3), ("p3", 1)]),  # ties by token; p4 is clicked in the test window only
        # Items 4 and 3 events; follow: 007 three times 1, 2, 1, ユ twice 2, 9; fav: three times 1, 9, twice 2.
        # max_size 2 leaves out 9.
        ("topic_id", [("1", 13), ("2", 10)]),
    ],
)
def test_vocabularies_count_the_training_window(tiny_build: TinyFeed, name: str, tokens: list[tuple[str, int]]) -> None:
    manifest = read_manifest(str(tiny_build.samples), "build_samples")
    rows = pq.read_table(tiny_build.samples / "vocabularies" / f"{name}.parquet").to_pylist()
    assert [(row["token"], row["events"]) for row in rows] == tokens
    digest = token_digest([token for token, _ in tokens])
    assert manifest.vocabularies[name] == VocabularySpec(size=len(tokens) + 2, digest=digest)


OTHER_TEST_DAY = f"""\
7,p5,{ms(10, 1)},1,9,home
7,p3,{ms(10, 2)},1,0,home
007,p5,{ms(10, 3)},1,0,home
ユ,p4,{ms(10, 4)},1,0,home
else,p2,{ms(10, 5)},1,0,home
"""


def test_the_test_window_never_influences_training_and_formats_do_not_matter(
    tiny_build: TinyFeed, spark: SparkSession, tmp_path: Path
) -> None:
    """Another test day; a log and the clients as Parquet files, the catalogue as a Hive table."""
    feed = write_tiny_feed(tmp_path)
    feed.write("feed/dt=2024-01-10/a.csv", HEADER + OTHER_TEST_DAY)
    as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(HEADER.strip().split(","), pa.string()))
    feed.write("last.csv", HEADER + LAST_TRAIN_DAY)
    log = pa.csv.read_csv(tmp_path / "last.csv", convert_options=as_text)
    seconds = pa.array([int(time) / 1000 for time in log["time"].to_pylist()])
    pq.write_table(log.set_column(2, "time", seconds), tmp_path / "last.parquet")
    feed.write("feed/dt=2024-01-09/a.csv.gz", HEADER)
    feed.config["sources"]["last"] = {
        **feed.config["sources"]["feed"], "path": "{data}/last.parquet", "format": "parquet", "time_unit": "s",
    }  # fmt: skip
    for history in feed.config["histories"].values():
        history["sources"] = [*history["sources"], "last"]
    clients = {"id": ["007", "7", "ユ"], "client_type": ["a", "b", "a"], "age": [7, None, None]}
    clients |= {"follow": [["1", "2", "1"], None, ["2", "9"]], "fav": [["1:0.5", "9:2"], None, ["2:1"]]}
    pq.write_table(pa.table(clients), tmp_path / "clients.parquet")
    feed.config["profiles"]["clients"] |= {"path": "{data}/clients.parquet", "format": "parquet"}
    feed.config["catalogue"] = {"table": "tiny_posts", "key": "post_id", "title": "topic_id"}
    posts = [("p1", "1", 3.0), ("p2", "2", 1.5), ("p3", "1", None), ("p4", "3", 10.0), ("p5", None, 2.0)]
    spark.createDataFrame(posts, "post_id string, topic_id string, length double").write.saveAsTable("tiny_posts")
    build(spark, feed)

    for part in ("items", "vocabularies", "vectors"):
        expected = {k: v for k, v in files_of(tiny_build.samples / part).items() if k != "manifest.json"}
        assert {k: v for k, v in files_of(feed.samples / part).items() if k != "manifest.json"} == expected
    found = {(row[USER_ID], row[ITEM_ID], row[EVENT_TIME]): row for row in read_part(feed, "train")}
    expected_rows = {(row[USER_ID], row[ITEM_ID], row[EVENT_TIME]): row for row in read_part(tiny_build, "train")}
    for key, row in expected_rows.items():
        assert {**found[key], SOURCE: ""} == {**row, SOURCE: ""}
    assert len(found) == len(expected_rows)
    assert {row[USER_ID]: row[CLICKED] for row in read_part(feed, "users")} == {
        "7": [2, 4], "007": [4], "ユ": [3], "else": [1],
    }  # fmt: skip
    counts = read_manifest(str(feed.samples), "").sources["catalogue"]
    assert (counts.place, counts.rows_read) == ("table tiny_posts", 5)


def test_a_build_that_stops_leaves_the_last_one(tiny_build: TinyFeed, spark: SparkSession) -> None:
    before = files_of(tiny_build.samples)
    strict = TinyFeed(tiny_build.folder)
    strict.config["samples"]["max_quarantine_share"] = 0.5
    with pytest.raises(UserError) as caught:
        build(spark, strict)
    assert str(caught.value) == (
        f"profiles.clients: 7 of 10 rows of {tiny_build.folder}/clients.csv can't be read (70.0%; "
        "samples.max_quarantine_share allows 50.0%): 'age' is not a number: 3; 'fav' is not id:weight,id:weight: 3; "
        "malformed row: 1. One of them: "
        "{'id': '8', 'client_type': 'a', 'age': 'old', 'follow': '1', 'fav': '1:1'}"
    )
    assert files_of(tiny_build.samples) == before
    assert [path.name for path in tiny_build.samples.parent.iterdir()] == ["samples"]
