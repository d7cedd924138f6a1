"""Reactions, words and numbers of the feed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dssm.demo.feed import (
    BACKGROUND,
    DWELL_SHAPES,
    LIKE_RATES,
    SECOND_TOPIC_SHARE,
    WORDS_STREAM,
    Tastes,
    plant_tastes,
)
from dssm.demo.files import AGE_DAYS_MEAN, LENGTH_S
from dssm.demo.words import COMMON_WORDS, WORDS_OF_TOPIC, make_lexicon
from tests.demo.feeds import SMALL, draw_days, text_table


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
    tastes, days = plant_tastes(SMALL), draw_days(SMALL)
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
    tastes, days = plant_tastes(SMALL), draw_days(SMALL)
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

    titles = [title.split(" ") for title in text_table(folder / "posts.csv")["title"]]
    assert {len(title) for title in titles} == {3, 4, 5, 6}
    topics = [[topic_of[word] for word in title if word in topic_of] for title in titles]
    assert all(set(found) <= set(own) for found, own in zip(topics, tastes.post_topics.tolist(), strict=True))
    of_main = [t == main for found, main in zip(topics, tastes.post_topics[:, 0], strict=True) for t in found]
    assert np.mean(of_main) == pytest.approx(1 - SECOND_TOPIC_SHARE / 2, abs=0.03)
    assert len(of_main) / sum(map(len, titles)) == pytest.approx(0.7, abs=0.03)

    interests = text_table(folder / "clients.csv")["interests"]
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
    seconds = np.array(text_table(folder / "posts.csv")["length_s"], dtype=float)
    assert seconds.min() > 0
    assert stats.kstest(np.log(seconds), "norm", LENGTH_S).pvalue > 1e-3
    clients = text_table(folder / "clients.csv")
    age = np.array(clients["age_days"], dtype=int)
    cold = np.array([not text for text in clients["all_topic_fav_7"]])
    assert (age[cold] == 0).all()
    assert stats.kstest(age[~cold] + 0.5, "expon", (0, AGE_DAYS_MEAN)).pvalue > 1e-3
