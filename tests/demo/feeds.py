"""A small generated feed, and readers of its files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from dssm.demo.feed import (
    Events,
    Feed,
    draw_events,
    plant_tastes,
)

CONFIG = str(Path(__file__).parents[2] / "conf" / "demo.yaml")
END = dt.date(2024, 1, 15)
SMALL = Feed(end=END, days=5, events=60_000, clients=600, posts=300, topics=12, vector_width=8, seed=3)


def text_table(path: Path) -> dict[str, list[str]]:
    """All columns as text, as the pipeline reads them; an empty field is ''."""
    header = path.read_text().split("\n", 1)[0].split(",")
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    return csv.read_csv(path, convert_options=as_text).to_pydict()


def oracle(folder: Path, name: str) -> tuple[dict[str, int], np.ndarray]:
    """Returns id → row, and the vectors: (rows, topics)."""
    table = pq.read_table(folder / "oracle" / f"{name}.parquet")
    assert table.schema.equals(pa.schema({"id": pa.string(), "values": pa.list_(pa.float32())}))
    ids = table["id"].to_pylist()
    return {id_: row for row, id_ in enumerate(ids)}, np.array(table["values"].to_pylist())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def draw_days(feed: Feed) -> list[Events]:
    tastes, sizes = plant_tastes(feed), zip(feed.dates, feed.events_by_day(), strict=True)
    return [draw_events(feed, tastes, date, 0, count) for date, count in sizes]


def all_clicks(feed: Feed) -> tuple[np.ndarray, np.ndarray]:
    days = draw_days(feed)
    return np.concatenate([e.client[e.act] for e in days]), np.concatenate([e.post[e.act] for e in days])
