"""Tables full of malformed rows: each row is used, filtered or quarantined with a reason, and no id changes.

The rows are drawn by hypothesis and read together: a Spark job for each would take a second a row.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.features import AnyFeature
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, SOURCE, USER_ID, WEIGHT, encoded_columns
from dssm.packing import unpack
from dssm.samples.encoding import encode_features, split_lists
from dssm.samples.lookup_tables import Tables
from tests.samples.cells import (
    ALIKE,
    AWKWARD,
    IDS,
    Cell,
    as_csv,
    as_json,
    cells,
    check_all_accounted,
    drawn,
    numbered,
    open_feed,
    plain,
    write_parquet,
)
from tests.samples.feed import ZONE, TinyFeed, ms, read_all_events

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

pytestmark = pytest.mark.spark


# Logs ------------------------------------------------------------------------------------------------------

EVENT = st.fixed_dictionaries(
    {
        "client_id": cells(IDS, "", "  ", None),
        "post_id": cells(IDS, "", " ", None),
        "time": cells(
            st.integers(0, 23).map(lambda hour: str(ms(8, hour))) | st.just("0"),
            "", None, "-1", "-5000000000000", "9" * 15, "9" * 30, "NaN", "Infinity", "yesterday", "2024-01-08", "0x10",
        ),
        "act": cells(
            st.sampled_from(["0", "1", "-1", "0.5", " 1 ", "1e2"]), "", None, "NaN", "yes", "1e39", "inf", "a:b:c"
        ),
        "dwell": cells(st.sampled_from(["0", "2.5", "-0.5"]), None, "NaN", "-1.5", "Infinity", "1,5", "-inf"),
        "channel": st.sampled_from(["home", "ad", "日本"]).map(lambda value: Cell(value, True)),
        "at": cells(
            st.builds("2024-01-{:02}{}{:02}:30:00{}".format, st.integers(7, 9), st.sampled_from(" T"),
                      st.integers(0, 23), st.sampled_from(["", ".123", "Z", "+05:30"])) | st.just("2024-01-08"),
            "", None, 0, 7, 2024, 20240108, ms(8, 1), str(ms(8, 1)), 20240108.5, True, "10:30", "10:30:00", "T10:30:00",
            "2024", "2024-01", "now", "today", "2024-13-01", "2024-01-08 25:00:00", "2124-01-08", "1969-12-31 00:00:00",
        ),
    }
)  # fmt: skip
BAD_CSV = ["", "7", "7,p1", "a,b,c,d,e,f,g", '"7', '"7,p1,1,1,1,home', ",,,,,", "\u3000,,,,,x"]
BAD_JSON = [
    '{"client_id": "7"',
    "{",
    "}",
    "7",
    '"7"',
    "true",
    "{}",
    '{"client_id": {"a": [1]}, "post_id": null}',
    "nul",
]


TYPED_EVENT = st.fixed_dictionaries(
    {
        "client_id": cells(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), None),
        "post_id": cells(IDS, None, ""),
        "time": cells(st.integers(0, 23).map(lambda hour: ms(8, hour)), None, -1, 2**62, -(2**63)),
        "act": cells(st.sampled_from([0.0, 1.0, -0.5]), None, float("nan"), float("inf"), 1e300),
        "dwell": cells(st.sampled_from([0.0, 2.5]), None, float("nan"), -2.0, float("-inf")),
        "channel": st.sampled_from(["home", "ad"]).map(lambda value: Cell(value, True)),
    }
)
KINDS = {"client_id": pa.int64(), "time": pa.int64(), "act": pa.float64(), "dwell": pa.float32()}


def event_of(row: dict[str, Cell]) -> tuple[Any, ...]:
    values = {name: cell.value for name, cell in row.items()}
    label, weight = np.float32(values["act"]), np.float32(1 + float(values["dwell"]))
    time = int(values["time"]) if "time" in values else iso_ms(values["at"])
    return str(values["client_id"]), values["post_id"], time, float(label), float(weight)


def iso_ms(text: str) -> int:
    time = dt.datetime.fromisoformat(text)
    return round((time if time.tzinfo else time.replace(tzinfo=ZONE)).timestamp() * 1000)


def without(rows: list[dict[str, Cell]], column: str) -> list[dict[str, Cell]]:
    return [{name: cell for name, cell in row.items() if name != column} for row in rows]


def test_logs(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.event_logs import KEPT
    from dssm.samples.sources import REASON

    rows, typed_rows = drawn(EVENT, 500), drawn(TYPED_EVENT, 600)
    rows += rows[::5]  # duplicate events are events
    timed, dated = without(rows, "at"), without(rows, "time")
    tiny_feed.write("log.csv", as_csv(plain(timed), BAD_CSV))
    tiny_feed.write("log.jsonl", as_json(plain(dated), BAD_JSON))
    write_parquet(tiny_feed.folder / "log.parquet", plain(typed_rows), KINDS)
    usual = tiny_feed.config["sources"]["feed"]
    tiny_feed.config["sources"] = {
        "feed": {**usual, "path": "{data}/log.csv"},
        "likes": {**usual, "path": "{data}/log.jsonl", "format": "json", "time": "at", "time_unit": "iso"},
        "typed": {**usual, "path": "{data}/log.parquet", "format": "parquet"},
    }
    tiny_feed.config["samples"]["max_quarantine_share"] = 1
    items = {*ALIKE[::2], *AWKWARD[::2], "p1"}
    events, logs, quarantine = read_all_events(spark, tiny_feed, sorted(items))
    counts = {log.name: quarantine.counts[log.name] for log in logs}

    # A blank line of a CSV file is no row.
    of_log = ((timed, sum(line != "" for line in BAD_CSV)), (dated, len(BAD_JSON)), (typed_rows, 0))
    for code, (log, (read, raw)) in enumerate(zip(logs, of_log, strict=True)):
        check_all_accounted(tiny_feed, counts[log.name], log.name, len(read) + raw)
        assert events.filter(events[SOURCE] == code).count() == len(read) + raw
        kept = [row for row in read if row["channel"].value != "ad"]
        # Some of the raw lines have no channel either.
        beyond = counts[log.name].filtered["left out by where"] - (len(read) - len(kept))
        assert 0 <= beyond <= raw // 2
        expected = Counter(event_of(row) for row in kept if all(cell.is_good for cell in row.values()))
        assert expected.total() > 30
        names = (USER_ID, ITEM_ID, EVENT_TIME, LABEL, WEIGHT)
        readable = log.rows.filter(log.rows[REASON].isNull() & log.rows[KEPT]).select(*names)
        assert Counter(tuple(row) for row in readable.collect()) == expected
        unknown = sum(count for event, count in expected.items() if event[1] not in items)
        assert counts[log.name].filtered["item not in the catalogue"] == unknown > 0


# Profiles and the catalogue ----------------------------------------------------------------------------------

NUMBERS = cells(st.sampled_from(["", None, "0", "-1.5", "1e3", " 7 ", "+2", ".5", "5."]),
                "NaN", "inf", "x", "1d", "0x1p3", "1e39", "1_000", "１", "--1")  # fmt: skip
WEIGHTED = cells(
    st.sampled_from(
        ["", None, "a:1", "a:b:1", "1:0.5,2:-1", " a : 1 , b:2e-3", ",,a:1,,", "日本:3", ":::1", "a:1;b:2"]
    ),
    "a", "a:", "a:b:c", "a:NaN", "1:1,:2", ":", "a:1,b:inf", "a:1e99", "a:0x1",
)  # fmt: skip
LISTS = st.sampled_from(["", None, "a,b", " , ,", "a,,b,\u3000", "日本,é", "x" * 200]).map(
    lambda value: Cell(value, True)
)
CLIENT = st.fixed_dictionaries(
    {
        "id": cells(IDS, "", "   ", None),
        "client_type": LISTS,
        "age": NUMBERS,
        "follow": LISTS,
        "fav": WEIGHTED,
        "taken": cells(
            st.integers(1, 28).map(lambda day: f"2024-01-{day:02}") | st.just("2024-01-07 10:00:00.123"),
            "", None, "soon", "2124-01-01", "1969-12-31", "99999-01-01", "2024-13-01", "20240107", "2024", "10:00:00",
            "T10:00", "1704600000000",
        ),
        "read_post_id": LISTS,
    }
)  # fmt: skip


def column_of(rows: list[Row], name: str) -> pa.Array:
    """Returns a column of collected rows as the encoder gets it: texts, or lists of them."""
    values = [row[name] for row in rows]
    if any(isinstance(value, list) for value in values):
        return pa.array(values, pa.list_(pa.string()))
    texts = [value.decode() if isinstance(value, bytearray) else value for value in values]
    return pa.array([None if text is None else str(text) for text in texts], pa.string())


def check_encodes(rows: list[Row], features: list[AnyFeature]) -> None:
    """Checks that what the reader lets through is what the encoder takes: finite numbers come out."""
    columns = {feature.source_column: column_of(rows, feature.source_column) for feature in features}
    vocabularies = {feature.name: pa.array(["a", "日本"]) for feature in features}
    encoded = encode_features(columns, features, Tables(vocabularies={**vocabularies, "topic_id": pa.array(["a"])}))
    for feature in features:
        for name, spec in encoded_columns(feature, {}).items():
            values = unpack(encoded[name], spec)
            assert values.shape == (len(rows), *spec.shape)
            assert np.isfinite(values).all()


def check_older_lists(rows: list[Row], entries: dict[int, list[str]]) -> None:
    """Checks what a history goes on with: the ids as they are, without blanks, by the rows' versions."""
    lists = split_lists(column_of(rows, "read_post_id"), ",")
    found = {}
    for row, begin, end in zip(rows, lists.offsets[:-1], lists.offsets[1:], strict=True):
        found[int(row["version"])] = lists.values[begin:end].to_pylist()
    assert found == {version: entries[version] for version in found}
    assert sum(map(len, found.values())) > 30


def test_profiles(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.sources import ID
    from dssm.samples.tables import OLDER_ROW, VALID_FROM, read_profile

    rows = drawn(CLIENT, 600)
    rows += rows[::6]
    values = numbered(rows)
    raw = ["7", "a,b,c,d,e,f,g,h,i", '"']
    tiny_feed.write("clients.csv", as_csv(values, raw))
    tiny_feed.config["profiles"]["clients"] |= {"as_of": "taken", "latest_by": "version"}
    settings = tiny_feed.settings()
    users = [settings.features[name] for name in ("client_type", "age", "follow", "fav")]
    quarantine = open_feed(tiny_feed)
    spark.conf.set("spark.sql.session.timeZone", settings.timezone)
    profile = read_profile(spark, settings, "clients", users, quarantine).collect()

    good = [row for row in values if all(cell.is_good for cell in rows[row["version"]].values())]
    newest = {(row["id"], row["taken"]): row["version"] for row in good}  # the last of each
    assert len(newest) > 40
    found = {(row[ID], int(row["version"])): row[VALID_FROM] for row in profile}
    assert found.keys() == {(user, version) for (user, _), version in newest.items()}
    counts = quarantine.counts["profiles.clients"]
    check_all_accounted(tiny_feed, counts, "profiles.clients", len(values) + len(raw))
    assert counts.filtered == {OLDER_ROW: len(good) - len(newest)}
    check_encodes(profile, users)
    older = {row["version"]: [e.strip() for e in (row["read_post_id"] or "").split(",") if e.strip()] for row in values}
    check_older_lists(profile, older)


# As Parquet holds them: lists as lists, numbers as numbers, of which pandas makes floats where some are null.
TYPED_CLIENT = st.fixed_dictionaries(
    {
        "id": cells(IDS, "", "   ", None),
        "client_type": cells(st.sampled_from([None, b"", b"a", "日本".encode()]), b"\xff", b"a\xc3"),
        "age": cells(st.sampled_from([None, 0.0, -1.5, 1e30]), float("nan"), float("inf"), -float("inf"), 1e39),
        "follow": st.sampled_from([None, [], [1, 2], [None, 2**53]]).map(lambda value: Cell(value, True)),
        "fav": cells(st.sampled_from([None, [], ["a:1", None, " "], ["a:b:1"]]), ["a"], ["a:1", ":1"], ["a:NaN"]),
        "read_post_id": st.lists(
            st.sampled_from([None, float("nan"), 0.0, 7.0, -7.0, 2.5, 2.0**40]), max_size=4
        ).map(lambda value: Cell(value or None, True)),
    }
)  # fmt: skip
CLIENT_KINDS = {
    "client_type": pa.binary(),
    "age": pa.float64(),
    "follow": pa.list_(pa.int64()),
    "fav": pa.list_(pa.string()),
    "read_post_id": pa.list_(pa.float64()),
    "version": pa.int64(),
}


def spelled(entries: list[float | None] | None) -> list[str]:
    """Returns the ids of a list of floats: whole ones as integers."""
    known = [entry for entry in entries or [] if entry is not None and not math.isnan(entry)]
    return [str(int(entry)) if entry == int(entry) else str(entry) for entry in known]


def write_days(feed: TinyFeed, values: list[dict[str, Any]], days: tuple[int, ...]) -> list[dict[str, Any]]:
    """Writes a Parquet file a day. On the second day ids are integers, and older lists hold text.

    Returns: the rows as they are written.
    """
    values = list(values)
    values[1 :: len(days)] = [
        {**row, "id": place % 20, "read_post_id": spelled(row["read_post_id"])}
        for place, row in enumerate(values[1 :: len(days)])
    ]
    for place, day in enumerate(days):
        other = {"id": pa.int64(), "read_post_id": pa.list_(pa.string())} if place == 1 else {}
        of_day = values[place :: len(days)]
        write_parquet(feed.folder / f"clients/2024-01-{day:02}.parquet", of_day, CLIENT_KINDS | other)
    feed.config["profiles"] = {
        "clients": {"path": "{data}/clients/{date}.parquet", "format": "parquet", "key": "id", "latest_by": "version"}
    }
    return values


def test_daily_profiles(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.sources import ID
    from dssm.samples.tables import OLDER_ROW, VALID_FROM, read_profile

    rows, days = drawn(TYPED_CLIENT, 400), (5, 7, 9, 10)
    rows += rows[::4]
    older = {number: spelled(row["read_post_id"].value) for number, row in enumerate(rows)}
    values = write_days(tiny_feed, numbered(rows), days)
    rows[1::4] = [{**row, "id": Cell(0, True)} for row in rows[1::4]]
    settings = tiny_feed.settings()
    users = [settings.features[name] for name in ("client_type", "age", "follow", "fav")]
    quarantine = open_feed(tiny_feed)
    spark.conf.set("spark.sql.session.timeZone", settings.timezone)
    profile = read_profile(spark, settings, "clients", users, quarantine).collect()

    good = [row for row in values if all(cell.is_good for cell in rows[row["version"]].values())]
    # Seen from the next day's start.
    newest = {(str(row["id"]), ms(days[row["version"] % 4] + 1, 0)): row["version"] for row in good}
    assert len(newest) > 40
    assert {(row[ID], row[VALID_FROM]): row["version"] for row in profile} == newest
    counts = quarantine.counts["profiles.clients"]
    check_all_accounted(tiny_feed, counts, "profiles.clients", len(values))
    assert counts.filtered == {OLDER_ROW: len(good) - len(newest)}
    assert counts.missing_days == ["2024-01-06", "2024-01-08"]
    check_encodes(profile, users)
    check_older_lists(profile, older)


def test_a_day_whose_ids_are_floats(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    """Spelled 7.0 beside the text of other days, an id would be another."""
    from dssm.samples.tables import read_profile

    values = numbered(drawn(TYPED_CLIENT, 40))
    write_days(tiny_feed, values, (7, 8, 9))
    as_floats = [{**row, "id": 7.0} for row in values]
    write_parquet(tiny_feed.folder / "clients/2024-01-09.parquet", as_floats, CLIENT_KINDS | {"id": pa.float64()})
    with pytest.raises(UserError, match=r"^profiles\.clients\.key: 'id' holds double; expected text or integers"):
        read_profile(spark, tiny_feed.settings(), "clients", [], open_feed(tiny_feed))


LATE = dt.datetime(2024, 2, 1)  # beyond the windows
POST = st.fixed_dictionaries(
    {
        "post_id": cells(IDS | st.integers(-9, 9), None, "", "  "),
        "topic_id": st.sampled_from([None, "", "a", 7, 7.5, True, "日本"]).map(lambda value: Cell(value, True)),
        "length": cells(st.sampled_from([None, "", 1, -2.5, "3", 1e30]), "x", "NaN", 1e39, True, {"a": 1}, [1]),
        "uploaded": cells(st.integers(0, ms(10, 0)) | st.sampled_from([None, "", " "]), -1, 10**15, "soon", True, []),
    }
)


TYPED_POST = st.fixed_dictionaries(
    {
        "post_id": cells(IDS.map(str.encode), None, b"", b"  ", b"\xff", b"7\xc3"),
        "topic_id": cells(st.sampled_from([None, b"", b"a", "日本".encode()]), b"\xff"),
        "length": cells(st.sampled_from([None, 1.0, -2.5, 1e30]), float("nan"), 1e39, -float("inf")),
        "uploaded": cells(
            st.sampled_from([None, LATE]) | st.integers(1, 9).map(lambda day: dt.datetime(2024, 1, day)),
            dt.datetime(1969, 12, 31), dt.datetime(2124, 1, 1), dt.datetime(1900, 1, 1),
        ),
    }
)  # fmt: skip
POST_KINDS = {"post_id": pa.binary(), "topic_id": pa.binary(), "length": pa.float64(), "version": pa.int64()}
POST_KINDS |= {"uploaded": pa.timestamp("us", tz="UTC")}


def text_of(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_the_catalogue(spark: SparkSession, tiny_feed: TinyFeed, form: str) -> None:
    from dssm.samples.items import with_item_index
    from dssm.samples.sources import ID
    from dssm.samples.tables import LATER_ITEM, OLDER_ROW, read_catalogue

    rows = drawn(POST if form == "json" else TYPED_POST, 500)
    values = numbered(rows)
    raw = ["{", '{"post_id": 1', "7", "nul"] if form == "json" else []
    if form == "json":
        tiny_feed.write("posts.json", as_json(values, raw))
    else:
        write_parquet(tiny_feed.folder / "posts.parquet", values, POST_KINDS)
    tiny_feed.config["catalogue"] |= {
        "path": f"{{data}}/posts.{form}", "format": form, "latest_by": "version", "upload_time": "uploaded",
        "upload_unit": "ms" if form == "json" else "iso",
    }  # fmt: skip
    settings = tiny_feed.settings()
    items = [settings.features[name] for name in ("post_id", "topic_id", "length")]
    quarantine = open_feed(tiny_feed)
    catalogue = with_item_index(read_catalogue(spark, settings, items, quarantine)).collect()

    good = [row for row in values if all(cell.is_good for cell in rows[row["version"]].values())]
    newest = {text_of(row["post_id"]): row["version"] for row in good}
    assert len(newest) > 30
    later = sum(values[version]["uploaded"] == LATE for version in newest.values())
    assert (later > 0) == (form == "parquet")
    found = {row[ID]: int(row["version"]) for row in catalogue}
    assert found == newest
    assert {"7", "07", "7.0", "７"} & found.keys() == {"7", "07", "7.0", "７"} & newest.keys() != set()
    counts = quarantine.counts["catalogue"]
    check_all_accounted(tiny_feed, counts, "catalogue", len(values) + len(raw))
    assert counts.filtered.get(LATER_ITEM, 0) == later
    assert counts.filtered[OLDER_ROW] == len(good) - len(newest)
    check_encodes(catalogue, items)
