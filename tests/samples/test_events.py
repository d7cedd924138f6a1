"""What becomes of each row of the logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dssm.errors import UserError
from dssm.manifest import ITEM_ID, USER_ID
from tests.samples.feed import HEADER, TinyFeed, build, ms, read_part

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dssm.samples.sources import Quarantine

pytestmark = pytest.mark.spark

LOG = f"""\
u,p1,{ms(7, 0)},1,0,home
u,p2,{ms(7, 0) - 1},1,0,home
u,p3,{ms(9, 23)},0,0,home
v,p1,{ms(10, 0)},0,0,home
v,p2,{ms(11, 0) - 1},1,0,home
v,p3,{ms(11, 0)},1,0,home
"""


def read(spark: SparkSession, feed: TinyFeed, text: str = LOG) -> tuple[DataFrame, Quarantine]:
    from dssm.samples.events import all_events
    from dssm.samples.rows import with_item_index
    from dssm.samples.sources import ID, Quarantine

    feed.write("log.csv", HEADER + text)
    feed.config["sources"] = {"feed": {**feed.config["sources"]["feed"], "path": "{data}/log.csv"}}
    feed.config["histories"]["touched"]["sources"] = ["feed"]
    settings = feed.settings()
    spark.conf.set("spark.sql.session.timeZone", settings.timezone)
    catalogue = spark.createDataFrame([("p1",), ("p2",), ("p3",)], f"`{ID}` string")
    quarantine = Quarantine(f"{feed.folder}/quarantine", 0)
    return all_events(spark, settings, with_item_index(catalogue), quarantine), quarantine


@pytest.mark.parametrize("train_rows", ["positives", "all"])
def test_fates_at_the_edges_of_the_windows(spark: SparkSession, tiny_feed: TinyFeed, train_rows: str) -> None:
    from dssm.samples.events import FATE, count_fates

    tiny_feed.config["samples"]["train_rows"] = train_rows
    events, quarantine = read(spark, tiny_feed)
    negative = "train" if train_rows == "all" else "negative, and train_rows is positives"
    assert {(row[USER_ID], row[ITEM_ID]): row[FATE] for row in events.collect()} == {
        ("u", "p1"): "train",  # the window's first millisecond
        ("u", "p2"): "outside the windows",
        ("u", "p3"): negative,
        ("v", "p1"): "test",  # negatives of the test window stay
        ("v", "p2"): "test",
        ("v", "p3"): "outside the windows",
    }
    count_fates(events, quarantine)
    counts = quarantine.counts["sources.feed"]
    assert counts.used == {"test": 2, "train": 2 if train_rows == "all" else 1}
    assert counts.rows_read == 6 == sum(counts.used.values()) + sum(counts.filtered.values())


LEFT_OUT = f"""\
u,p1,yesterday,1,0,ad
u,p1,{ms(7, 1) * 1000},1,0,ad
u,p2,{ms(8, 0)},yes,0,ad
,p2,{ms(8, 0)},1,0,ad
u,,{ms(8, 0)},1,0,ad
u,p2,{ms(8, 0)},1,-2,ad
u,p2,{ms(8, 0)},1,0,
"""


def test_rows_that_where_leaves_out_are_filtered_whatever_they_hold(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.events import FATE, IN_LOG, count_fates

    # `read` allows no quarantined row at all.
    events, quarantine = read(spark, tiny_feed, LOG + LEFT_OUT)
    left_out = events.filter(events[FATE] == "left out by where").collect()
    assert [row[IN_LOG] for row in left_out] == [False] * 7
    count_fates(events, quarantine)
    counts = quarantine.counts["sources.feed"]
    assert counts.filtered["left out by where"] == 7
    assert counts.quarantined == {}
    assert counts.rows_read == 13 == sum(counts.used.values()) + sum(counts.filtered.values())


def test_rows_that_where_leaves_out_change_no_sample(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    tiny_feed.config["sources"]["feed"]["path"] = "{data}/log.csv"
    parts = ("train", "test", "users", "interactions")
    built = []
    for text in (LOG, LOG + LEFT_OUT):
        tiny_feed.write("log.csv", HEADER + text)
        build(spark, tiny_feed)
        built.append({part: read_part(tiny_feed, part) for part in parts})
    assert built[0] == built[1]
    assert sorted(row[USER_ID] for row in built[0]["train"]) == ["7", "u"]


@pytest.mark.parametrize(
    ("part", "rows", "days"),
    [
        ("test", slice(0, 2), "2024-01-10 to 2024-01-10; the logs span 2024-01-06 to 2024-01-07"),
        ("train", slice(3, 6), "2024-01-07 to 2024-01-09; the logs span 2024-01-10 to 2024-01-11"),
    ],
)
def test_an_empty_window_names_its_days_and_those_of_the_logs(
    spark: SparkSession, tiny_feed: TinyFeed, part: str, rows: slice, days: str
) -> None:
    from dssm.samples.events import check_windows

    events, _ = read(spark, tiny_feed, "".join(LOG.splitlines(keepends=True)[rows]))
    with pytest.raises(UserError) as caught:
        check_windows(tiny_feed.settings(), events, train_rows=int(part != "train"), test_rows=int(part != "test"))
    assert str(caught.value) == (
        f"window.{part}_days: no row becomes a {part} sample from {days}; "
        "expected rows there: check --date, window and the sources' roles and labels"
    )
