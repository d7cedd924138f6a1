from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv
from scipy import stats

from dssm.config import load_settings
from dssm.demo.__main__ import main
from dssm.demo.feed import (
    BACKGROUND,
    CLIENT_TYPES,
    COLD_CLIENTS,
    DWELL_SHAPES,
    HOURLY,
    LIKE_RATES,
    SECOND_TOPIC_SHARE,
    SLOTS,
    WORDS_STREAM,
    Events,
    Feed,
    Tastes,
    draw_events,
    plant_tastes,
)
from dssm.demo.files import AGE_DAYS_MEAN, LENGTH_S, make_feed, write_feed
from dssm.demo.recall import CUTOFF, best_reachable_recall, popularity_recall
from dssm.demo.words import COMMON_WORDS, WORDS_OF_TOPIC, make_lexicon
from dssm.errors import UserError

CONFIG = str(Path(__file__).parents[1] / "conf" / "demo.yaml")
END = dt.date(2024, 1, 15)
SMALL = Feed(end=END, days=5, events=60_000, clients=600, posts=300, topics=12, vector_width=8, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "small"
    make_feed(SMALL, str(folder))
    return folder


@pytest.fixture(scope="module")
def log(folder: Path) -> dict[str, pa.Table]:
    """The events by day, as read from the files."""
    return {path.parent.name[3:]: csv.read_csv(path) for path in sorted(folder.glob("events/dt=*/part-*.csv"))}


def _text_table(path: Path) -> dict[str, list[str]]:
    """All columns as text, as the pipeline reads them; an empty field is ''."""
    header = path.read_text().split("\n", 1)[0].split(",")
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    return csv.read_csv(path, convert_options=as_text).to_pydict()


def _oracle(folder: Path, name: str) -> tuple[dict[str, int], np.ndarray]:
    """Returns id → row, and the vectors: (rows, topics)."""
    table = pq.read_table(folder / "oracle" / f"{name}.parquet")
    assert table.schema.equals(pa.schema({"id": pa.string(), "values": pa.list_(pa.float32())}))
    ids = table["id"].to_pylist()
    return {id_: row for row, id_ in enumerate(ids)}, np.array(table["values"].to_pylist())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _draw_days(feed: Feed) -> list[Events]:
    tastes, sizes = plant_tastes(feed), zip(feed.dates, feed.events_by_day(), strict=True)
    return [draw_events(feed, tastes, date, 0, count) for date, count in sizes]


def _all_clicks(feed: Feed) -> tuple[np.ndarray, np.ndarray]:
    days = _draw_days(feed)
    return np.concatenate([e.client[e.act] for e in days]), np.concatenate([e.post[e.act] for e in days])


# The files -------------------------------------------------------------------------------------------


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
    clients, reads, posts = (_text_table(folder / f"{name}.csv") for name in ("clients", "reads", "posts"))
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
    ids = [int(x) for x in _text_table(folder / "posts.csv")["post_id"]]
    assert ids[0] > 1_000
    assert max(np.diff(ids)) > 1
    assert min(np.diff(ids)) >= 1


def test_vectors_are_near_for_posts_of_one_topic_and_a_few_are_missing(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "vectors.jsonl").read_text().splitlines()]
    topic_of = dict(zip(*(_text_table(folder / "posts.csv")[name] for name in ("post_id", "topic_id")), strict=True))
    assert 0.9 * SMALL.posts < len(rows) < SMALL.posts
    assert all(set(row) == {"post_id", "values"} and len(row["values"]) == SMALL.vector_width for row in rows)
    vectors = np.array([row["values"] for row in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    topics = np.array([topic_of[row["post_id"]] for row in rows])
    cosine, same = vectors @ vectors.T, topics[:, None] == topics[None, :]
    others = ~np.eye(len(rows), dtype=bool)
    assert cosine[same & others].mean() > cosine[~same].mean() + 0.4


def test_cold_clients_appear_on_the_last_day_only_and_have_no_past(folder: Path, log: dict[str, pa.Table]) -> None:
    clients = _text_table(folder / "clients.csv")
    cold = {id_ for id_, text in zip(clients["client_id"], clients["all_topic_fav_7"], strict=True) if not text}
    days = {date: {str(x) for x in day["client_id"].to_pylist()} for date, day in log.items()}
    last = days.pop(END.isoformat())
    assert len(cold) == 18
    assert not cold & set().union(*days.values())
    assert len(cold & last) >= 12
    assert not cold & set(_text_table(folder / "reads.csv")["client_id"])


# Reactions, words and numbers ------------------------------------------------------------------------


def test_a_reaction_follows_a_click_only(log: dict[str, pa.Table]) -> None:
    events = pa.concat_tables(log.values()).to_pandas()
    clicked = events["act"] == 1
    assert set(events["like"]) == {0, 1}
    assert events.loc[~clicked, ["like", "dwell_share"]].to_numpy().max() == 0
    dwell = events.loc[clicked, "dwell_share"].to_numpy()
    assert dwell.min() >= 0.001
    assert dwell.max() <= 1
    np.testing.assert_array_equal(dwell, np.rint(dwell * 1000) / 1000)
    assert len(np.unique(dwell)) > 900


def _affinity(tastes: Tastes, client: int, post: int) -> float:
    """The client's θ over the post's topics, by the definition."""
    values = tastes.client_values(client, client + 1)[0]
    (main, second), share = tastes.post_topics[post], tastes.second_shares[post]
    return (1 - share) * values[main] + share * values[second]


def test_affinity_is_the_taste_for_the_posts_topics() -> None:
    tastes = plant_tastes(SMALL)
    random = np.random.default_rng(0)
    client, post = random.integers(0, SMALL.clients, 200), random.integers(0, SMALL.posts, 200)
    expected = [_affinity(tastes, c, p) for c, p in zip(client, post, strict=True)]
    assert 0 < np.mean(np.array(expected) > 0.1) < 1
    np.testing.assert_allclose(tastes.affinity(client, post), expected, atol=1e-12)


def test_dwell_share_has_the_mean_of_its_beta_distribution_at_each_affinity() -> None:
    tastes, days = plant_tastes(SMALL), _draw_days(SMALL)
    client, post, dwell = (
        np.concatenate([getattr(e, name)[e.act] for e in days]) for name in ("client", "post", "dwell_share")
    )
    affinity = tastes.affinity(client, post)
    shape = DWELL_SHAPES[0] + (DWELL_SHAPES[1] - DWELL_SHAPES[0]) * affinity
    deviation = np.sqrt(shape / (shape + 1) ** 2 / (shape + 2))  # of Beta(a, 1)
    for low, high in pairwise((0, 0.1, 0.3, 0.6, 1.01)):
        of_bin = (affinity >= low) & (affinity < high)
        error = np.sqrt((deviation[of_bin] ** 2).sum()) / of_bin.sum()
        assert of_bin.sum() > 500
        assert dwell[of_bin].mean() == pytest.approx((shape / (shape + 1))[of_bin].mean(), abs=4 * error + 1e-3)


def test_likes_are_likelier_by_the_first_topic_than_by_another_and_least_by_the_background() -> None:
    tastes, days = plant_tastes(SMALL), _draw_days(SMALL)
    client, post, like = (
        np.concatenate([getattr(e, name)[e.act] for e in days]) for name in ("client", "post", "like")
    )
    weights = tastes.favourite_weights
    first = np.take_along_axis(tastes.favourites, weights.argmax(axis=1)[:, None], axis=1)[client, 0]
    # p(topic that drew the post | client, post) by Bayes: φ_t θ_ut, the background's part of φ_t apart.
    own = (
        (1 - BACKGROUND)
        * tastes.own[post]
        * np.take_along_axis(tastes.client_values()[client], tastes.post_topics[post], axis=1)
    )
    background = BACKGROUND * (tastes.own * tastes.topic_shares[tastes.post_topics]).sum(axis=1)[post]
    by_first = (own * (tastes.post_topics[post] == first[:, None])).sum(axis=1)
    by_other, whole = own.sum(axis=1) - by_first, own.sum(axis=1) + background
    expected = (np.array([by_first, by_other, background]) / whole * np.array(LIKE_RATES)[:, None]).sum(axis=0)
    for low, high in ((0.08, 0.15), (0.15, 0.3), (0.3, 0.51)):
        of_bin = (expected >= low) & (expected < high)
        error = np.sqrt((expected * (1 - expected))[of_bin].sum()) / of_bin.sum()
        assert of_bin.sum() > 500
        assert like[of_bin].mean() == pytest.approx(expected[of_bin].mean(), abs=4 * error)


def test_titles_and_interests_are_in_the_words_of_their_topics(folder: Path) -> None:
    tastes, lexicon = plant_tastes(SMALL), make_lexicon(SMALL.generator(WORDS_STREAM), SMALL.topics)
    words = lexicon.words.to_pylist()
    assert len(set(words)) == len(words) == WORDS_OF_TOPIC * SMALL.topics + COMMON_WORDS
    assert all(re.fullmatch("[a-z]{4,7}", word) for word in words)
    topic_of = {word: place // WORDS_OF_TOPIC for place, word in enumerate(words[: WORDS_OF_TOPIC * SMALL.topics])}

    titles = [title.split(" ") for title in _text_table(folder / "posts.csv")["title"]]
    assert {len(title) for title in titles} == {3, 4, 5, 6}
    topics = [[topic_of[word] for word in title if word in topic_of] for title in titles]
    assert all(set(found) <= set(own) for found, own in zip(topics, tastes.post_topics.tolist(), strict=True))
    of_main = [t == main for found, main in zip(topics, tastes.post_topics[:, 0], strict=True) for t in found]
    assert np.mean(of_main) == pytest.approx(1 - SECOND_TOPIC_SHARE / 2, abs=0.03)
    assert len(of_main) / sum(map(len, titles)) == pytest.approx(0.7, abs=0.03)

    interests = _text_table(folder / "clients.csv")["interests"]
    stated = [(text.split(" "), own) for text, own in zip(interests, tastes.favourites.tolist(), strict=True) if text]
    assert len(stated) / SMALL.clients == pytest.approx(0.8, abs=0.05)
    assert {len(text) for text, _ in stated} == set(range(3, 9))
    of_favourites = [topic_of.get(word) in own for text, own in stated for word in text]
    assert 0.7 < np.mean(of_favourites) < 0.82  # any topic's words are a favourite's at times, too


@given(count=st.integers(1, 3_000), seed=st.integers(0, 9))
def test_made_up_words_are_all_different(count: int, seed: int) -> None:
    words = make_lexicon(np.random.default_rng(seed), count).words
    assert len(words) == len(pc.unique(words)) == WORDS_OF_TOPIC * count + COMMON_WORDS
    assert pc.all(pc.match_substring_regex(words, "^[a-z]{4,11}$")).as_py()


def test_a_topics_first_words_are_the_likeliest_and_all_occur() -> None:
    lexicon = make_lexicon(np.random.default_rng(0), topics=3)
    uniform = np.random.default_rng(1).random(40_000)
    drawn = lexicon.draw(np.full(40_000, 1), uniform).to_pylist()
    own = lexicon.words.to_pylist()[WORDS_OF_TOPIC : 2 * WORDS_OF_TOPIC]
    counts = [drawn.count(word) for word in own]
    assert sum(counts) == 40_000
    expected = 40_000 * np.diff(np.sqrt(np.arange(WORDS_OF_TOPIC + 1) / WORDS_OF_TOPIC))
    assert 1e-3 < stats.chisquare(counts, expected).pvalue < 1 - 1e-3
    assert set(lexicon.draw(np.full(2_000, 3), uniform[:2_000]).to_pylist()) == set(
        lexicon.words.to_pylist()[3 * WORDS_OF_TOPIC :]
    )


def test_lengths_are_log_normal_and_cold_clients_have_just_registered(folder: Path) -> None:
    seconds = np.array(_text_table(folder / "posts.csv")["length_s"], dtype=float)
    assert seconds.min() > 0
    assert stats.kstest(np.log(seconds), "norm", LENGTH_S).pvalue > 1e-3
    clients = _text_table(folder / "clients.csv")
    age = np.array(clients["age_days"], dtype=int)
    cold = np.array([not text for text in clients["all_topic_fav_7"]])
    assert (age[cold] == 0).all()
    assert stats.kstest(age[~cold] + 0.5, "expon", (0, AGE_DAYS_MEAN)).pvalue > 1e-3


# Reproducibility -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [1_777, 1 << 20])
def test_same_parameters_give_the_same_bytes_however_the_rows_are_cut(
    folder: Path, tmp_path: Path, rows_at_once: int
) -> None:
    write_feed(SMALL, tmp_path, rows_at_once=rows_at_once)
    assert _bytes(tmp_path) == _bytes(folder)


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
    assert not np.array_equal(_all_clicks(SMALL)[1][:1000], _all_clicks(other)[1][:1000])


@given(events=st.integers(15, 10**9), days=st.integers(2, 15))
def test_events_of_the_days_sum_to_the_events(events: int, days: int) -> None:
    counts = Feed(end=END, events=events, days=days).events_by_day()
    assert len(counts) == days
    assert sum(counts) == events
    assert min(counts) >= 0


# The planted tastes ----------------------------------------------------------------------------------


def test_oracle_gives_each_client_a_distribution_over_the_posts(folder: Path) -> None:
    clients, client_values = _oracle(folder, "clients")
    posts, post_values = _oracle(folder, "posts")
    assert list(clients) == _text_table(folder / "clients.csv")["client_id"]
    assert list(posts) == _text_table(folder / "posts.csv")["post_id"]
    np.testing.assert_allclose(client_values.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(post_values.sum(axis=0), 1, atol=1e-6)
    probability = client_values @ post_values.T
    assert probability.min() > 0
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)


def _p_value(client: np.ndarray, post: np.ndarray, probability: np.ndarray, bins: int = 50) -> float:
    """Tests that clicks follow each client's distribution: their places in its CDF, best post first, are uniform."""
    order = np.argsort(-probability, axis=1)
    before = np.zeros(probability.shape)
    ranked = np.take_along_axis(probability, order, axis=1)
    np.put_along_axis(before, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    spread = np.random.default_rng(0).random(len(client))  # within the post's own step of the CDF
    place = before[client, post] + spread * probability[client, post]
    return float(stats.chisquare(np.bincount((place * bins).astype(int).clip(0, bins - 1), minlength=bins)).pvalue)


def test_clicks_of_the_log_follow_the_oracle(folder: Path, log: dict[str, pa.Table]) -> None:
    (clients, client_values), (posts, post_values) = _oracle(folder, "clients"), _oracle(folder, "posts")
    probability = client_values @ post_values.T
    clicks = pa.concat_tables(log.values()).filter(pc.field("act") == 1)
    client = np.array([clients[str(x)] for x in clicks["client_id"].to_pylist()])
    post = np.array([posts[str(x)] for x in clicks["post_id"].to_pylist()])
    assert len(client) > 15_000
    assert 1e-3 < _p_value(client, post, probability) < 1 - 1e-3
    # The test would see tastes that are a tenth flatter, let alone another client's.
    flatter = (probability + 0.1 * probability.mean(axis=0)) / 1.1
    assert _p_value(client, post, flatter) < 1e-6
    assert _p_value(client, post, np.roll(probability, 1, axis=0)) < 1e-100


def test_clicks_on_each_post_are_as_many_as_the_oracle_expects(folder: Path) -> None:
    client, post = _all_clicks(SMALL)
    (_, client_values), (_, post_values) = _oracle(folder, "clients"), _oracle(folder, "posts")
    expected = np.bincount(client, minlength=SMALL.clients) @ (client_values @ post_values.T)
    observed = np.bincount(post, minlength=SMALL.posts)
    assert expected.min() > 5
    assert 1e-4 < stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), SMALL.posts - 1) < 1 - 1e-4


@pytest.mark.parametrize("client", [0, 17])
def test_many_clicks_of_one_client_follow_its_row_of_the_oracle(client: int) -> None:
    tastes, draws = plant_tastes(SMALL), 500_000
    source_u, topic_u, post_u = np.random.default_rng(client).random((3, draws))
    posts = tastes.draw_posts(tastes.draw_topics(np.full(draws, client), source_u < BACKGROUND, topic_u), post_u)
    expected = tastes.post_values() @ tastes.client_values()[client] * draws
    observed = np.bincount(posts, minlength=SMALL.posts)
    assert expected.min() > 5
    assert 1e-3 < stats.chisquare(observed, expected).pvalue < 1 - 1e-3


def _auc(score: np.ndarray, label: np.ndarray) -> float:
    positives, negatives = label.sum(), (~label).sum()
    return (stats.rankdata(score)[label].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def test_tastes_tell_clicks_from_impressions_and_popularity_does_not() -> None:
    feed = Feed(end=END)
    tastes, days = plant_tastes(feed), _draw_days(feed)
    counts = sum(np.bincount(e.post[e.act], minlength=feed.posts) for e in days[:-1])
    last = days[-1]
    by_taste = np.einsum("et,et->e", tastes.client_values()[last.client], tastes.post_values()[last.post])
    assert _auc(by_taste, last.act) > 0.74
    assert _auc(counts[last.post], last.act) == pytest.approx(0.5, abs=0.02)


def test_recall_is_the_mean_share_of_each_clients_clicked_posts_among_the_first_k() -> None:
    clients = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    posts = np.array([[0.6, 0.0], [0.3, 0.1], [0.1, 0.3], [0.0, 0.6]])
    # Client 0 ranks posts 0, 1 first and clicked 0 (twice), 3; client 1 ranks 3, 2 and clicked 2; client 2: no click.
    client, post = np.array([0, 1, 0, 0]), np.array([0, 2, 0, 3])
    assert best_reachable_recall(clients, posts, client, post, k=2) == pytest.approx((1 / 2 + 1) / 2)
    assert popularity_recall(np.array([1, 5, 5, 9]), client, post, k=2) == pytest.approx((1 / 2 + 0) / 2)
    assert best_reachable_recall(clients, posts, client, post, k=99) == 1
    assert best_reachable_recall(clients, posts, client[:0], post[:0]) is None
    assert popularity_recall(np.ones(4), client[:0], post[:0]) is None


def test_default_feed_leaves_room_between_popularity_and_the_oracle(tmp_path: Path) -> None:
    summary, _ = make_feed(Feed(end=END), str(tmp_path / "feed"))
    assert summary.best_reachable_recall is not None
    assert summary.popularity_recall is not None
    assert summary.best_reachable_recall > 0.45
    assert summary.popularity_recall < 0.25


def test_printed_recall_is_that_of_the_written_files(folder: Path, log: dict[str, pa.Table]) -> None:
    (clients, client_values), (posts, post_values) = _oracle(folder, "clients"), _oracle(folder, "posts")
    last = log[END.isoformat()].to_pandas().query("act == 1")
    shares = []
    for client, rows in last.groupby("client_id"):
        ranking = np.argsort(-(post_values @ client_values[clients[str(client)]]))[:CUTOFF]
        clicked = {posts[str(x)] for x in rows["post_id"]}
        shares.append(len(clicked & set(ranking)) / len(clicked))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["best_reachable_recall"] == pytest.approx(np.mean(shares), abs=1e-3)
    assert manifest["clients_ranked"] == len(shares)


# The command -----------------------------------------------------------------------------------------


def test_settings_of_the_demo_read_what_the_demo_writes(folder: Path) -> None:
    conf = load_settings(CONFIG, [f"data={folder}", "window.train_days=4"])
    assert (conf.date, conf.window.test_days, conf.train.ranks, conf.train.launch) == (END, 1, 2, "spark")
    tables = {**conf.sources, **conf.profiles, "catalogue": conf.catalogue}
    columns: dict[str, list[str]] = {}
    for name, table in tables.items():
        assert table.path is not None
        for pattern in conf.expand(table.path):
            parent, _, last = pattern.rpartition("/")
            (path,) = Path(parent).glob(last)
            columns[name] = csv.read_csv(path).column_names
    assert {conf.sources["feed"].user, conf.sources["feed"].item, conf.sources["feed"].time} <= set(columns.pop("feed"))
    known = {*conf.histories, *(column for names in columns.values() for column in names)}
    assert {feature.source_column for feature in conf.features.values()} <= known
    assert all(history.then in known for history in conf.histories.values())
    assert all(Path(conf.expand(vectors.path)[0]).is_file() for vectors in conf.vectors.values())
    assert conf.expand(conf.evaluate.oracle or "") == [str(folder / "oracle")]


def _run(folder: Path, *options: str) -> int:
    sizes = ("--events", "3000", "--clients", "60", "--posts", "50", "--topics", "6")
    return main(["--config", CONFIG, "--output", str(folder), *sizes, *options])


def test_command_covers_the_windows_of_the_settings_and_prints_both_recalls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("date=2024-02-01", "window.train_days=3", "window.test_days=2", "vectors.post.width=5", "seed=9")
    assert _run(tmp_path / "feed", *(word for text in overrides for word in ("--set", text))) == 0
    days = sorted(path.name for path in (tmp_path / "feed/events").iterdir())
    assert days == [f"dt={day}" for day in ("2024-01-29", "2024-01-30", "2024-01-31", "2024-02-01", "2024-02-02")]
    manifest = json.loads((tmp_path / "feed/manifest.json").read_text())
    assert manifest["parameters"] == {
        "end": "2024-02-02", "days": 5, "events": 3000, "clients": 60, "posts": 50, "topics": 6,
        "vector_width": 5, "seed": 9, "timezone": "UTC",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert f"best reachable {manifest['best_reachable_recall']:.4f}" in shown
    assert f"popularity {manifest['popularity_recall']:.4f}" in shown


def test_days_that_the_windows_miss_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path / "feed", "--days", "4", "--end", "2024-01-14") == 0
    assert "11 of their days are missing, first 2024-01-01" in capsys.readouterr().out  # the log has 4 of the 15


def test_rerun_leaves_the_feed_and_other_parameters_replace_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "feed"
    assert _run(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert _run(folder) == 0
    assert "nothing written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    old = _bytes(folder)
    assert _run(folder, "--seed", "1") == 0
    assert _bytes(folder)["clients.csv"] != old["clients.csv"]
    assert _run(folder, "--days", "4") == 0
    assert len(list((folder / "events").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["feed"]  # no temporary folder stays


def test_damaged_feed_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "feed"
    _run(folder)
    whole = _bytes(folder)
    (folder / "clients.csv").write_text("client_id\n")
    (folder / "oracle/posts.parquet").unlink()
    assert _run(folder) == 0
    assert _bytes(folder) == whole


def test_failure_keeps_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "feed"
    _run(folder)
    before = _bytes(folder)

    def full_disk(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dssm.demo.files._write_vectors", full_disk)
    assert _run(folder, "--seed", "1") == 2
    assert capsys.readouterr().err == f"--output {folder}: No space left on device\n"
    assert _bytes(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["feed"]


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "manifest.json"])
def test_folder_with_anything_else_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"kind": "samples"}')
    assert _run(tmp_path) == 2
    assert "is left alone; expected a new folder" in capsys.readouterr().err
    assert _bytes(tmp_path) == {name: b'{"kind": "samples"}'}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clients", "3"], "--clients 3: expected at least 50"),
        (["--topics", "4"], "--topics 4: expected at least 5 (a client's favourites)"),
        (["--posts", "5"], "--posts 5: expected at least 6 (one a topic)"),
        (["--events", "14"], "--events 14: expected at least 15 (one a day)"),
        (["--days", "1"], "--days 1: expected at least 2"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--end", "2024-02-30"], "--end 2024-02-30: not a date; expected YYYY-MM-DD"),
        (["--days", "999999"], "--days 999999: reaches back before year 1"),
        (["--events", "many"], "argument --events: invalid int value: 'many'"),
        (["--set", "window.train_dayz=3"], "window: unknown key 'train_dayz' (did you mean 'train_days'?)"),
        (["--output", "memory://feed"], "--output memory://feed: expected a local folder"),
    ],
)
def test_bad_parameters_end_with_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _run(tmp_path / "feed", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "feed").exists()


def test_feed_refuses_sizes_without_the_command_too() -> None:
    with pytest.raises(UserError, match="--clients 0"):
        Feed(end=END, clients=0)
