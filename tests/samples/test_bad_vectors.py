"""Tables of vectors full of malformed rows; a model's published ones are taken as they are or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.published import scale_column
from tests.samples.cells import (
    IDS,
    Cell,
    as_json,
    cells,
    check_all_accounted,
    drawn,
    open_feed,
    plain,
    write_parquet,
)
from tests.samples.feed import TinyFeed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dssm.samples.published import ModelVectors

pytestmark = pytest.mark.spark

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


# A model's published vectors, which are taken as they are or not at all ------------------------------------------

HALVES = st.lists(st.floats(-100, 100, width=16), min_size=2, max_size=2)
TINY = st.lists(st.integers(-128, 127), min_size=2, max_size=2)


def halves(*numbers: float) -> bytes:
    return np.array(numbers, "<f2").tobytes()


# By what they are stored as: the column's type, good vectors, some of another width, and what are no finite numbers.
FORMS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], list[Any], list[Any]]] = {
    "float16": (
        pa.binary(),
        HALVES.map(lambda numbers: halves(*numbers)),
        [b"", halves(1)],
        [None, b"\x3c", halves(1, 2)[:3], halves(math.nan, 1), halves(1, -math.inf)],
    ),
    "float64": (
        pa.list_(pa.float64()),
        HALVES,
        [[], [1.0], [1.0, 2.0, 3.0]],
        [None, [1.0, None], [math.nan, 1.0], [1.0, -math.inf], [1e39, 0.0]],
    ),
    "int8": (pa.list_(pa.int8()), TINY, [[], [1]], [None, [1, None], [None, None]]),
}
SCALE = 0.5  # of int8


def numbers_of(vector: Any, form: str) -> list[float]:
    """Returns a good vector's numbers."""
    if form == "float16":
        return np.frombuffer(vector, "<f2").tolist()
    return [number * SCALE for number in vector] if form == "int8" else vector


@pytest.mark.parametrize("form", FORMS)
def test_published_vectors(spark: SparkSession, tiny_feed: TinyFeed, form: str) -> None:
    from dssm.samples.published import read_published

    def read(folder: str, rows: list[dict[str, Any]]) -> ModelVectors:
        scaled = [{**row, scale_column("vector"): SCALE} for row in rows]
        write_parquet(tiny_feed.folder / folder / "a.parquet", scaled, kinds)
        return read_published(spark, tiny_feed.settings(), name, f"{{data}}/{folder}", "item_id", "vector")

    kind, vectors, other, bad = FORMS[form]
    kinds, name = {"vector": kind, scale_column("vector"): pa.float32()}, "samples.negatives.near.items"
    drawn_rows = drawn(
        st.fixed_dictionaries({"item_id": cells(IDS, None), "vector": cells(vectors, *other, *bad)}), 200
    )
    rows = plain(drawn_rows)
    good = {row["item_id"]: row["vector"] for row, cell in zip(rows, drawn_rows, strict=True) if is_good(cell)}
    found = read("good", [{"item_id": item, "vector": vector} for item, vector in good.items()])
    assert {row["id"]: row["values"] for row in found.frame.collect()} == {
        item: numbers_of(vector, form) for item, vector in good.items()
    }
    assert (found.rows, found.width) == (len(good), 2)

    ids = {row["item_id"] for row in rows} - {None}
    no_numbers = [repr(vector) for vector in bad]
    count = sum(repr(row["vector"]) in no_numbers for row in rows)
    assert count > 3
    said = f"holds {len(rows)} rows of {len(ids)} ids, -1 to [23] numbers each, {count} of them null or not finite; "
    with pytest.raises(UserError, match=f"^{name}: .* {said}"):
        read("bad", rows)


def is_good(row: dict[str, Cell]) -> bool:
    return all(cell.is_good for cell in row.values())


def test_published_vectors_of_no_numbers(spark: SparkSession, tiny_feed: TinyFeed) -> None:
    from dssm.samples.published import read_published

    rows = [{"item_id": "p1", "vector": []}, {"item_id": "p2", "vector": []}]
    write_parquet(tiny_feed.folder / "empty/a.parquet", rows, {"vector": pa.list_(pa.float32())})
    with pytest.raises(UserError, match="holds 2 rows of 2 ids, 0 to 0 numbers each"):
        read_published(spark, tiny_feed.settings(), "n", "{data}/empty", "item_id", "vector")
