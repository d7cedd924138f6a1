"""What is planted and what is drawn: pure NumPy, whatever the size."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dssm.config import DAY, day_start_ms
from dssm.errors import UserError

CLIENT_TYPES = ("android", "ios", "web", "mini_program")
CLIENT_TYPE_SHARES = (0.45, 0.3, 0.15, 0.1)
FAVOURITES = 5  # topics that a client has a taste for
TASTE_CONCENTRATION = 0.7  # Dirichlet: below 1, one or two favourites take most
ZIPF_EXPONENT = 0.8  # of the posts within a topic
SECOND_TOPIC_SHARE = 0.4  # at most this share of a post's readers come through its second topic
BACKGROUND = 0.08  # share of all posts in each φ_t
TASTE_IN_IMPRESSIONS = 0.3  # share of unclicked impressions that follow the client's taste
CLICK_RATES = (0.2, 0.4)  # range over the clients
ACTIVITY_SIGMA = 1.1  # of the log-normal activity
COLD_CLIENTS = 0.03  # share that appears on the last day only
READS_MEAN = 8.0  # posts read before the log starts
VECTORS_MISSING = 0.03  # share of posts without a pretrained vector
VECTOR_NOISE = 0.5  # norm of the noise beside a signal of norm about 1
SLOTS = 20  # positions of the feed
LIKE_RATES = (0.5, 0.25, 0.08)  # of clicks that came by the client's first topic, by another favourite, by neither
DWELL_SHAPES = (0.5, 4.0)  # Beta(a, 1) of the share of a clicked post that is watched: a at no taste for it, at all
# Share of a day's events by hour: quiet nights, a lunch break, busy evenings.
HOURLY = (9, 6, 4, 3, 3, 4, 8, 14, 20, 23, 25, 28, 33, 29, 25, 24, 25, 28, 33, 38, 42, 40, 30, 17)
WEEKEND = 1.2  # events of a Saturday or Sunday against those of a weekday

PROFILE_ROWS = 1 << 16  # clients or posts at once; the random streams of the profiles depend on it

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Feed:
    """The parameters of a feed: equal parameters give equal bytes.

    Raises: UserError at a size that can't be generated.
    """

    end: dt.date
    days: int = 15
    events: int = 400_000
    clients: int = 4_000
    posts: int = 2_000
    topics: int = 40
    vector_width: int = 64
    seed: int = 0
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.days >= self.end.toordinal():
            raise UserError(f"--days {self.days}: reaches back before year 1; expected fewer")
        least = {"days": 2, "events": self.days, "clients": 50, "topics": FAVOURITES, "posts": self.topics, "seed": 0}
        for name, value in least.items():
            found = getattr(self, name)
            if found < value:
                why = {"events": " (one a day)", "posts": " (one a topic)", "topics": " (a client's favourites)"}
                raise UserError(f"--{name} {found}: expected at least {value:,}{why.get(name, '')}")

    @property
    def dates(self) -> list[dt.date]:
        return [self.end - offset * DAY for offset in reversed(range(self.days))]

    def events_by_day(self) -> list[int]:
        """Returns how many events each day has; they sum to `events`."""
        weights = np.array([WEEKEND if date.weekday() >= 5 else 1.0 for date in self.dates])
        bounds = np.rint(np.cumsum(weights) / weights.sum() * self.events).astype(int)
        return [int(count) for count in np.diff(bounds, prepend=0)]

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "end": self.end.isoformat()}

    def generator(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))

    def uniforms(self, *key: int, start: int, stop: int, columns: int) -> Floats:
        """Returns rows [start, stop) of an endless table of uniforms: (columns, rows).

        A row's numbers depend on its place alone, so rows may be made in pieces of any size.
        """
        bits = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key))
        bits.advance(start * columns)
        return np.ascontiguousarray(np.random.Generator(bits).random((stop - start, columns)).T)


# First part of the key of each random stream.
(
    _CLIENTS, _POSTS, _EVENTS, READS_STREAM, PROFILES_STREAM, VECTORS_STREAM,
    _REACTIONS, WORDS_STREAM, TITLES_STREAM, INTERESTS_STREAM,
) = range(10)  # fmt: skip


@dataclass(frozen=True)
class Tastes:
    """The planted structure. C clients, P posts, T topics, F favourites.

    `share_cdf` and `share_post` sample posts: row t < T of the concatenated CDFs holds topic t's own
    posts, row T the background b; row r's values lie in (r, r + 1].
    """

    client_ids: Ints  # (C,)
    client_types: npt.NDArray[np.int8]  # (C,), places in CLIENT_TYPES
    cold: npt.NDArray[np.bool_]  # (C,)
    activity: Floats  # (C,), mean 1
    click_rates: Floats  # (C,)
    favourites: Ints  # (C, F), places of topics
    favourite_weights: Floats  # (C, F), rows sum to 1
    topic_ids: Ints  # (T,)
    post_ids: Ints  # (P,)
    post_topics: Ints  # (P, 2), main and second topic
    second_shares: Floats  # (P,), what the second topic has of the post
    author_ids: Ints  # (P,)
    topic_shares: Floats  # (T,), mean of θ over all clicks before the last day
    own: Floats  # (P, 2), the post's probability among the own posts of its two topics
    share_cdf: Floats  # (3 P,)
    share_post: Ints  # (3 P,)

    def client_values(self, start: int = 0, stop: int | None = None) -> Floats:
        """Returns θ of some clients: (clients, T), rows sum to 1."""
        favourites = self.favourites[start:stop]
        values = np.zeros((len(favourites), len(self.topic_ids)))
        np.put_along_axis(values, favourites, self.favourite_weights[start:stop], axis=1)
        return values

    def post_values(self, start: int = 0, stop: int | None = None) -> Floats:
        """Returns φ of some posts: (posts, T); over all posts, columns sum to 1."""
        topics, own = self.post_topics[start:stop], self.own[start:stop]
        background = (own * self.topic_shares[topics]).sum(axis=1, keepdims=True)
        values = np.repeat(BACKGROUND * background, len(self.topic_ids), axis=1)
        values[np.arange(len(topics))[:, None], topics] += (1 - BACKGROUND) * own
        return values

    def affinity(self, client: Ints, post: Ints) -> Floats:
        """Returns the client's taste for the post's topics, each as far as the post is of it: (rows,), 0…1."""
        favourites, weights = self.favourites[client], self.favourite_weights[client]
        second = self.second_shares[post]
        shares = ((1 - second), second)
        by_topic = [
            share * np.where(favourites == topic[:, None], weights, 0).sum(axis=1)
            for share, topic in zip(shares, self.post_topics[post].T, strict=True)
        ]
        return np.asarray(by_topic[0] + by_topic[1])

    def draw_topics(self, client: Ints, from_background: npt.NDArray[np.bool_], topic_u: Floats) -> Ints:
        """Draws a topic for each row by the client's taste; T stands for the background. All (rows,)."""
        cdf = np.cumsum(self.favourite_weights, axis=1)[:, :-1]
        place = np.zeros(len(client), dtype=np.int64)
        for bound in cdf.T:
            place += topic_u >= bound[client]
        return np.where(from_background, len(self.topic_ids), self.favourites[client, place])

    def draw_posts(self, topic: Ints, post_u: Floats) -> Ints:
        """Draws one of each topic's own posts, or one from the background. All (rows,)."""
        # Near 1 a uniform would round up into the next row's CDF.
        entry = np.searchsorted(self.share_cdf, topic + np.minimum(post_u, 1 - 2.0**-40), side="right")
        return np.asarray(self.share_post[entry])


def plant_tastes(feed: Feed) -> Tastes:
    """Draws the clients, the posts and what ties them, in memory proportional to their number."""
    topic_count, post_count, client_count = feed.topics, feed.posts, feed.clients

    random = feed.generator(_POSTS)
    topic_ids = _spread_ids(random, topic_count, first=1, mean_gap=15)
    topic_ids = random.permutation(topic_ids)
    post_ids = _spread_ids(random, post_count, first=40_000, mean_gap=7)
    main = random.permutation(post_count) % topic_count
    second = (main + random.integers(1, topic_count, post_count)) % topic_count
    second_shares = random.uniform(0, SECOND_TOPIC_SHARE, post_count)
    author_ids = 7_000 + main + topic_count * random.integers(0, 1 + post_count // (8 * topic_count), post_count)
    by_topic = np.lexsort((random.random(post_count), main))
    starts = np.searchsorted(main[by_topic], np.arange(topic_count))
    rank = np.empty(post_count)
    rank[by_topic] = np.arange(post_count) - starts[main[by_topic]]
    popularity = (1 + rank) ** -ZIPF_EXPONENT
    post_topics = np.stack([main, second], axis=1)
    parts = popularity[:, None] * np.stack([1 - second_shares, second_shares], axis=1)
    own = parts / np.bincount(post_topics.ravel(), weights=parts.ravel(), minlength=topic_count)[post_topics]

    random = feed.generator(_CLIENTS)
    client_ids = _spread_ids(random, client_count, first=1_000_000, mean_gap=11)
    client_types = random.choice(len(CLIENT_TYPES), client_count, p=CLIENT_TYPE_SHARES).astype(np.int8)
    cold = np.zeros(client_count, dtype=bool)
    cold[random.permutation(client_count)[: round(COLD_CLIENTS * client_count)]] = True
    activity = np.exp(random.normal(0, ACTIVITY_SIGMA, client_count))
    activity /= activity.mean()
    click_rates = random.uniform(*CLICK_RATES, client_count)
    # Topics differ in appeal, and each type of client leans to some of them: a new client's type tells a little.
    appeal = -0.3 * np.log1p(np.arange(topic_count)) + random.normal(0, 0.7, (len(CLIENT_TYPES), topic_count))
    favourites = np.empty((client_count, FAVOURITES), dtype=np.int64)
    for start, stop in pieces(client_count, PROFILE_ROWS):
        keys = appeal[client_types[start:stop]] + random.gumbel(size=(stop - start, topic_count))  # top k: no repeats
        favourites[start:stop] = np.argpartition(-keys, FAVOURITES - 1, axis=1)[:, :FAVOURITES]
    weights = random.standard_gamma(TASTE_CONCENTRATION, (client_count, FAVOURITES)) + 1e-9
    weights /= weights.sum(axis=1, keepdims=True)

    clicks = np.where(cold, 0, activity * click_rates)
    weighted = (weights * clicks[:, None] / clicks.sum()).ravel()
    topic_shares = np.bincount(favourites.ravel(), weights=weighted, minlength=topic_count).astype(np.float64)
    background = (own * topic_shares[post_topics]).sum(axis=1)

    everything = np.arange(post_count)
    entry_row = np.concatenate([main, second, np.full(post_count, topic_count)])
    entry_post = np.concatenate([everything, everything, everything])
    entry_share = np.concatenate([own[:, 0], own[:, 1], background])
    order = np.argsort(entry_row, kind="stable")
    return Tastes(
        client_ids=client_ids, client_types=client_types, cold=cold, activity=activity, click_rates=click_rates,
        favourites=favourites, favourite_weights=weights, topic_ids=topic_ids, post_ids=post_ids,
        post_topics=post_topics, second_shares=second_shares, author_ids=author_ids, topic_shares=topic_shares,
        own=own, share_cdf=_concatenated_cdf(entry_row[order], entry_share[order]), share_post=entry_post[order],
    )  # fmt: skip


def _spread_ids(random: np.random.Generator, count: int, first: int, mean_gap: int) -> Ints:
    """Returns ascending ids with gaps, as those of a table that has lost rows."""
    return np.asarray(first + np.cumsum(random.geometric(1 / mean_gap, count)), dtype=np.int64)


def _concatenated_cdf(row: Ints, share: Floats) -> Floats:
    """Returns row + CDF within the row; `row` ascends from 0 without gaps, a row's shares sum to 1."""
    total = np.cumsum(share)
    last = np.append(np.flatnonzero(np.diff(row)), len(row) - 1)
    before = np.concatenate([[0.0], total[last[:-1]]])
    cdf = row + np.minimum((total - before[row]) / (total[last] - before)[row], 1.0)
    cdf[last] = row[last] + 1.0
    return np.asarray(cdf)


def pieces(rows: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


# Events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Events:
    """Some rows of the log; `client` and `post` are places in the tastes' arrays. All (rows,)."""

    client: Ints
    post: Ints
    act: npt.NDArray[np.bool_]
    time: Ints  # Unix milliseconds, ascending
    position: Ints  # 1 is the top of the feed
    like: npt.NDArray[np.bool_]  # of clicks only
    dwell_share: Floats  # of the post that was watched: thousandths, above 0 for every click


def draw_events(feed: Feed, tastes: Tastes, date: dt.date, start: int, stop: int) -> Events:
    """Returns the rows [start, stop) of a day, the same whatever the rows around them.

    Row i of n lies at the quantile (i + u)/n of the day's curve: the times ascend without a sort,
    and are more even than a Poisson stream's.
    """
    day = feed.dates.index(date)
    rows = feed.events_by_day()[day]
    client_u, act_u, source_u, topic_u, post_u, position_u, time_u = feed.uniforms(
        _EVENTS, date.toordinal(), start=start, stop=stop, columns=7
    )
    active = tastes.activity if date == feed.end else np.where(tastes.cold, 0, tastes.activity)
    cdf = np.cumsum(active)
    client = np.searchsorted(cdf / cdf[-1], client_u, side="right")
    act = act_u < tastes.click_rates[client]
    by_taste = np.where(act, 1.0, TASTE_IN_IMPRESSIONS) * (1 - BACKGROUND)
    topic = tastes.draw_topics(client, source_u >= by_taste, topic_u)
    post = tastes.draw_posts(topic, post_u)
    position = 1 + (SLOTS * np.where(act, position_u**2, position_u)).astype(np.int64)
    quantile = (np.arange(start, stop) + time_u) / rows
    hours = np.interp(quantile, np.cumsum((0, *HOURLY)) / sum(HOURLY), np.linspace(0, 1, len(HOURLY) + 1))
    midnight, next_midnight = (day_start_ms(d, feed.timezone) for d in (date, date + DAY))
    time_ms = midnight + np.minimum((hours * (next_midnight - midnight)).astype(np.int64), next_midnight - midnight - 1)
    like_u, dwell_u = feed.uniforms(_REACTIONS, date.toordinal(), start=start, stop=stop, columns=2)
    like, dwell_share = _draw_reactions(tastes, client, topic, post, act, like_u, dwell_u)
    return Events(client, post, act, time_ms, position, like, dwell_share)


def _draw_reactions(
    tastes: Tastes, client: Ints, topic: Ints, post: Ints, act: npt.NDArray[np.bool_], like_u: Floats, dwell_u: Floats
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Draws what follows a click: likes, and how much of the post is watched. All (rows,).

    Args:
      topic: what the post was drawn by; T is the background.
    """
    clicks = np.flatnonzero(act)
    client, topic, post = client[clicks], topic[clicks], post[clicks]
    first = tastes.favourites[np.arange(len(tastes.favourites)), tastes.favourite_weights.argmax(axis=1)]
    by_first, by_other, by_none = LIKE_RATES
    rate = np.where(topic == first[client], by_first, np.where(topic < len(tastes.topic_ids), by_other, by_none))
    like = np.zeros(len(act), dtype=bool)
    like[clicks] = like_u[clicks] < rate
    low, high = DWELL_SHAPES
    share = dwell_u[clicks] ** (1 / (low + (high - low) * tastes.affinity(client, post)))
    dwell_share = np.zeros(len(act))
    dwell_share[clicks] = np.maximum(np.rint(1000 * share), 1) / 1000
    return like, dwell_share
