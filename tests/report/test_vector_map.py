from __future__ import annotations

import re

import numpy as np
import pytest

from dssm.report.item_words import ItemWords
from dssm.report.vector_map import COLOURS, SHOWN, SIDE, drawing, keys, layout, legend
from tests.report.full_run import ITEMS_OF_TOPIC, TOPICS, clustered_vectors


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    found = layout(clustered_vectors(), seed=3)
    assert found is not None
    return found


def words(categories: list[str | None]) -> list[ItemWords]:
    return [ItemWords(f"i{number}", f"item {number}", of, 0) for number, of in enumerate(categories)]


# Where they lie ----------------------------------------------------------------------------------------


def test_near_vectors_are_near_on_the_map(places: np.ndarray) -> None:
    topics = np.repeat(np.arange(len(TOPICS)), ITEMS_OF_TOPIC)
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert (topics[away.argmin(axis=1)] == topics).all()
    assert away[topics[:, None] != topics[None]].min() > 2 * np.median(away.min(axis=1))


def test_the_map_fills_its_square_and_is_the_same_every_time(places: np.ndarray) -> None:
    assert places.shape == (len(TOPICS) * ITEMS_OF_TOPIC, 2)
    assert places.min() >= -1e-6
    assert places.max() <= 1 + 1e-6
    assert np.ptp(places, axis=0).max() == pytest.approx(1)
    again = layout(clustered_vectors(), seed=3)
    assert again is not None
    assert (again == places).all()


def test_lengths_of_vectors_change_nothing(places: np.ndarray) -> None:
    lengths = np.random.default_rng(1).uniform(0.5, 20, (len(places), 1)).astype(np.float32)
    longer = layout(clustered_vectors() * lengths, seed=3)
    assert longer is not None
    topics = np.repeat(np.arange(len(TOPICS)), ITEMS_OF_TOPIC)
    away = np.linalg.norm(longer[:, None] - longer[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert (topics[away.argmin(axis=1)] == topics).all()


def test_no_map_of_few_or_of_equal_vectors() -> None:
    assert layout(np.eye(9, dtype=np.float32), 0) is None
    assert layout(np.ones((50, 4), np.float32), 0) is None
    assert layout(np.zeros((50, 4), np.float32), 0) is None


def test_vectors_of_one_number_are_laid_out() -> None:
    found = layout(np.sign(np.random.default_rng(0).normal(size=(30, 1))).astype(np.float32), 0)
    assert found is not None
    assert np.isfinite(found).all()


# Colours -------------------------------------------------------------------------------------------------


def test_the_largest_categories_come_first() -> None:
    told = legend(["b", *"aaaa", None, *"dddd", *"ccccc", "b"], np.zeros((16, 2)))
    assert told.categories == ("c", "a", "d")
    assert told.counts == (5, 4, 4)
    assert (told.others, told.kinds) == (3, 4)  # two of b are too few to be told apart, and one has none


def test_categories_of_an_item_each_are_not_told_apart(places: np.ndarray) -> None:
    categories = [f"only {number}" for number in range(len(places))]
    told = legend(categories, places)
    assert told.categories == ()
    svg = drawing(words(list(categories)), places, told)
    assert "<text" not in svg
    assert "<title>item 7 · only 7</title>" in svg
    assert "<button" not in keys(told)


def test_equal_colours_lie_far_apart() -> None:
    random = np.random.default_rng(0)
    centres = random.uniform(size=(SHOWN, 2))
    categories = [f"{number:03d}" for number in range(SHOWN) for _ in range(3)]
    told = legend([*categories, "999"], np.vstack([np.repeat(centres, 3, axis=0), [[0.5, 0.5]]]))
    assert told.kinds == SHOWN + 1
    assert told.others == 1
    assert set(told.colours) == set(range(COLOURS))
    colours = np.array(told.colours)
    away = np.linalg.norm(centres[:, None] - centres[None], axis=2) + np.eye(SHOWN)
    same = colours[:, None] == colours[None]
    nearest = np.where(same, away, np.inf).min(axis=1)
    assert nearest.min() > 2 * np.median(away.min(axis=1))


# The drawing ---------------------------------------------------------------------------------------------


def test_each_item_is_a_point_with_its_name(places: np.ndarray) -> None:
    categories: list[str | None] = [topic for topic in TOPICS for _ in range(ITEMS_OF_TOPIC)]
    categories[0] = None
    items = words(categories)
    told = legend(categories, places)
    svg = drawing(items, places, told)
    assert len(re.findall("<circle", svg)) == len(items)
    assert "<title>item 0</title>" in svg
    assert "<title>item 59 · &lt;b&gt;art&lt;/b&gt;</title>" in svg
    spots = [float(x) for x in re.findall(r' c[xy]="([^"]*)"', svg)]
    assert min(spots) >= 0
    assert max(spots) <= SIDE
    assert 'role="img"' in svg
    assert "map of 60 items by their vectors; the largest of 3 categories is" in svg
    assert re.findall(r"<text[^>]*>([^<]*)", svg) == ["&lt;b&gt;art&lt;/b&gt;", "mu\x1bsic", "sport"]
    buttons = keys(told)
    assert re.findall(r'data-group="(k\d)"', buttons) == ["k0", "k1", "k2", "k3"]
    assert re.findall(r"</i>(.*?) <", buttons) == ["&lt;b&gt;art&lt;/b&gt;", "mu\x1bsic", "sport", "other"]
    for group in re.findall(r'data-group="(k\d)"', buttons):
        assert f'class="{group} c' in svg


def test_scattered_categories_are_not_named() -> None:
    random = np.random.default_rng(0)
    places, categories = random.uniform(size=(200, 2)), ["a", "b"] * 100
    assert "<text" not in drawing(words(list(categories)), places, legend(categories, places))


def test_items_without_categories_have_no_legend(places: np.ndarray) -> None:
    items = words([None] * len(places))
    told = legend([None] * len(places), places)
    assert "<button" not in keys(told)
    assert drawing(items, places, told).count("<circle") == len(places)
