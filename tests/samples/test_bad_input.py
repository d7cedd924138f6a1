"""Tables full of malformed rows: each row is used, filtered or quarantined with a reason, and no id changes.

The rows are drawn by hypothesis and read together: a Spark job for each would take a second a row.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dssm.features import AnyFeature
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, SOURCE, USER_ID, WEIGHT, SourceCounts
from dssm.packing import unpack
from dssm.samples.encoding import encode_features
from dssm.samples.lookup_tables import Tables
from tests.samples.feed import TinyFeed, ms, quarantined_rows, read_all_events

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dssm.samples.sources import Quarantine

pytestmark = pytest.mark.spark


@dataclass(frozen=True)
class Cell:
    """A value, and whether it is one that the column may hold."""

    value: Any
    is_good: bool


def cells(good: st.SearchStrategy[Any], *bad: Any) -> st.SearchStrategy[Cell]:
    """Draws good values mostly, or else one of the bad ones."""
    right = good.map(lambda value: Cell(value, True))
    return st.one_of(right, right, right, right, st.sampled_from(bad).map(lambda value: Cell(value, False)))


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Returns values of a strategy, the same ones every time."""
    values: list[Any] = []

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    assert len(values) > count / 2
    return values


# Ids that a careless reader would take for one another, and text that it would trip over.
ALIKE = ["7", "07", "7.0", "7e0", "+7", "７", "٧", "a", "A", "é", "e\u0301", "K", "\u212a", "7 ", " 7", "null", "NULL"]
AWKWARD = [
    '"',
    "'",
    "a,b",
    "a\\",
    "\\n",
    "{}",
    "日本",
    "🦊",
    "\u200b",
    "\u2028x",
    "=1+1",
    "-",
    "x" * 300,
    "\ufeff7",
    "$1",
]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
IDS = st.sampled_from(ALIKE) | st.sampled_from(AWKWARD) | TEXTS.filter(lambda text: text.strip(" ") != "")


def as_csv(rows: list[dict[str, Any]], raw: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue() + "".join(f"{line}\n" for line in raw)


def as_json(rows: list[dict[str, Any]], raw: list[str]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows) + "".join(f"{line}\n" for line in raw)


def check_all_accounted(feed: TinyFeed, counts: SourceCounts, name: str, written: int) -> None:
    """Checks that the rows written are those used, filtered and quarantined, and that the latter have a reason."""
    assert counts.rows_read == written
    assert sum(sum(part.values()) for part in (counts.used, counts.filtered, counts.quarantined)) == written
    kept = quarantined_rows(feed.folder, name)
    assert Counter(row["reason"] for row in kept) == counts.quarantined
    assert all(row["reason"] and isinstance(json.loads(row["row"]), dict) for row in kept)
    assert 0.1 < len(kept) / written < 0.9


def open_feed(feed: TinyFeed) -> Quarantine:
    from dssm.samples.sources import Quarantine

    return Quarantine(f"{feed.folder}/quarantine", 1.0)


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
    return str(values["client_id"]), values["post_id"], int(values["time"]), float(label), float(weight)


def plain(rows: list[dict[str, Cell]]) -> list[dict[str, Any]]:
    return [{name: cell.value for name, cell in row.items()} for row in rows]


def test_logs(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.event_logs import KEPT
    from dssm.samples.sources import REASON

    rows, typed_rows = drawn(EVENT, 500), drawn(TYPED_EVENT, 600)
    rows += rows[::5]  # duplicate events are events
    tiny_feed.write("log.csv", as_csv(plain(rows), BAD_CSV))
    # JSON has types: a number and its text are the same id, as they are between logs of different formats.
    with_numbers = [
        {**row, "time": int(time)} if (time := row["time"]) and time.isdigit() else row for row in plain(rows)
    ]
    tiny_feed.write("log.jsonl", as_json(with_numbers, BAD_JSON))
    columns = {name: [row[name] for row in plain(typed_rows)] for name in typed_rows[0]}
    table = {name: pa.array(values, KINDS.get(name, pa.string())) for name, values in columns.items()}
    pq.write_table(pa.table(table), tiny_feed.folder / "log.parquet")
    usual = tiny_feed.config["sources"]["feed"]
    tiny_feed.config["sources"] = {
        "feed": {**usual, "path": "{data}/log.csv"},
        "likes": {**usual, "path": "{data}/log.jsonl", "format": "json"},
        "typed": {**usual, "path": "{data}/log.parquet", "format": "parquet"},
    }
    tiny_feed.config["samples"]["max_quarantine_share"] = 1
    items = {*ALIKE[::2], *AWKWARD[::2], "p1"}
    events, logs, quarantine = read_all_events(spark, tiny_feed, sorted(items))
    counts = {log.name: quarantine.counts[log.name] for log in logs}

    # A blank line of a CSV file is no row.
    of_log = ((rows, sum(line != "" for line in BAD_CSV)), (rows, len(BAD_JSON)), (typed_rows, 0))
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
            "", None, "soon", "2124-01-01", "1969-12-31", "99999-01-01", "2024-13-01",
        ),
    }
)  # fmt: skip


def numbered(rows: list[dict[str, Cell]]) -> list[dict[str, Any]]:
    """Returns the values, with a column of which no two rows have the same number."""
    return [{**{name: cell.value for name, cell in row.items()}, "version": number} for number, row in enumerate(rows)]


def check_encodes(frame: DataFrame, features: list[AnyFeature]) -> None:
    """Checks that what the reader lets through is what the encoder takes: finite numbers come out."""
    rows = frame.collect()
    names = {feature.source_column for feature in features}
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in names}
    vocabularies = {feature.name: pa.array(["a", "日本"]) for feature in features}
    encoded = encode_features(columns, features, Tables(vocabularies={**vocabularies, "topic_id": pa.array(["a"])}))
    from dssm.manifest import encoded_columns

    for feature in features:
        for name, spec in encoded_columns(feature, {}).items():
            values = unpack(encoded[name], spec)
            assert values.shape == (len(rows), *spec.shape)
            assert np.isfinite(values).all()


def test_profiles(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.sources import ID
    from dssm.samples.tables import VALID_FROM, read_profile

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
    frame = read_profile(spark, settings, "clients", users, quarantine)

    good = [row for row in values if all(cell.is_good for cell in rows[row["version"]].values())]
    newest = {(row["id"], row["taken"]): row["version"] for row in good}  # the last of each
    assert len(newest) > 40
    found = {(row[ID], int(row["version"])): row[VALID_FROM] for row in frame.collect()}
    assert found.keys() == {(user, version) for (user, _), version in newest.items()}
    counts = quarantine.counts["profiles.clients"]
    check_all_accounted(tiny_feed, counts, "profiles.clients", len(values) + len(raw))
    assert counts.filtered == {"an older row of its id": len(good) - len(newest)}
    check_encodes(frame, users)


POST = st.fixed_dictionaries(
    {
        "post_id": cells(IDS | st.integers(-9, 9), None, "", "  "),
        "topic_id": st.sampled_from([None, "", "a", 7, 7.5, True, "日本"]).map(lambda value: Cell(value, True)),
        "length": cells(st.sampled_from([None, "", 1, -2.5, "3", 1e30]), "x", "NaN", 1e39, True, {"a": 1}, [1]),
        "uploaded": cells(st.integers(0, ms(10, 0)) | st.sampled_from([None, "", " "]), -1, 10**15, "soon", True, []),
    }
)


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_the_catalogue(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.items import with_item_index
    from dssm.samples.sources import ID
    from dssm.samples.tables import read_catalogue

    rows = drawn(POST, 500)
    values = numbered(rows)
    raw = ["{", '{"post_id": 1', "7", "nul"]
    tiny_feed.write("posts.jsonl", as_json(values, raw))
    tiny_feed.config["catalogue"] |= {
        "path": "{data}/posts.jsonl", "format": "json", "latest_by": "version", "upload_time": "uploaded",
        "upload_unit": "ms",
    }  # fmt: skip
    settings = tiny_feed.settings()
    items = [settings.features[name] for name in ("post_id", "topic_id", "length")]
    quarantine = open_feed(tiny_feed)
    catalogue = read_catalogue(spark, settings, items, quarantine)

    good = [row for row in values if all(cell.is_good for cell in rows[row["version"]].values())]
    newest = {text_of(row["post_id"]): row["version"] for row in good}
    assert len(newest) > 40
    found = {row[ID]: int(row["version"]) for row in with_item_index(catalogue).collect()}
    assert found == newest
    assert {"7", "07", "7.0", "７"} & found.keys() == {"7", "07", "7.0", "７"} & newest.keys() != set()
    counts = quarantine.counts["catalogue"]
    check_all_accounted(tiny_feed, counts, "catalogue", len(values) + len(raw))
    check_encodes(catalogue, items)


# Vectors -------------------------------------------------------------------------------------------------------

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
VECTOR = st.fixed_dictionaries(
    {
        "post_id": cells(IDS, None, "", "  "),
        "values": cells(
            st.lists(FINITE, min_size=2, max_size=2),
            None, [], [1], [1, 2, 3], [1, None], [float("nan"), 1], [1, float("inf")], "1,2", {"a": 1}, [[1, 2]], 7,
            ["a", "b"], [1e39, 0],
        ),
    }
)  # fmt: skip


def unique(rows: list[dict[str, Cell]], key: str, fix: Callable[[str, int], str]) -> list[dict[str, Cell]]:
    """Returns the rows with each good id once."""
    seen: set[str] = set()
    made = []
    for number, row in enumerate(rows):
        cell = row[key]
        if cell.is_good and cell.value in seen:
            cell = Cell(fix(cell.value, number), True)
        if cell.is_good:
            seen.add(cell.value)
        made.append({**row, key: cell})
    return made


def test_vectors(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.vectors import read_vectors

    rows = unique(drawn(VECTOR, 500), "post_id", lambda value, number: f"{value}#{number}")
    values = plain(rows)
    raw = ["{", "7", '{"post_id": "cut", "values": [1', '{"values": [1, 2]}', '{"post_id": "none"}']
    tiny_feed.write("vectors.jsonl", as_json(values, raw))
    quarantine = open_feed(tiny_feed)
    settings = tiny_feed.settings()
    frame = read_vectors(spark, settings, "post", settings.vectors["post"], quarantine)

    good = {r["post_id"].value: r["values"].value for r in rows if r["post_id"].is_good and r["values"].is_good}
    assert len(good) > 100
    assert {row["id"]: row["values"] for row in frame.collect()} == good
    check_all_accounted(tiny_feed, quarantine.counts["vectors.post"], "vectors.post", len(values) + len(raw))
