"""The planted tastes: clicks follow them, and recall is measured against them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats

from dssm.demo.feed import (
    BACKGROUND,
    Feed,
    plant_tastes,
)
from dssm.demo.files import make_feed
from dssm.demo.recall import CUTOFF, best_reachable_recall, popularity_recall
from tests.demo.feeds import END, SMALL, all_clicks, draw_days, oracle, text_table


def test_oracle_gives_each_client_a_distribution_over_the_posts(folder: Path) -> None:
    clients, client_values = oracle(folder, "clients")
    posts, post_values = oracle(folder, "posts")
    assert list(clients) == text_table(folder / "clients.csv")["client_id"]
    assert list(posts) == text_table(folder / "posts.csv")["post_id"]
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
    (clients, client_values), (posts, post_values) = oracle(folder, "clients"), oracle(folder, "posts")
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
    client, post = all_clicks(SMALL)
    (_, client_values), (_, post_values) = oracle(folder, "clients"), oracle(folder, "posts")
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
    tastes, days = plant_tastes(feed), draw_days(feed)
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
    (clients, client_values), (posts, post_values) = oracle(folder, "clients"), oracle(folder, "posts")
    last = log[END.isoformat()].to_pandas().query("act == 1")
    shares = []
    for client, rows in last.groupby("client_id"):
        ranking = np.argsort(-(post_values @ client_values[clients[str(client)]]))[:CUTOFF]
        clicked = {posts[str(x)] for x in rows["post_id"]}
        shares.append(len(clicked & set(ranking)) / len(clicked))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["best_reachable_recall"] == pytest.approx(np.mean(shares), abs=1e-3)
    assert manifest["clients_ranked"] == len(shares)
