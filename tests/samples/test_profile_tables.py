"""Profiles by snapshots, and ids of several rows."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.samples.tables import VALID_FROM
from tests.samples.feed import ZONE, ms
from tests.samples.reading import Reader, message

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


pytestmark = pytest.mark.spark


CLIENTS = "id,client_type,age,follow,fav,taken\n"


def valid_from(frame: DataFrame) -> dict[tuple[str, str], int]:
    rows = [(row["row__id"], row["client_type"], row[VALID_FROM]) for row in frame.collect()]
    found = {(user, kind): time for user, kind, time in rows}
    assert len(found) == len(rows)
    return found


def test_snapshots_by_their_time(reader: Reader) -> None:
    """A row is seen strictly after it was taken: from the next millisecond on, of a day from the next day on."""
    rows = ["u,a,,,,2024-01-07", "u,b,,,,2024-01-08 12:00:00", "v,c,,,,1970-01-02", "v,d,,,,soon", "v,e,,,,"]
    rows += ["w,f,,,, 2024-1-7 ", "w,g,,,,2024-01-07 00:00:00"]
    reader.feed.write("clients.csv", CLIENTS + "\n".join(rows))
    reader.feed.config["profiles"]["clients"]["as_of"] = "taken"
    assert valid_from(reader.profile()) == {
        ("u", "a"): ms(8, 0),
        ("u", "b"): ms(8, 12) + 1,
        ("v", "c"): 40 * 3_600_000,  # 1970-01-03 in Shanghai
        ("w", "f"): ms(8, 0),
        ("w", "g"): ms(7, 0) + 1,
    }
    assert reader.counts("profiles.clients").quarantined == {
        "bad time in 'taken' (expected iso with a full date, 1970 to 2100)": 2
    }


def test_snapshots_by_their_files(reader: Reader) -> None:
    """A day's file holds that day, and is seen from the next day's start on."""
    feed = reader.feed
    for day in ("2024-01-05", "2024-01-06", "2024-01-09", "2024-01-10"):
        feed.write(f"clients/{day}.csv", f"{CLIENTS}u,{day},,,,\nu{day},{day},old,,,\n")
    feed.config["profiles"]["clients"]["path"] = "{data}/clients/{date}.csv"
    # From the day before the windows to the last day of the test.
    assert valid_from(reader.profile()) == {
        ("u", "2024-01-06"): ms(7, 0), ("u", "2024-01-09"): ms(10, 0), ("u", "2024-01-10"): ms(11, 0),
    }  # fmt: skip
    counts = reader.counts("profiles.clients")
    assert (counts.used, counts.quarantined) == ({"read": 3}, {"'age' is not a number": 3})
    assert counts.missing_days == ["2024-01-07", "2024-01-08"]
    folder = f"{feed.folder}/clients"
    assert counts.place == f"{folder}/2024-01-06.csv … {folder}/2024-01-10.csv (5 days)"


def test_a_day_that_may_come_between_the_newest_before_the_windows_and_these(reader: Reader) -> None:
    """Its file is the one that the first events will see: the build is to be made again."""
    for day in ("2024-01-04", "2024-01-08"):
        reader.feed.write(f"clients/{day}.csv", f"{CLIENTS}u,{day},,,,\n")
    reader.feed.config["profiles"]["clients"]["path"] = "{data}/clients/{date}.csv"
    reader.profile()
    missing = reader.counts("profiles.clients").missing_days
    assert missing == [f"2024-01-{day}" for day in ("05", "06", "07", "09", "10")]


@pytest.mark.parametrize(
    ("unit", "taken", "kind"),
    [
        ("iso", [dt.date(2024, 1, 7)], pa.date32()),
        ("iso", [dt.datetime(2024, 1, 7, tzinfo=ZONE)], pa.timestamp("us", "UTC")),
        ("ms", [ms(7, 0)], pa.int64()),
    ],
    ids=["date", "timestamp", "ms"],
)
def test_snapshots_by_a_column_of_times(reader: Reader, unit: str, taken: list[Any], kind: pa.DataType) -> None:
    """Only of a day it is known that it is a whole one."""
    pq.write_table(pa.table({"id": ["u"], "taken": pa.array(taken, kind)}), reader.feed.folder / "clients.parquet")
    reader.feed.config["profiles"]["clients"] |= {
        "path": "{data}/clients.parquet", "format": "parquet", "as_of": "taken", "as_of_unit": unit,
    }  # fmt: skip
    (row,) = reader.profile().collect()
    assert row[VALID_FROM] == (ms(8, 0) if kind == pa.date32() else ms(7, 0) + 1)


def test_a_file_of_several_days_is_refused(reader: Reader) -> None:
    """Read once a day, the month's last days would be seen from its first ones on."""
    reader.feed.write("clients/202401.csv", f"{CLIENTS}u,a,,,,\n")
    path = "{data}/clients/{date:%Y%m}.csv"
    reader.feed.config["profiles"]["clients"]["path"] = path
    assert message(reader.profile) == (
        f"profiles.clients.path: {path} is {reader.feed.folder}/clients/202401.csv on 2024-01-06 and on 2024-01-07; "
        "expected a file for each day, as {date} and {date:%Y%m%d} name them. For files of several days put * in the "
        "place of {date}, and name as_of, the column of the time that a row was taken"
    )


def test_a_table_from_a_day_on(reader: Reader) -> None:
    assert {row[VALID_FROM] for row in reader.profile("reads").collect()} == {ms(8, 0)}
    assert {row[VALID_FROM] for row in reader.profile("clients").collect()} == {0}


@pytest.mark.parametrize(
    ("files", "change", "expected"),
    [
        (
            {"clients.csv": "u,a,,,,2024-01-07\nu,b,,,,2024-01-07 23:59:59.999\nv,c,,,,2024-01-07\n"},
            {"as_of": "taken"},
            r"profiles\.clients\.key: 1 values of 'id' stand in more than one row of a snapshot: 'u' \(2 rows\); "
            r"expected one row an id, or latest_by: .*",
        ),
        (
            {"clients/2024-01-09.csv": "u,a,,,,\nu,b,,,,\n"},
            {"path": "{data}/clients/{date}.csv"},
            r"profiles\.clients\.key: 1 values of 'id' stand in more than one row of a snapshot: 'u' \(2 rows\); .*",
        ),
        (
            {},
            {"path": "{data}/clients/{date}.csv"},
            r"profiles\.clients\.path: nothing found at /.*/2024-01-06\.csv … /.*/2024-01-10\.csv \(5 days\); "
            "expected csv files",
        ),
        ({}, {"as_of": "takn"}, r"profiles\.clients\.as_of: no column is named 'takn' \(did you mean 'taken'\?\)"),
    ],
    ids=["twice at a time", "twice in a file", "no file", "no column"],
)
def test_snapshots_that_do_not_fit(
    reader: Reader, files: dict[str, str], change: dict[str, str], expected: str
) -> None:
    reader.feed.write("clients.csv", CLIENTS + "u,a,,,,\n")
    for name, rows in files.items():
        reader.feed.write(name, CLIENTS + rows)
    reader.feed.config["profiles"]["clients"] |= change
    said = message(reader.profile)
    assert re.fullmatch(expected, said), said


def test_days_of_a_profile_with_other_columns(reader: Reader) -> None:
    reader.feed.write("clients/2024-01-08.csv", CLIENTS + "u,a,,,,\n")
    reader.feed.write("clients/2024-01-09.csv", CLIENTS.replace("taken", "when") + "u,a,,,,\n")
    reader.feed.config["profiles"]["clients"]["path"] = "{data}/clients/{date}.csv"
    assert message(reader.profile) == (
        "profiles.clients.path: the days' files differ in their columns; expected the same in each"
    )


# Several rows of an id -------------------------------------------------------------------------------------


def test_the_newest_row_of_an_id(reader: Reader) -> None:
    rows = [
        "p1,1,1,9",
        "p1,2,2,10",
        "p1,3,3,",
        "p1,4,4,NaN",
        "p2,1,1,b",
        "p2,2,2,c",
        "p3,1,1,",
        "p4,1,1,7",
        "p4,2,2,zz",
        "p5,x,y,1",
    ]
    reader.feed.write("posts.csv", "post_id,topic_id,length,version\n" + "\n".join(rows))
    reader.feed.config["catalogue"] |= {"path": "{data}/posts.csv", "latest_by": "version"}
    found = {row["row__id"]: row["version"] for row in reader.catalogue().collect()}
    # Numbers by value, before texts; nothing only where there is nothing else.
    assert found == {"p1": "10", "p2": "c", "p3": None, "p4": "7"}
    counts = reader.counts("catalogue")
    assert counts.used == {"read": 4}
    assert counts.filtered == {"an older row of its id": 5}
    assert counts.quarantined == {"'length' is not a number": 1}


def test_the_newest_row_of_each_snapshot(reader: Reader) -> None:
    rows = ["u,a,1,,,2024-01-07", "u,b,2,,,2024-01-07", "u,c,0,,,2024-01-08", "v,d,5,,,2024-01-07"]
    reader.feed.write("clients.csv", CLIENTS + "\n".join(rows))
    reader.feed.config["profiles"]["clients"] |= {"as_of": "taken", "latest_by": "age"}
    assert valid_from(reader.profile()) == {
        ("u", "b"): ms(8, 0), ("u", "c"): ms(9, 0), ("v", "d"): ms(8, 0),
    }  # fmt: skip
    assert reader.counts("profiles.clients").filtered == {"an older row of its id": 1}


def test_two_newest_rows_are_an_error(reader: Reader) -> None:
    reader.feed.write("posts.csv", "post_id,topic_id,length\np1,1,3\np1,2,3\np1,3,1\np2,1,1\n")
    reader.feed.config["catalogue"] |= {"path": "{data}/posts.csv", "latest_by": "length"}
    assert message(reader.catalogue).startswith(
        "catalogue.key: 1 values of 'post_id' stand in more than one row: 'p1' (2 rows); expected one row an id"
    )


@pytest.mark.parametrize(
    "versions",
    [
        [dt.date(2024, 1, 9), dt.date(2024, 1, 10), dt.date(2024, 1, 11), None, dt.date(2024, 1, 12)],
        [
            dt.datetime(2024, 1, 9, 16), dt.datetime(2024, 1, 10, 15), dt.datetime(2024, 1, 10, 16), None,
            dt.datetime(2025, 1, 1),
        ],  # in UTC: 16:00 is midnight in Shanghai
    ],
    ids=["dates", "timestamps"],
)  # fmt: skip
def test_rows_of_after_the_windows_are_not_the_newest(reader: Reader, versions: list[Any]) -> None:
    kind = pa.timestamp("us", "UTC") if isinstance(versions[0], dt.datetime) else pa.date32()
    table = {"post_id": ["p1", "p1", "p1", "p2", "p3"], "topic_id": [0, 1, 2, 3, 4], "length": [1] * 5}
    pq.write_table(pa.table({**table, "version": pa.array(versions, kind)}), reader.feed.folder / "posts.parquet")
    reader.feed.config["catalogue"] |= {
        "path": "{data}/posts.parquet", "format": "parquet", "latest_by": "version",
    }  # fmt: skip
    assert {row["row__id"]: row["topic_id"] for row in reader.catalogue().collect()} == {"p1": 1, "p2": 3}
    counts = reader.counts("catalogue")
    assert counts.used == {"read": 2}
    assert counts.filtered == {"an older row of its id": 1, "of after the windows": 2}


def test_a_table_of_after_the_windows_alone(reader: Reader) -> None:
    table = {"id": ["u", "u"], "client_type": ["a", "b"], "day": [dt.date(2024, 1, 11), dt.date(2024, 2, 1)]}
    pq.write_table(pa.table(table), reader.feed.folder / "clients.parquet")
    reader.feed.config["profiles"]["clients"] |= {
        "path": "{data}/clients.parquet", "format": "parquet", "latest_by": "day",
    }  # fmt: skip
    assert message(reader.profile) == (
        f"profiles.clients.latest_by: all 2 rows of {reader.feed.folder}/clients.parquet are of after the windows; "
        "check --date"
    )
