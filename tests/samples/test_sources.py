"""Tables that can't be read, and what is said about them."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, USER_ID, WEIGHT
from tests.samples.feed import HEADER, TinyFeed, ms

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dssm.samples.sources import Quarantine

pytestmark = pytest.mark.spark


class Reader:
    """Reads the tables of a feed one by one."""

    def __init__(self, spark: SparkSession, feed: TinyFeed) -> None:
        self.spark, self.feed = spark, feed
        self.quarantine: Quarantine | None = None

    def _start(self) -> tuple[Any, Quarantine]:
        from dssm.samples.sources import Quarantine

        settings = self.feed.settings()
        self.quarantine = Quarantine(f"{self.feed.folder}/quarantine", settings.samples.max_quarantine_share)
        self.spark.conf.set("spark.sql.session.timeZone", settings.timezone)
        return settings, self.quarantine

    def events(self, name: str = "feed") -> DataFrame:
        from dssm.samples.sources import read_events

        settings, quarantine = self._start()
        return read_events(self.spark, settings, name, settings.sources[name], quarantine)

    def catalogue(self) -> DataFrame:
        from dssm.samples.sources import read_keyed

        settings, quarantine = self._start()
        table, items = settings.catalogue, [f for f in settings.features.values() if f.side == "item"]
        return read_keyed(self.spark, settings, "catalogue", table, table.key, items, quarantine)

    def vectors(self) -> DataFrame:
        from dssm.samples.sources import read_vectors

        settings, quarantine = self._start()
        return read_vectors(self.spark, settings, "post", settings.vectors["post"], quarantine)


@pytest.fixture
def reader(spark: SparkSession, tiny_feed: TinyFeed) -> Reader:
    return Reader(spark, tiny_feed)


def message(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def log(*rows: str) -> str:
    return HEADER + "".join(f"{row}\n" for row in rows)


def test_ids_are_kept_as_they_are_written(reader: Reader) -> None:
    reader.feed.config["sources"]["feed"]["path"] = "{data}/log.csv"
    reader.feed.write("log.csv", log(f'007,"a,""b""",{ms(7, 1)},1,0,home', f"1e3,0.50,{ms(7, 2)},0,1,ad"))
    rows = reader.events().orderBy(EVENT_TIME).collect()
    assert [(row[USER_ID], row[ITEM_ID], row[LABEL], row[WEIGHT], row["kept"]) for row in rows] == [
        ("007", 'a,"b"', 1, 1, True),
        ("1e3", "0.50", 0, 2, False),
    ]


COLUMNS = "client_id, post_id, time, act, dwell, channel"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"user": "clientid"}, r"sources\.feed\.user: no column is named 'clientid' \(did you mean 'client_id'\?\)"),
        ({"time": "when"}, r"sources\.feed\.time: no column is named 'when' \(known: .*client_id.*\)"),
        ({"label": "actt > 0"}, rf"sources\.feed\.label: 'actt > 0': .*`actt`.*; the columns are {COLUMNS}"),
        ({"label": "act >"}, rf"sources\.feed\.label: 'act >': .*; the columns are {COLUMNS}"),
        ({"weight": "max(dwell)"}, rf"sources\.feed\.weight: 'max\(dwell\)': .*; the columns are {COLUMNS}"),
        ({"where": "chanel = 1"}, rf"sources\.feed\.where: 'chanel = 1': .*`chanel`.*; the columns are {COLUMNS}"),
        ({"label": "array(act)"}, rf"sources\.feed\.label: 'array\(act\)': .*; the columns are {COLUMNS}"),
        ({"weight": "array(dwell)"}, rf"sources\.feed\.weight: 'array\(dwell\)': .*; the columns are {COLUMNS}"),
        ({"where": "1 + 1"}, rf"sources\.feed\.where: '1 \+ 1': .*; the columns are {COLUMNS}"),
        (
            {"path": "{data}/nowhere/*.csv"},
            r"sources\.feed\.path: nothing found at /.*/nowhere/\*\.csv; expected csv files",
        ),
        (
            {"path": "{data}/{date:%Y%m%d}.csv"},
            r"sources\.feed\.path: nothing found at /.*/20240107\.csv … /.*/20240110\.csv \(4 days\); "
            "expected csv files",
        ),
        ({"path": "foo://x/*"}, r"sources\.feed\.path: foo://x/\* can't be looked up: No FileSystem for scheme .foo."),
        ({"path": "{data}/[items.csv"}, r"sources\.feed\.path: /.*/\[items\.csv can't be looked up: .*"),
        ({"path": None, "table": "no.such"}, r"sources\.feed\.table: .*`no`\.`such`.*"),
        (
            {"path": "{data}/clients.csv", "format": "parquet"},
            r"sources\.feed: .*clients\.csv can't be read: .* is not a Parquet file.*",
        ),
    ],
    ids=[
        "user column", "time column", "unknown column", "syntax", "aggregate", "list as label", "list as weight",
        "where", "no condition", "no file", "no day", "unknown file system", "malformed glob", "no table", "no Parquet",
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_log(reader: Reader, change: dict[str, Any], expected: str) -> None:
    reader.feed.config["sources"]["feed"] |= change
    said = message(reader.events)
    assert re.fullmatch(expected, said), said


def write_parquet_log(feed: TinyFeed, rows: int = 2, **columns: Any) -> None:
    """Writes a log of one Parquet file, with some columns changed, and points the source to it."""
    usual: dict[str, Any] = {
        "client_id": [7] * rows,
        "post_id": ["p1"] * rows,
        "time": [ms(7, 1)] * rows,
        "act": [1] * rows,
        "dwell": [0] * rows,
        "channel": ["home"] * rows,
    }
    pq.write_table(pa.table(usual | columns), feed.folder / "log.parquet")
    feed.config["sources"]["feed"] |= {"path": "{data}/log.parquet", "format": "parquet"}


FLOATS = r"expected text or integers \(pandas writes integers with nulls as floats\)"


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("client_id", pa.array([7.0, None]), rf"sources\.feed\.user: 'client_id' holds double; {FLOATS}"),
        ("post_id", pa.array([7.0, 8], "float32"), rf"sources\.feed\.item: 'post_id' holds float; {FLOATS}"),
        (
            "post_id",
            pa.array([["p1"], ["p2"]]),
            r"sources\.feed\.item: 'post_id' holds array<string>; expected text or integers",
        ),
    ],
)
def test_ids_that_would_match_nothing(reader: Reader, column: str, values: pa.Array, expected: str) -> None:
    write_parquet_log(reader.feed, **{column: values})
    said = message(reader.events)
    assert re.fullmatch(expected, said), said


def test_a_key_of_floats(reader: Reader) -> None:
    pq.write_table(pa.table({"post_id": [1.0, 2.0], "topic_id": [5, 6], "length": [1, 2]}), reader.feed.folder / "p")
    reader.feed.config["catalogue"] |= {"path": "{data}/p", "format": "parquet"}
    said = message(reader.catalogue)
    assert re.fullmatch(rf"catalogue\.key: 'post_id' holds double; {FLOATS}", said), said


def test_ids_of_other_whole_types(reader: Reader) -> None:
    clients = pa.array([7, 8], pa.decimal128(20))
    write_parquet_log(reader.feed, client_id=clients, post_id=pa.array([b"p1", b"p2"]))
    rows = reader.events().orderBy(USER_ID).collect()
    assert [(row[USER_ID], row[ITEM_ID]) for row in rows] == [("7", "p1"), ("8", "p2")]


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("ms", pa.array([float(ms(7, 1)), float("nan")])),
        ("ms", pa.array([str(ms(7, 1)), "NaN"])),
        ("s", pa.array([ms(7, 1) / 1000, float("nan")])),
        ("s", pa.array([str(ms(7, 1) // 1000), "NaN"])),
        ("iso", pa.array(["2024-01-07 01:00:00", "soon"])),
        ("iso", pa.array([dt.datetime(2024, 1, 6, 17, tzinfo=dt.UTC), None])),
    ],
    ids=["ms", "ms as text", "s", "s as text", "iso", "timestamps"],
)
def test_times_of_parquet_columns(reader: Reader, unit: str, times: pa.Array) -> None:
    write_parquet_log(reader.feed, time=times)
    reader.feed.config["sources"]["feed"]["time_unit"] = unit
    assert [row[EVENT_TIME] for row in reader.events().collect()] == [ms(7, 1)]
    assert reader.quarantine is not None
    assert reader.quarantine.counts["sources.feed"].quarantined == {
        f"bad time in 'time' (expected {unit}, 1970 to 2100)": 1
    }


def test_a_list_as_time(reader: Reader) -> None:
    write_parquet_log(reader.feed, time=pa.array([["2024-01-07"], []]))
    reader.feed.config["sources"]["feed"]["time_unit"] = "iso"
    assert re.match(r"sources\.feed\.time: 'time': .*", message(reader.events))


def test_a_column_that_changes_its_type_between_days(reader: Reader) -> None:
    write_parquet_log(reader.feed)
    table = pq.read_table(reader.feed.folder / "log.parquet")
    text = table.set_column(table.schema.get_field_index("act"), "act", pa.array(["1", "0"]))
    for name, rows in {"a": table, "b": text}.items():
        (reader.feed.folder / "days").mkdir(exist_ok=True)
        pq.write_table(rows, reader.feed.folder / "days" / f"{name}.parquet")
    reader.feed.config["sources"]["feed"]["path"] = "{data}/days/*"
    said = message(reader.events)
    assert re.fullmatch(r"sources\.feed: /.*/days/\* can't be read: .*act.*", said), said


WHERE_LOG = [
    f"7,p1,{ms(7, 1)},1,0,home",
    "7,p1,yesterday,1,0,ad",
    f"7,p1,{ms(7, 2) * 1000},1,0,ad",
    f"7,p1,{ms(7, 3)},yes,0,ad",
    f"7,p1,{ms(7, 4)},1,-2,ad",
    f",p1,{ms(7, 5)},1,0,ad",
    f"7,,{ms(7, 6)},1,0,ad",
    f"7,p1,{ms(7, 7)},1,0,",  # channel is null, and so is the condition
    "7,p1,yesterday,1,0,home",
    "7,p1",
]


def test_rows_that_where_leaves_out_may_hold_anything(reader: Reader) -> None:
    reader.feed.config["sources"]["feed"]["path"] = "{data}/log.csv"
    reader.feed.write("log.csv", log(*WHERE_LOG))
    kept = [row["kept"] for row in reader.events().collect()]
    assert sorted(kept) == [False] * 7 + [True]
    assert reader.quarantine is not None
    counts = reader.quarantine.counts["sources.feed"]
    assert counts.rows_read == 10
    assert counts.quarantined == {
        "bad time in 'time' (expected ms, 1970 to 2100)": 1,
        "malformed row": 1,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"sources\.feed\.path: .* is empty; expected a header line and rows"),
        (HEADER, r"sources\.feed: .*/log\.csv holds no rows; expected at least one"),
    ],
    ids=["no header", "no rows"],
)
def test_an_empty_log(reader: Reader, text: str, expected: str) -> None:
    reader.feed.config["sources"]["feed"]["path"] = "{data}/log.csv"
    reader.feed.write("log.csv", text)
    said = message(reader.events)
    assert re.fullmatch(expected, said), said


def test_days_with_other_columns(reader: Reader) -> None:
    reader.feed.write(
        "feed/dt=2024-01-09/a.csv.gz", f"post_id,client_id,time,act,dwell,channel\np1,7,{ms(9, 1)},1,0,home\n"
    )
    said = message(reader.events)
    expected = (
        r"sources\.feed: .* \(4 days\) can't be read: CSV header .* Expected: client_id but found: post_id .*a\.csv\.gz"
    )
    assert re.fullmatch(expected, said), said


def test_a_file_that_is_cut_off(reader: Reader) -> None:
    path = reader.feed.folder / "feed" / "dt=2024-01-09" / "a.csv.gz"
    path.write_bytes(path.read_bytes()[:40])
    said = message(reader.events)
    assert re.fullmatch(r"sources\.feed: .* \(4 days\) can't be read: Unexpected end of input stream", said), said


def test_ids_that_stand_twice(reader: Reader) -> None:
    reader.feed.write("posts-b.csv", "post_id,topic_id,length\np1,2,1\np1,2,1\np2,1,1\np4,1,1\n")
    assert message(reader.catalogue) == (
        "catalogue.key: 2 values of 'post_id' stand in more than one row: 'p1' (3 rows), 'p2' (2 rows); "
        "expected one row an id"
    )


def test_a_list_for_a_feature_of_one_value(reader: Reader) -> None:
    table = {"post_id": ["p1"], "topic_id": [["5", "6"]], "length": [1.5]}
    pq.write_table(pa.table(table), reader.feed.folder / "posts.parquet")
    reader.feed.config["catalogue"] |= {"path": "{data}/posts.parquet", "format": "parquet"}
    reader.feed.config["features"]["topic_id"] = {"kind": "SparseFeat", "side": "item"}
    assert re.match(
        r"features\.topic_id\.column: 'topic_id' holds lists, a SparseFeat takes one value", message(reader.catalogue)
    )


def test_numbers_of_parquet_columns(reader: Reader) -> None:
    table = {"post_id": [1, 2, 3, 4], "topic_id": [5, 6, 7, 8], "length": [1.5, None, float("nan"), 1e300]}
    pq.write_table(pa.table(table), reader.feed.folder / "posts.parquet")
    reader.feed.config["catalogue"] |= {"path": "{data}/posts.parquet", "format": "parquet"}
    rows = reader.catalogue().orderBy("row__id").collect()
    assert [(row["row__id"], row["topic_id"], row["length"]) for row in rows] == [("1", 5, 1.5), ("2", 6, None)]
    assert reader.quarantine is not None
    assert reader.quarantine.counts["catalogue"].quarantined == {"'length' is not a number": 2}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"key": "postid"}, r"vectors\.post\.key: no column is named 'postid' \(did you mean 'post_id'\?\)"),
        ({"values": "vector"}, r"vectors\.post\.values: no column is named 'vector' \(known: .*\)"),
        (
            {"path": "{data}/no.parquet"},
            r"vectors\.post\.path: nothing found at /.*/no\.parquet; expected parquet files",
        ),
    ],
)
def test_settings_that_do_not_fit_the_vectors(reader: Reader, change: dict[str, Any], expected: str) -> None:
    table = {"post_id": ["a", "b"], "values": [[1.0, 2.0], [1e300, 0.0]]}
    pq.write_table(pa.table(table), reader.feed.folder / "vectors.parquet")
    reader.feed.config["vectors"]["post"] |= {"path": "{data}/vectors.parquet", "format": "parquet"} | change
    said = message(reader.vectors)
    assert re.fullmatch(expected, said), said


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"post_id": ["a"], "values": ["1,2"]},
            "vectors.post.values: 'values' holds string; expected lists of numbers",
        ),
        (
            {"post_id": ["a"], "values": [[[1.0], [2.0]]]},
            "vectors.post.values: 'values' holds array<array<double>>; expected lists of numbers",
        ),
        (
            {"post_id": [1.0], "values": [[1.0, 2.0]]},
            "vectors.post.key: 'post_id' holds double; expected text or integers "
            "(pandas writes integers with nulls as floats)",
        ),
    ],
    ids=["text", "lists of lists", "ids as floats"],
)
def test_vectors_of_other_types(reader: Reader, table: dict[str, Any], expected: str) -> None:
    pq.write_table(pa.table(table), reader.feed.folder / "vectors.parquet")
    reader.feed.config["vectors"]["post"] |= {"path": "{data}/vectors.parquet", "format": "parquet"}
    assert message(reader.vectors) == expected


def test_vectors_of_a_parquet_file(reader: Reader) -> None:
    table = {"post_id": ["a", "b"], "values": [[1.0, 2.0], [1e300, 0.0]]}
    pq.write_table(pa.table(table), reader.feed.folder / "vectors.parquet")
    reader.feed.config["vectors"]["post"] |= {"path": "{data}/vectors.parquet", "format": "parquet"}
    assert [tuple(row) for row in reader.vectors().collect()] == [("a", [1.0, 2.0])]
    assert reader.quarantine is not None
    assert reader.quarantine.counts["vectors.post"].quarantined == {"'values' holds null, NaN or infinity": 1}
