from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dssm.samples import negatives, rejection
from dssm.samples.candidates import ItemLists, ItemSampler
from dssm.samples.negatives import CatalogueForSampling, Clicked, PositiveRows, sample_negatives
from dssm.samples.splitmix import uniforms
from dssm.sections import (
    GroupNegatives,
    HardNegatives,
    Negatives,
    PopularityNegatives,
    SuppressedNegatives,
    UnclickedNegatives,
    UniformNegatives,
)
from dssm.strict import kinds_of

ALWAYS = np.iinfo(np.int64).min
NO_GROUP = -1
KINDS: dict[str, Negatives] = {
    "uniform": UniformNegatives(count=3),
    "popular": PopularityNegatives(count=2, exponent=0.75),
    "plain": PopularityNegatives(count=1, exponent=0),
    "rare": PopularityNegatives(count=2, exponent=-0.5),
    "suppressed": SuppressedNegatives(count=2, threshold=0.02),
    "group": GroupNegatives(count=2, column="city"),
    "unclicked": UnclickedNegatives(count=3),
    "hard": HardNegatives(count=2, items="unread", ranks=(3, 8)),
}


def test_every_kind_of_negatives_is_tested_here() -> None:
    assert {kind.kind for kind in KINDS.values()} == set(kinds_of(Negatives))


# A small world, and what each kind should draw from it, item by item ---------------------------------


@dataclass(frozen=True)
class Row:
    user: int
    item: int
    time: int
    impressions: tuple[int, int] = (0, 0)  # window of World.impressions
    ranking: int = -1  # line of World.rankings


@dataclass(frozen=True)
class World:
    popularity: Sequence[int]
    uploads: Sequence[int]
    groups: Sequence[int]
    clicks: frozenset[tuple[int, int]] = frozenset()
    impressions: Sequence[int] = ()
    rankings: Sequence[Sequence[int]] = ()
    rows: Sequence[Row] = field(default_factory=tuple)


def candidate_weights(kind: Negatives, world: World, row: Row) -> dict[int, float]:
    """Weights of what a row's negatives are drawn from, before anything is excluded."""
    if isinstance(kind, UnclickedNegatives):
        return dict(Counter(world.impressions[slice(*row.impressions)]))
    if isinstance(kind, HardNegatives):
        return {} if row.ranking < 0 else {item: 1.0 for item in world.rankings[row.ranking] if item >= 0}
    total = sum(world.popularity)
    weights = {}
    for item, (count, upload) in enumerate(zip(world.popularity, world.uploads, strict=True)):
        weight = 1.0
        if isinstance(kind, PopularityNegatives):
            weight = count**kind.exponent if count else 0.0
        elif isinstance(kind, SuppressedNegatives):
            share = count / total if total else 0.0
            ratio = kind.threshold / share if share else 0.0
            weight = share * min(1.0, math.sqrt(ratio) + ratio)
        elif isinstance(kind, GroupNegatives):
            mine = world.groups[row.item] if row.item >= 0 else NO_GROUP
            weight = float(world.groups[item] == mine != NO_GROUP)
        if weight > 0 and upload <= row.time:
            weights[item] = weight
    return weights


def allowed_weights(kind: Negatives, world: World, row: Row) -> dict[int, float]:
    return {
        item: weight
        for item, weight in candidate_weights(kind, world, row).items()
        if item >= 0 and (row.user, item) not in world.clicks and world.uploads[item] <= row.time
    }


def drawn(
    world: World, kinds: Mapping[str, Negatives], row_hash: Sequence[int] | np.ndarray, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the items and the probabilities of each kind, (rows, count)."""
    rows, impressions = world.rows, np.array(world.impressions, dtype=np.int32)
    windows = np.array([row.impressions for row in rows], dtype=np.int64).reshape(-1, 2)
    ranked = np.array(world.rankings, dtype=np.int32) if world.rankings else np.empty((0, 4), np.int32)
    lists = {
        "unclicked": ItemLists.windows(impressions, windows[:, 0], windows[:, 1]),
        "hard": ItemLists.rankings(ranked, np.array([row.ranking for row in rows], dtype=np.int32)),
    }
    uploads = np.array(world.uploads, dtype=np.int64)
    groups = {"group": np.array(world.groups, dtype=np.int32)}
    clicks = np.array(sorted(world.clicks), dtype=np.int64).reshape(-1, 2)
    positives = PositiveRows(
        users=np.array([row.user for row in rows], dtype=np.int64),
        items=np.array([row.item for row in rows], dtype=np.int32),
        times_ms=np.array([row.time for row in rows], dtype=np.int64),
        row_hash=np.array(row_hash, dtype=np.int64),
        lists={name: lists[name] for name in kinds if name in lists},
    )
    items, probability = sample_negatives(
        kinds,
        positives,
        CatalogueForSampling.build(kinds, np.array(world.popularity), uploads, groups),
        Clicked(clicks[:, 0], clicks[:, 1], len(uploads)),
        seed,
    )
    assert (items.dtype, probability.dtype) == (np.int32, np.float32)
    ends = np.cumsum([kind.count for kind in kinds.values()])[:-1]
    return (
        dict(zip(kinds, np.split(items, ends, axis=1), strict=True)),
        dict(zip(kinds, np.split(probability, ends, axis=1), strict=True)),
    )


@contextmanager
def blocks_of(draws: int, listed: int = 2_000_000) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives, "DRAWS_AT_ONCE", draws)
        patch.setattr(rejection, "LISTED_AT_ONCE", listed)
        yield


# Distributions ---------------------------------------------------------------------------------------

DRAWS = 200_000
CREDIBLE, ABSURD = 1e-4, 1e-12


def p_value(items: np.ndarray, weights: Mapping[int, float]) -> float:
    """Chi-square test of drawn items against weights; 0 where one is drawn that has no weight."""
    counts = Counter(items.ravel().tolist())
    if not counts.keys() <= weights.keys():
        return 0.0
    expected = np.array(list(weights.values())) * items.size / sum(weights.values())
    return float(stats.chisquare([counts[item] for item in weights], expected).pvalue)


CITY = 60  # items
LIGHT, HEAVY = 0, 1  # users
NOON, NIGHT = 500, 10**9


def city(row: Row) -> World:
    """A world whose row stands for many with other hashes.

    One user clicked a few items, the other so many that most of the draws end in the listed candidates.
    """
    random = np.random.default_rng(5)
    popularity = np.where(random.random(CITY) < 0.1, 0, random.zipf(1.4, CITY).clip(max=3000))
    uploads = np.where(random.random(CITY) < 0.3, ALWAYS, random.integers(0, 1000, CITY))
    light = {3, 7, *np.argsort(-popularity)[2:4].tolist()}
    heavy = set(range(CITY)) - {1, 5, 13, 20, 21, 30, 34, 44, 48, 55} - {int(popularity.argmax())}
    rankings = [
        [3, *(4 + random.permutation(CITY - 4)[:29]).tolist()],
        [*random.permutation(CITY)[:20].tolist(), *[-1] * 10],
    ]
    return World(
        popularity=popularity.tolist(),
        uploads=uploads.tolist(),
        groups=(random.integers(0, 3, CITY) - (random.random(CITY) < 0.1)).clip(NO_GROUP).tolist(),
        clicks=frozenset({(LIGHT, item) for item in light} | {(HEAVY, item) for item in heavy}),
        impressions=random.integers(0, CITY, 80).tolist(),
        rankings=rankings,
        rows=[row] * (DRAWS // 4),
    )


ROWS = {
    "few clicks": Row(LIGHT, item=3, time=NIGHT, impressions=(20, 70), ranking=0),
    "few clicks, early": Row(LIGHT, item=3, time=NOON, impressions=(0, 50), ranking=1),
    "many clicks": Row(HEAVY, item=3, time=NIGHT, impressions=(5, 55), ranking=0),
}
FOUR = {"count": 4}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", KINDS)
def test_draws_follow_the_weights_of_what_is_allowed(name: str, row: Row) -> None:
    world, kind = city(row), KINDS[name].model_copy(update=FOUR)
    hashes = np.random.default_rng(8).integers(-(2**63), 2**63 - 1, len(world.rows))
    items, probability = (columns[name] for columns in drawn(world, {name: kind}, hashes))
    allowed, candidates = allowed_weights(kind, world, row), candidate_weights(kind, world, row)
    assert len(allowed) > 2
    assert items.size == DRAWS
    assert p_value(items, allowed) > CREDIBLE
    # The test would notice one item drawn a quarter too seldom, or draws of what is excluded.
    second = sorted(allowed, key=allowed.__getitem__)[-2]
    assert p_value(items, allowed | {second: 1.25 * allowed[second]}) < ABSURD
    assert p_value(items, candidates) < ABSURD
    total = sum(candidates.values())
    wanted = np.array([candidates.get(item, 0) / total for item in range(CITY)], dtype=np.float32)
    np.testing.assert_allclose(probability, wanted[items], rtol=1e-6)


WRONG = {
    "uniform": PopularityNegatives(exponent=0.1),
    "popular": PopularityNegatives(exponent=0.8),
    "plain": PopularityNegatives(exponent=-0.1),
    "rare": PopularityNegatives(exponent=0.5),
    "suppressed": SuppressedNegatives(threshold=0.03),
    "group": UniformNegatives(),
    "hard": UnclickedNegatives(),
    "unclicked": HardNegatives(items="unread"),
}


@pytest.mark.parametrize("name", KINDS)
def test_another_rule_would_not_pass(name: str) -> None:
    row = ROWS["few clicks"]
    world = city(row)
    items, _ = drawn(world, {name: KINDS[name].model_copy(update=FOUR)}, range(len(world.rows)))
    assert p_value(items[name], allowed_weights(KINDS[name], world, row)) > CREDIBLE
    assert p_value(items[name], allowed_weights(WRONG[name], world, row)) < ABSURD


def test_an_impression_seen_twice_is_twice_as_likely() -> None:
    row = Row(0, item=0, time=NIGHT, impressions=(1, 6))
    world = World([1] * 5, [ALWAYS] * 5, [0] * 5, impressions=[4, 1, 2, 1, 3, 1, 4], rows=[row] * 50_000)
    items, probability = drawn(world, {"unclicked": UnclickedNegatives(count=4)}, range(50_000))
    assert p_value(items["unclicked"], {1: 3, 2: 1, 3: 1}) > CREDIBLE
    assert p_value(items["unclicked"], {1: 1, 2: 1, 3: 1}) < ABSURD
    np.testing.assert_allclose(probability["unclicked"][items["unclicked"] == 1], 0.6)
    np.testing.assert_allclose(probability["unclicked"][items["unclicked"] != 1], 0.2)


def test_draws_of_a_row_and_kinds_of_the_same_name_are_independent() -> None:
    """Pairs of draws from six items fill a square of 36 places by the product of the weights."""
    kinds = {"a": UniformNegatives(count=2), "b": UniformNegatives(count=1)}
    world = World([1] * 6, [ALWAYS] * 6, [0] * 6, rows=[Row(0, 0, NIGHT)] * DRAWS)
    items, _ = drawn(world, kinds, range(DRAWS))
    even = dict.fromkeys(range(36), 1.0)
    next_seed = drawn(world, kinds, range(DRAWS), seed=1)[0]["a"][:, 0]
    for other in (items["a"][:, 1], items["b"][:, 0], np.roll(items["a"][:, 0], 1), next_seed):
        assert p_value(items["a"][:, 0] * 6 + other, even) > CREDIBLE
    assert p_value(items["a"][:, 0] * 6 + items["a"][:, 0], even) < ABSURD


def test_a_prefix_of_tiny_weights_is_drawn_by_weight() -> None:
    """Before the heavy item was uploaded, 1000 items share one bucket of the running sum."""
    weights = np.append(np.linspace(1, 3, 1000) * 1e-12, 1.0)
    sampler = ItemSampler(weights, np.append(np.zeros(1000, np.int64), 9))
    begin, end = sampler.ranges(np.full(DRAWS, 5))
    places = sampler.places(begin, end, uniforms(3, "x", 0, np.arange(DRAWS), 0))
    assert p_value(places, dict(enumerate(weights[:1000]))) > CREDIBLE
    assert p_value(places, dict.fromkeys(range(1000), 1.0)) < ABSURD


# Properties ------------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> World:
    size = draw(st.integers(1, 9))
    index, user, time = st.integers(0, size - 1), st.integers(0, 2), st.integers(0, 5)

    def each(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
        return st.lists(values, min_size=size, max_size=size)

    impressions = draw(st.lists(st.integers(-1, size - 1), max_size=12))
    place = st.integers(0, len(impressions))
    ranked = st.permutations(range(-1, size)).map(lambda items: (*items[: items.index(-1)], *[-1] * size)[:size])
    rankings = draw(st.lists(ranked, max_size=3))
    row = st.builds(
        Row,
        user,
        st.integers(-1, size - 1),
        time,
        st.tuples(place, place).map(lambda window: (min(window), max(window))),
        st.integers(-1, len(rankings) - 1),
    )
    return World(
        popularity=draw(each(st.sampled_from([0, 1, 2, 5, 1000]))),
        uploads=draw(each(st.sampled_from([ALWAYS, 1, 2, 4]))),
        groups=draw(each(st.integers(-1, 2))),
        clicks=frozenset(draw(st.lists(st.tuples(user, index), max_size=20))),
        impressions=impressions,
        rankings=rankings,
        rows=draw(st.lists(row, max_size=8)),
    )


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(0, 2**63 - 1))
def test_only_what_is_allowed_and_nothing_only_where_nothing_is(world: World, seed: int) -> None:
    items, probability = drawn(world, KINDS, range(len(world.rows)), seed)
    for name, kind in KINDS.items():
        assert items[name].shape == (len(world.rows), kind.count)
        for row, got, chances in zip(world.rows, items[name].tolist(), probability[name].tolist(), strict=True):
            candidates, allowed = candidate_weights(kind, world, row), allowed_weights(kind, world, row)
            assert set(got) <= (allowed.keys() or {-1})
            total = sum(candidates.values())
            wanted = [candidates[item] / total if item >= 0 else 0 for item in got]
            assert chances == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_a_rows_negatives_do_not_depend_on_the_rows_beside_it(world: World, data: st.DataObject) -> None:
    hashes = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(world.rows), max_size=len(world.rows)))
    items, probability = drawn(world, KINDS, hashes, seed=4)
    order = data.draw(st.permutations(range(len(world.rows))))
    cut = data.draw(st.integers(0, len(order)))
    for part in (order[:cut], order[cut:]):
        some = World(**{**vars(world), "rows": [world.rows[n] for n in part]})
        with blocks_of(draws=data.draw(st.integers(1, 9)), listed=data.draw(st.integers(1, 9))):
            again, chances = drawn(some, KINDS, [hashes[n] for n in part], seed=4)
        for name in KINDS:
            np.testing.assert_array_equal(again[name], items[name][list(part)])
            np.testing.assert_array_equal(chances[name], probability[name][list(part)])


def test_many_rows_in_other_blocks_and_order_draw_the_same() -> None:
    world = city(ROWS["many clicks"])
    rows = [*ROWS.values()] * 700
    random = np.random.default_rng(2)
    hashes, order = random.integers(0, 2**62, len(rows)), random.permutation(len(rows))
    items, _ = drawn(World(**{**vars(world), "rows": rows}), KINDS, hashes)
    with blocks_of(draws=1000, listed=150):
        again, _ = drawn(World(**{**vars(world), "rows": [rows[n] for n in order]}), KINDS, hashes[order])
    for name in KINDS:
        np.testing.assert_array_equal(again[name], items[name][order])


def test_more_draws_begin_with_the_same_ones_and_the_kinds_draw_by_their_names() -> None:
    world = World(**{**vars(city(ROWS["few clicks"])), "rows": [ROWS["few clicks"]] * 50})
    few, _ = drawn(world, {"u": UniformNegatives(count=2)}, range(50))
    many, _ = drawn(world, {"other": UniformNegatives(count=3), "u": UniformNegatives(count=7)}, range(50))
    np.testing.assert_array_equal(many["u"][:, :2], few["u"])
    assert (many["other"][:, :2] != few["u"]).any()


def test_a_user_who_clicked_all_but_one_item_gets_that_one() -> None:
    size, left = 5000, 4321
    clicks = frozenset((0, item) for item in range(size) if item != left)
    world = World([1] * size, [ALWAYS] * size, [0] * size, clicks, rows=[Row(0, 0, 0)] * 20)
    items, probability = drawn(world, {"uniform": UniformNegatives(count=3)}, range(20))
    assert (items["uniform"] == left).all()
    np.testing.assert_allclose(probability["uniform"], 1 / size)


def test_no_rows_and_no_kinds() -> None:
    world = World([1], [ALWAYS], [0])
    assert drawn(world, KINDS, [])[0]["popular"].shape == (0, 2)
    rows = PositiveRows(*(np.zeros(3, np.int64) for _ in range(4)), lists={})
    none = CatalogueForSampling(np.zeros(1, np.int64), {}, {})
    items, probability = sample_negatives({}, rows, none, Clicked(rows.users, rows.items, 1), 0)
    assert items.shape == probability.shape == (3, 0)


def test_clicked() -> None:
    clicked = Clicked(np.array([2, 0, 2, 2]), np.array([1, 3, 0, -1]), catalogue_size=4)
    found = clicked.contains(np.array([[0], [1], [2], [3]]), np.array([[-1, 0, 1, 2, 3]] * 4))
    assert np.argwhere(found).tolist() == [[0, 4], [2, 1], [2, 2]]
    nothing = Clicked(np.empty(0, np.int64), np.empty(0, np.int32), catalogue_size=4)
    assert not nothing.contains(np.array([0, 5]), np.array([0, -1])).any()
    with pytest.raises(ValueError, match="not hashes"):
        Clicked(np.array([2**62]), np.array([0]), catalogue_size=4)
