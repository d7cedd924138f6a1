"""The files of the feed: what stands in them, and that the same parameters give the same bytes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.demo.feed import (
    CLIENT_TYPES,
    COLD_CLIENTS,
    HOURLY,
    SLOTS,
    Feed,
    draw_events,
    plant_tastes,
)
from dssm.demo.files import write_feed
from tests.demo.feeds import END, SMALL, all_clicks, bytes_of, text_table


def test_log_has_the_asked_events_in_order_of_time_within_each_day(log: dict[str, pa.Table]) -> None:
    assert list(log) == ["2024-01-11", "2024-01-12", "2024-01-13", "2024-01-14", "2024-01-15"]
    assert sum(day.num_rows for day in log.values()) == SMALL.events
    assert log["2024-01-13"].num_rows == pytest.approx(1.2 * log["2024-01-12"].num_rows, abs=2)  # a Saturday
    for date, day in log.items():
        assert day.column_names == ["client_id", "post_id", "act", "time", "position", "like", "dwell_share"]
        time = day["time"].to_numpy()
        midnight = dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp() * 1000
        assert (np.diff(time) >= 0).all()
        assert midnight <= time[0]
        assert time[-1] < midnight + 86_400_000
        assert set(np.unique(day["act"])) == {0, 1}
        assert (pc.min(day["position"]).as_py(), pc.max(day["position"]).as_py()) == (1, SLOTS)
    acts = np.concatenate([day["act"] for day in log.values()])
    assert acts.mean() == pytest.approx(0.3, abs=0.03)


def test_evenings_are_busier_than_nights_by_the_daily_curve(log: dict[str, pa.Table]) -> None:
    time = np.concatenate([day["time"].to_numpy() for day in log.values()])
    by_hour = np.bincount(time // 3_600_000 % 24, minlength=24)
    expected = np.array(HOURLY) / sum(HOURLY) * len(time)
    assert np.abs(by_hour - expected).max() <= SMALL.days + 1  # stratified: at most one event a day and border


def test_days_start_at_midnight_of_the_time_zone_even_on_a_day_of_23_hours() -> None:
    feed = dataclasses.replace(SMALL, end=dt.date(2024, 3, 31), timezone="Europe/Berlin")
    events = draw_events(feed, plant_tastes(feed), feed.end, 0, feed.events_by_day()[-1])
    midnight = dt.datetime(2024, 3, 30, 23, tzinfo=dt.UTC).timestamp() * 1000
    assert 0 <= events.time[0] - midnight < 60_000
    assert 0 < midnight + 23 * 3_600_000 - events.time[-1] < 60_000


def test_profiles_parse_and_know_only_the_feeds_ids(folder: Path, log: dict[str, pa.Table]) -> None:
    clients, reads, posts = (text_table(folder / f"{name}.csv") for name in ("clients", "reads", "posts"))
    topics, post_ids, client_ids = set(posts["topic_id"]), set(posts["post_id"]), set(clients["client_id"])
    assert (len(client_ids), len(post_ids), len(topics)) == (SMALL.clients, SMALL.posts, SMALL.topics)
    assert set(clients["client_type"]) == set(CLIENT_TYPES)
    for day in log.values():
        assert {str(x) for x in day["client_id"].to_pylist()} <= client_ids
        assert {str(x) for x in day["post_id"].to_pylist()} <= post_ids

    followed = [text.split(",") for text in clients["follow_topic_id"] if text]
    assert 0.9 * SMALL.clients < len(followed) <= SMALL.clients
    assert all(set(ids) <= topics and len(set(ids)) == len(ids) for ids in followed)

    with_favourites = [text for text in clients["all_topic_fav_7"] if text]
    assert len(with_favourites) == SMALL.clients - round(COLD_CLIENTS * SMALL.clients)
    for text in with_favourites:
        pairs = [entry.split(":") for entry in text.split(",")]
        ids, weights = [id_ for id_, _ in pairs], [float(weight) for _, weight in pairs]
        assert set(ids) <= topics
        assert len(set(ids)) == len(ids)
        assert min(weights) > 0
        assert sum(weights) == pytest.approx(1, abs=5e-4)

    assert 0.6 * SMALL.clients < len(set(reads["client_id"])) == len(reads["client_id"]) < 0.95 * SMALL.clients
    assert set(reads["client_id"]) <= client_ids
    assert all(text and set(text.split(",")) <= post_ids for text in reads["read_post_id"])


def test_lists_are_quoted_and_ids_have_gaps(folder: Path) -> None:
    header, first = (folder / "reads.csv").read_text().split("\n")[:2]
    assert header == "client_id,read_post_id"
    assert first.split(",", 1)[1][0] == first[-1] == '"'
    ids = [int(x) for x in text_table(folder / "posts.csv")["post_id"]]
    assert ids[0] > 1_000
    assert max(np.diff(ids)) > 1
    assert min(np.diff(ids)) >= 1


def test_vectors_are_near_for_posts_of_one_topic_and_a_few_are_missing(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "vectors.jsonl").read_text().splitlines()]
    topic_of = dict(zip(*(text_table(folder / "posts.csv")[name] for name in ("post_id", "topic_id")), strict=True))
    assert 0.9 * SMALL.posts < len(rows) < SMALL.posts
    assert all(set(row) == {"post_id", "values"} and len(row["values"]) == SMALL.vector_width for row in rows)
    vectors = np.array([row["values"] for row in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    topics = np.array([topic_of[row["post_id"]] for row in rows])
    cosine, same = vectors @ vectors.T, topics[:, None] == topics[None, :]
    others = ~np.eye(len(rows), dtype=bool)
    assert cosine[same & others].mean() > cosine[~same].mean() + 0.4


def test_cold_clients_appear_on_the_last_day_only_and_have_no_past(folder: Path, log: dict[str, pa.Table]) -> None:
    clients = text_table(folder / "clients.csv")
    cold = {id_ for id_, text in zip(clients["client_id"], clients["all_topic_fav_7"], strict=True) if not text}
    days = {date: {str(x) for x in day["client_id"].to_pylist()} for date, day in log.items()}
    last = days.pop(END.isoformat())
    assert len(cold) == 18
    assert not cold & set().union(*days.values())
    assert len(cold & last) >= 12
    assert not cold & set(text_table(folder / "reads.csv")["client_id"])


# Reproducibility -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [1_777, 1 << 20])
def test_same_parameters_give_the_same_bytes_however_the_rows_are_cut(
    folder: Path, tmp_path: Path, rows_at_once: int
) -> None:
    write_feed(SMALL, tmp_path, rows_at_once=rows_at_once)
    assert bytes_of(tmp_path) == bytes_of(folder)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 5_000), max_size=4), day=st.integers(0, SMALL.days - 1))
def test_events_do_not_depend_on_the_piece_they_are_drawn_in(cuts: list[int], day: int) -> None:
    tastes, date = plant_tastes(SMALL), SMALL.dates[day]
    whole = draw_events(SMALL, tastes, date, 0, 5_000)
    bounds = [0, *sorted(cuts), 5_000]
    pieces = [draw_events(SMALL, tastes, date, low, high) for low, high in pairwise(bounds)]
    for field in dataclasses.fields(whole):
        joined = np.concatenate([getattr(piece, field.name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(whole, field.name))


def test_another_seed_gives_other_clicks_and_other_tastes() -> None:
    other = dataclasses.replace(SMALL, seed=4)
    assert not np.array_equal(plant_tastes(SMALL).favourites, plant_tastes(other).favourites)
    assert not np.array_equal(all_clicks(SMALL)[1][:1000], all_clicks(other)[1][:1000])


@given(events=st.integers(15, 10**9), days=st.integers(2, 15))
def test_events_of_the_days_sum_to_the_events(events: int, days: int) -> None:
    counts = Feed(end=END, events=events, days=days).events_by_day()
    assert len(counts) == days
    assert sum(counts) == events
    assert min(counts) >= 0
