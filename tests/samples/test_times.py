"""Times under the unit iso: what is one, and what is not."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.manifest import EVENT_TIME
from tests.samples.feed import ms
from tests.samples.reading import Reader, log, message, write_parquet_log

pytestmark = pytest.mark.spark


def refusal(column: str, unit: str) -> str:
    return (
        f"{column}; expected text such as 2022-04-25 10:00:00, dates or timestamps, as {unit} is iso: set it to ms or "
        "s for Unix times, and write days such as 20220425 as 2022-04-25"
    )


def test_numbers_are_no_times_of_events(reader: Reader) -> None:
    """Spark takes 20240107 as a second of August 1970."""
    write_parquet_log(reader.feed, time=[20240107, 20240108])
    reader.feed.config["sources"]["feed"]["time_unit"] = "iso"
    assert message(reader.events) == refusal("sources.feed.time: 'time' holds bigint", "time_unit")


def test_numbers_are_no_times_of_snapshots(reader: Reader) -> None:
    """A partition such as dt=20240107 is read as a number."""
    folder = reader.feed.folder / "snapshots" / "dt=20240107"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["u"], "client_type": ["a"]}), folder / "a.parquet")
    reader.feed.config["profiles"]["clients"] |= {"path": "{data}/snapshots", "format": "parquet", "as_of": "dt"}
    assert message(reader.profile) == refusal("profiles.clients.as_of: 'dt' holds int", "as_of_unit")


def test_numbers_are_no_times_of_uploads(reader: Reader) -> None:
    table = {"post_id": ["p1"], "topic_id": [1], "length": [1], "uploaded": [20240107.0]}
    pq.write_table(pa.table(table), reader.feed.folder / "posts.parquet")
    reader.feed.config["catalogue"] |= {
        "path": "{data}/posts.parquet", "format": "parquet", "upload_time": "uploaded",
    }  # fmt: skip
    assert message(reader.catalogue) == refusal("catalogue.upload_time: 'uploaded' holds double", "upload_unit")


def test_a_text_without_a_full_date_is_no_time(reader: Reader) -> None:
    """Spark takes a time of day alone as of today: a rerun would give other samples."""
    bad = ["10:15:00", "T10:15", "2024", "2024-01", "20240107", "+2024-01-07"]
    good = ["2024-01-07 01:00:00", " 2024-1-7T01:00", "2024-01-06T17:00:00Z"]
    reader.feed.write("log.csv", log(*[f"7,p1,{time},1,0,home" for time in bad + good]))
    reader.feed.config["sources"]["feed"] |= {"path": "{data}/log.csv", "time_unit": "iso"}
    assert [row[EVENT_TIME] for row in reader.events().collect()] == [ms(7, 1)] * 3
    assert reader.counts("sources.feed").quarantined == {
        "bad time in 'time' (expected iso with a full date, 1970 to 2100)": 6
    }
