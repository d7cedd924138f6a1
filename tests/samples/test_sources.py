"""Tables that can't be read, and what is said about them."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.manifest import (
    ALWAYS,
    EVENT_TIME,
    ITEM_ID,
    LABEL,
    UPLOAD_TIME,
    USER_ID,
    WEIGHT,
    target_column,
)
from dssm.samples.event_logs import KEPT
from tests.samples.feed import HEADER, ms
from tests.samples.reading import Reader, log, message, write_parquet_log

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.spark
FLOATS = r"expected text or integers \(pandas writes integers with nulls as floats\)"


def test_ids_are_kept_as_they_are_written(reader: Reader) -> None:
    reader.feed.config["sources"]["feed"]["path"] = "{data}/log.csv"
    reader.feed.write("log.csv", log(f'007,"a,""b""",{ms(7, 1)},1,0,home', f"1e3,0.50,{ms(7, 2)},0,1,ad"))
    rows = reader.events().orderBy(EVENT_TIME).collect()
    assert [(row[USER_ID], row[ITEM_ID], row[LABEL], row[WEIGHT], row[KEPT]) for row in rows] == [
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


def bad_time(column: str, unit: str) -> str:
    return f"bad time in '{column}' (expected {'iso with a full date' if unit == 'iso' else unit}, 1970 to 2100)"


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
    assert reader.counts("sources.feed").quarantined == {bad_time("time", unit): 1}


def test_a_list_as_time(reader: Reader) -> None:
    write_parquet_log(reader.feed, time=pa.array([["2024-01-07"], []]))
    reader.feed.config["sources"]["feed"]["time_unit"] = "iso"
    assert message(reader.events).startswith("sources.feed.time: 'time' holds array<string>; expected text such as ")


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
    kept = [row[KEPT] for row in reader.events().collect()]
    assert sorted(kept) == [False] * 7 + [True]
    counts = reader.counts("sources.feed")
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
        "expected one row an id, or latest_by: the column that says which row is newest"
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
    assert reader.counts("catalogue").quarantined == {"'length' is not a number": 2}


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
    assert reader.counts("vectors.post").quarantined == {"'values' holds null, NaN or infinity": 1}


# Targets -------------------------------------------------------------------------------------------------

STAYS = [
    f"7,p1,{ms(7, 1)},1,30,home",
    f"7,p1,{ms(7, 2)},0,-10,home",
    f"7,p1,{ms(7, 3)},1,0,home",
    f"7,p1,{ms(7, 4)},1,,home",  # not known
    f"7,p1,{ms(7, 5)},1,30.5,home",
    f"7,p1,{ms(7, 6)},1,NaN,home",
    f"7,p1,{ms(7, 7)},1,long,home",
    f"7,p1,{ms(7, 8)},2,0,home",
    f"7,p1,{ms(7, 9)},9,99,ad",  # left out
]


def test_targets_are_scaled_and_checked(reader: Reader) -> None:
    feed = reader.feed
    feed.write("log.csv", log(*STAYS))
    feed.config["sources"]["feed"] |= {
        "path": "{data}/log.csv", "weight": "1", "targets": {"stay": "dwell", "also": "act", "short": "act * 0.5"},
    }  # fmt: skip
    feed.config["targets"] = {"stay": {"low": -10, "high": 30}}
    rows = reader.events().filter(KEPT).orderBy(EVENT_TIME).collect()
    names = [target_column(name) for name in ("stay", "also", "short")]
    nan = pytest.approx(float("nan"), nan_ok=True)
    found = [[row[name] for name in names] for row in rows]
    assert found == [[1, 1, 0.5], [0, 0, 0], [0.25, 1, 0.5], [nan, 1, 0.5]]
    counts = reader.counts("sources.feed")
    assert counts.quarantined == {"target also is not in 0…1": 1, "target stay is not in -10…30": 3}
    assert counts.filtered == {"left out by where": 1, "negative, and train_rows is positives": 1}


def test_a_target_that_is_no_expression(reader: Reader) -> None:
    reader.feed.config["sources"]["feed"]["targets"] = {"stay": "dwel"}
    assert re.fullmatch(
        r"sources\.feed\.targets\.stay: 'dwel': .*`dwel`.*; the columns are " + COLUMNS, message(reader.events)
    )


# Uploads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "day", "hour"),
    [
        ("iso", "2024-01-07", "2024-01-07 10:00:00"),
        ("ms", str(ms(7, 0)), str(ms(7, 10))),
        ("s", str(ms(7, 0) // 1000), str(ms(7, 10) // 1000)),
    ],
)
def test_uploads(reader: Reader, unit: str, day: str, hour: str) -> None:
    rows = [f"a,{day}", f"b,{hour}", "c,", "d, ", "e,soon", f"f,{ms(7, 10)}000", "g,-5"]
    reader.feed.write("posts.csv", "post_id,uploaded,topic_id,length\n" + "".join(f"{row},1,1\n" for row in rows))
    reader.feed.config["catalogue"] |= {"path": "{data}/posts.csv", "upload_time": "uploaded", "upload_unit": unit}
    found = {row["row__id"]: row[UPLOAD_TIME] for row in reader.catalogue().collect()}
    assert found == {"a": ms(7, 0), "b": ms(7, 10), "c": ALWAYS, "d": ALWAYS}
    assert reader.counts("catalogue").quarantined == {bad_time("uploaded", unit): 3}


def test_without_upload_times_items_were_always_there(reader: Reader) -> None:
    assert {row[UPLOAD_TIME] for row in reader.catalogue().collect()} == {ALWAYS}
