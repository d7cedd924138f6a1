"""A generated feed with planted tastes: data of any size whose best reachable recall is known.

    python -m dssm.demo --config conf/demo.yaml --events 1000000 --clients 10000

The feed comes in the raw format of a post recommendation: a click log, two profile tables, a
catalogue and pretrained vectors. Behind it stand T topics:

- client u has a taste θ_u over the topics: Dirichlet weights on a few favourites;
- topic t has a distribution φ_t over the posts: its own, Zipf-like, and a small share b of all;
- a click draws a topic t ~ θ_u and then a post ~ φ_t, so that p(post | click, u) = Σ_t θ_ut φ_t(post).

`oracle/` holds θ_u and φ_·(post) as vectors: their inner product is that probability, and no model
can rank better on average. Impressions without a click are drawn mostly from b, which is also the
clicks' distribution over all clients, so popularity alone can't tell clicks from impressions.

Simpler than a real feed: tastes don't drift, clicks are independent given the taste, posts don't
age, and a position is drawn after the click instead of causing it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from dssm import storage
from dssm.config import DAY, Settings, load_settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST

GENERATOR = "dssm.demo 1"  # raise the number when the same parameters give other bytes

CUTOFF = 50  # K of the recall that is printed
RECALL_CLIENTS = 10_000  # at most so many clients of the last day are ranked for it

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
# Share of a day's events by hour: quiet nights, a lunch break, busy evenings.
HOURLY = (9, 6, 4, 3, 3, 4, 8, 14, 20, 23, 25, 28, 33, 29, 25, 24, 25, 28, 33, 38, 42, 40, 30, 17)
WEEKEND = 1.2  # events of a Saturday or Sunday against those of a weekday

ROWS_AT_ONCE = 1 << 18  # events; bounds the memory and has no influence on what is written
_PROFILE_ROWS = 1 << 16  # clients or posts at once; the random streams of the profiles depend on it
_VECTOR_NUMBERS = 1 << 21  # numbers of the vectors at once; likewise

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
_CLIENTS, _POSTS, _EVENTS, _READS, _PROFILES, _VECTORS = range(6)


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

    def draw_posts(self, client: Ints, from_background: npt.NDArray[np.bool_], topic_u: Floats, post_u: Floats) -> Ints:
        """Draws a post for each row, by the client's taste or from the background. All (rows,)."""
        cdf = np.cumsum(self.favourite_weights, axis=1)[:, :-1]
        place = np.zeros(len(client), dtype=np.int64)
        for bound in cdf.T:
            place += topic_u >= bound[client]
        row = np.where(from_background, len(self.topic_ids), self.favourites[client, place])
        # Near 1 a uniform would round up into the next row's CDF.
        entry = np.searchsorted(self.share_cdf, row + np.minimum(post_u, 1 - 2.0**-40), side="right")
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
    for start, stop in _pieces(client_count, _PROFILE_ROWS):
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


def _pieces(rows: int, size: int) -> Iterator[tuple[int, int]]:
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
    post = tastes.draw_posts(client, source_u >= by_taste, topic_u, post_u)
    position = 1 + (SLOTS * np.where(act, position_u**2, position_u)).astype(np.int64)
    quantile = (np.arange(start, stop) + time_u) / rows
    hours = np.interp(quantile, np.cumsum((0, *HOURLY)) / sum(HOURLY), np.linspace(0, 1, len(HOURLY) + 1))
    midnight, next_midnight = (_day_start_ms(d, feed.timezone) for d in (date, date + DAY))
    time_ms = midnight + np.minimum((hours * (next_midnight - midnight)).astype(np.int64), next_midnight - midnight - 1)
    return Events(client, post, act, time_ms, position)


def _day_start_ms(date: dt.date, timezone: str) -> int:
    return int(dt.datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(timezone)).timestamp()) * 1000


# Recall ----------------------------------------------------------------------------------------------


def best_reachable_recall(
    client_values: npt.NDArray[Any], post_values: npt.NDArray[Any], client: Ints, post: Ints, k: int = CUTOFF
) -> float | None:
    """Returns the recall@k of ranking all posts by the inner product with the client.

    The mean, over clients with a click, of the share of their distinct clicked posts among the first
    k; clicked earlier or not. Best on average: over a few clients chance may favour another ranking.

    Args:
      client_values: (clients, T); post_values: (posts, T).
      client, post: (clicks,), rows of the two.
    Returns: the recall, or None without a click.
    """
    k = min(k, len(post_values))
    users, user = np.unique(client, return_inverse=True)
    order = np.argsort(user, kind="stable")
    user, post = user[order], post[order]
    recalls: list[Floats] = []
    for start, stop in _pieces(len(users), max(1, (1 << 24) // len(post_values))):
        low, high = np.searchsorted(user, [start, stop])
        clicked = np.zeros((stop - start, len(post_values)), dtype=bool)
        clicked[user[low:high] - start, post[low:high]] = True
        scores = client_values[users[start:stop]] @ post_values.T
        first = np.argpartition(scores, -k, axis=1)[:, -k:]
        recalls.append(np.take_along_axis(clicked, first, axis=1).sum(axis=1) / clicked.sum(axis=1))
    return float(np.concatenate(recalls).mean()) if recalls else None


def popularity_recall(counts: Ints, client: Ints, post: Ints, k: int = CUTOFF) -> float | None:
    """Returns the recall@k of showing everyone the k posts with the highest count, (posts,)."""
    pairs = np.unique(np.stack([client, post]), axis=1)
    if pairs.size == 0:
        return None
    in_first = np.isin(pairs[1], np.argsort(-counts, kind="stable")[:k])
    _, user = np.unique(pairs[0], return_inverse=True)
    return float((np.bincount(user, weights=in_first) / np.bincount(user)).mean())


# Files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What a feed's folder holds: the content of its manifest."""

    parameters: dict[str, Any]
    generator: str
    files: dict[str, dict[str, int]]  # path → rows, bytes
    clicks: int
    clients_ranked: int
    best_reachable_recall: float | None
    popularity_recall: float | None


def make_feed(feed: Feed, folder: str) -> tuple[Summary, bool]:
    """Writes the feed into a folder, unless it lies there already; another feed is replaced.

    Returns: the summary, and whether anything was written.
    Raises: UserError at a folder with anything else in it, or one that can't be written.
    """
    system, place = storage.filesystem(folder)
    if not isinstance(system, LocalFileSystem):
        raise UserError(f"--output {folder}: expected a local folder; copy the feed from there")
    target = Path(place)
    try:
        found = _read_summary(target)
        if found is not None and _is_whole(target, found, feed):
            return found, False
        with storage.committed_folder(place) as temporary:
            return write_feed(feed, Path(temporary)), True
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror or error}") from error


def _read_summary(folder: Path) -> Summary | None:
    """Reads the manifest of an earlier feed; None where the folder is new or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        return Summary(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--output {folder}: holds something that is not a generated feed, and is left alone; "
            "expected a new folder, or one that dssm.demo wrote"
        ) from error


def _is_whole(folder: Path, found: Summary, feed: Feed) -> bool:
    if (found.generator, found.parameters) != (GENERATOR, feed.as_json()):
        return False
    present = {path for path in found.files if (folder / path).is_file()}
    return all(
        path in present and (folder / path).stat().st_size == size["bytes"] for path, size in found.files.items()
    )


def write_feed(feed: Feed, folder: Path, rows_at_once: int = ROWS_AT_ONCE) -> Summary:
    """Writes all files of the feed into an empty folder, the manifest last.

    Args:
      feed: the parameters.
      folder: an existing folder.
      rows_at_once: events held in memory; no influence on what is written.
    """
    tastes = plant_tastes(feed)
    (folder / "oracle").mkdir()
    rows = {
        "clients.csv": _write_csv(folder / "clients.csv", _client_tables(feed, tastes)),
        "reads.csv": _write_csv(folder / "reads.csv", _read_tables(feed, tastes)),
        "posts.csv": _write_csv(folder / "posts.csv", [_post_table(tastes)]),
        "vectors.jsonl": _write_vectors(folder / "vectors.jsonl", feed, tastes),
        "oracle/clients.parquet": _write_oracle(
            folder / "oracle/clients.parquet", tastes.client_ids, tastes.client_values
        ),
        "oracle/posts.parquet": _write_oracle(folder / "oracle/posts.parquet", tastes.post_ids, tastes.post_values),
    }
    clicks_before = np.zeros(feed.posts, dtype=np.int64)
    last_clicks: list[Ints] = []  # client · P + post

    def tables(date: dt.date, count: int) -> Iterator[pa.Table]:
        for start, stop in _pieces(count, rows_at_once):
            events = draw_events(feed, tastes, date, start, stop)
            post = events.post[events.act]
            if date == feed.end:
                last_clicks.append(events.client[events.act] * feed.posts + post)
            else:
                np.add(clicks_before, np.bincount(post, minlength=feed.posts), out=clicks_before)
            yield pa.table(
                {
                    "client_id": tastes.client_ids[events.client],
                    "post_id": tastes.post_ids[events.post],
                    "act": events.act.astype(np.int8),
                    "time": events.time,
                    "position": events.position,
                }
            )

    for date, count in zip(feed.dates, feed.events_by_day(), strict=True):
        path = f"events/dt={date.isoformat()}/part-00000.csv"
        (folder / path).parent.mkdir(parents=True)
        rows[path] = _write_csv(folder / path, tables(date, count))

    client, post = np.divmod(np.concatenate(last_clicks), feed.posts)
    ranked = np.unique(client)[:RECALL_CLIENTS]  # ids say nothing about tastes or activity
    client, post = client[np.isin(client, ranked)], post[np.isin(client, ranked)]
    values = tastes.client_values(stop=int(ranked[-1]) + 1 if len(ranked) else 0).astype(np.float32)
    summary = Summary(
        parameters=feed.as_json(),
        generator=GENERATOR,
        files={path: {"rows": count, "bytes": (folder / path).stat().st_size} for path, count in rows.items()},
        clicks=int(clicks_before.sum()) + sum(len(x) for x in last_clicks),
        clients_ranked=len(ranked),
        best_reachable_recall=best_reachable_recall(values, tastes.post_values().astype(np.float32), client, post),
        popularity_recall=popularity_recall(clicks_before, client, post),
    )
    (folder / MANIFEST).write_text(json.dumps(dataclasses.asdict(summary), indent=1) + "\n", encoding="utf-8")
    return summary


def _write_csv(path: Path, tables: Iterable[pa.Table]) -> int:
    """Writes the tables under one header; returns the number of rows."""
    rows = 0
    with path.open("wb") as file:
        for table in tables:
            if not rows:  # pyarrow would quote the names
                file.write((",".join(table.column_names) + "\n").encode())
            csv.write_csv(table, file, csv.WriteOptions(include_header=False, batch_size=1 << 16))
            rows += table.num_rows
    return rows


def _client_tables(feed: Feed, tastes: Tastes) -> Iterator[pa.Table]:
    """Yields client_id, client_type, the followed topics and the favourites of seven days with weights.

    Both lists are noisy views of the taste. A cold client has followed topics at most: it has clicked nothing yet.
    """
    types = pa.array(CLIENT_TYPES)
    topic_names = pa.array(tastes.topic_ids.astype(str))
    weight_names = pa.array([f"{weight / 10_000:.4f}".rstrip("0").rstrip(".") for weight in range(10_001)])
    for start, stop in _pieces(feed.clients, _PROFILE_ROWS):
        random = feed.generator(_PROFILES, start)
        rows = stop - start
        favourites = tastes.favourites[start:stop]
        noise = random.integers(0, feed.topics, (rows, 2))
        topics = np.concatenate([favourites, noise], axis=1)
        new = np.ones(topics.shape, dtype=bool)
        new[:, FAVOURITES:] = (noise[:, :, None] != favourites[:, None, :]).all(axis=2)
        new[:, -1] &= noise[:, 0] != noise[:, 1]

        follows = new & (random.random(topics.shape) < np.array([0.75] * FAVOURITES + [0.3, 0.3]))
        liked = np.concatenate([tastes.favourite_weights[start:stop], np.full((rows, 2), 0.03)], axis=1)
        liked *= random.lognormal(0, 0.4, topics.shape)
        seen = new & (liked > 0.02) & ~tastes.cold[start:stop, None]
        liked = np.where(seen, liked, 0)
        liked /= np.maximum(liked.sum(axis=1, keepdims=True), 1e-9)
        pairs = pc.binary_join_element_wise(
            topic_names.take(pa.array(topics.ravel())),
            weight_names.take(pa.array(np.rint(liked * 10_000).astype(np.int64).ravel())),
            ":",
        )
        yield pa.table(
            {
                "client_id": tastes.client_ids[start:stop],
                "client_type": types.take(pa.array(tastes.client_types[start:stop])),
                "follow_topic_id": _joined(topic_names.take(pa.array(topics.ravel())), follows),
                "all_topic_fav_7": _joined(pairs, seen),
            }
        )


def _read_tables(feed: Feed, tastes: Tastes) -> Iterator[pa.Table]:
    """Yields client_id and the posts read before the log starts; without a row where there are none."""
    names = pa.array(tastes.post_ids.astype(str))
    for start, stop in _pieces(feed.clients, _PROFILE_ROWS):
        random = feed.generator(_READS, start)
        most = 4 * int(READS_MEAN)
        mean = READS_MEAN * np.sqrt(tastes.activity[start:stop])
        counts = np.minimum(random.exponential(mean).astype(np.int64), most)
        counts[tastes.cold[start:stop]] = 0
        client = np.repeat(np.arange(start, stop), counts)
        source_u, topic_u, post_u = random.random((3, len(client)))
        posts = tastes.draw_posts(client, source_u < BACKGROUND, topic_u, post_u)
        has_read = counts > 0
        within = np.arange(most) < counts[has_read, None]
        places = np.zeros(within.shape, dtype=np.int64)
        places[within] = posts
        yield pa.table(
            {
                "client_id": tastes.client_ids[start:stop][has_read],
                "read_post_id": _joined(names.take(pa.array(places.ravel())), within),
            }
        )


def _joined(entries: pa.Array, kept: npt.NDArray[np.bool_]) -> pa.Array:
    """Joins each row's kept entries by commas; null where none is kept. `entries` is `kept` row by row."""
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), entries.filter(pa.array(kept.ravel())))
    texts = pc.binary_join(lists, ",")
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def _post_table(tastes: Tastes) -> pa.Table:
    return pa.table(
        {
            "post_id": tastes.post_ids,
            "topic_id": tastes.topic_ids[tastes.post_topics[:, 0]],
            "author_id": tastes.author_ids,
        }
    )


def _write_vectors(path: Path, feed: Feed, tastes: Tastes) -> int:
    """Writes noisy random projections of the posts' topics as JSON lines; returns the number of rows."""
    projection = feed.generator(_VECTORS).normal(0, feed.vector_width**-0.5, (feed.topics, feed.vector_width))
    rows = 0
    with path.open("wb") as file:
        for start, stop in _pieces(feed.posts, max(1, _VECTOR_NUMBERS // feed.vector_width)):
            random = feed.generator(_VECTORS, start)
            kept = np.flatnonzero(random.random(stop - start) >= VECTORS_MISSING)
            second = tastes.second_shares[start:stop, None]
            main_part, second_part = projection[tastes.post_topics[start:stop].T]
            values = (1 - second) * main_part + second * second_part
            values += random.normal(0, VECTOR_NOISE * feed.vector_width**-0.5, values.shape)
            # Rounded doubles print in their shortest form: -0.1234.
            numbers = pc.cast(pa.array(np.round(values[kept], 4).ravel()), pa.string())
            bounds = pa.array(np.arange(len(kept) + 1, dtype=np.int32) * feed.vector_width)
            lists = pc.binary_join(pa.ListArray.from_arrays(bounds, numbers), ", ")
            ids = pa.array(tastes.post_ids[start:stop][kept].astype(str))
            lines = pc.binary_join_element_wise('{"post_id": "', ids, '", "values": [', lists, "]}\n", "")
            file.write("".join(lines.to_pylist()).encode())
            rows += len(kept)
    return rows


def _write_oracle(path: Path, ids: Ints, values: Callable[[int, int], Floats]) -> int:
    """Writes id and values(start, stop) in pieces; returns the number of rows."""
    schema = pa.schema([("id", pa.string()), ("values", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema) as writer:
        for start, stop in _pieces(len(ids), _PROFILE_ROWS):
            rows = values(start, stop).astype(np.float32)
            bounds = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
            lists = pa.ListArray.from_arrays(bounds, pa.array(rows.ravel()))
            writer.write_table(pa.table([pa.array(ids[start:stop].astype(str)), lists], schema=schema))
    return len(ids)


# Command ---------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"dssm.demo: {message}; --help lists the options")


def _parse(argv: Sequence[str] | None) -> tuple[Settings, Feed, str]:
    parser = _Parser(prog="python -m dssm.demo", description="Generates a feed with planted tastes.")
    parser.add_argument("--config", required=True, help="settings of the pipeline that will read it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="goes over a setting")
    for name, text in (
        ("events", "rows of the log"),
        ("clients", "users"),
        ("posts", "items"),
        ("topics", "topics that tastes are over"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(Feed, name), metavar="N", help=f"{text}; %(default)s"
        )
    parser.add_argument("--days", type=int, metavar="N", help="days of the log; those of the settings' windows")
    parser.add_argument("--end", metavar="DATE", help="last day of the log; that of the settings' test window")
    parser.add_argument("--seed", type=int, help="that of the settings")
    parser.add_argument("--output", metavar="FOLDER", help="the settings' data folder")
    options = parser.parse_args(argv)
    settings = load_settings(options.config, options.set)
    days = settings.window_days()
    try:
        end = days[-1] if options.end is None else dt.date.fromisoformat(options.end)
    except ValueError as error:
        raise UserError(f"--end {options.end}: not a date; expected YYYY-MM-DD") from error
    widths = {vectors.width for vectors in settings.vectors.values()} or {Feed.vector_width}
    feed = Feed(
        end=end,
        days=len(days) if options.days is None else options.days,
        events=options.events,
        clients=options.clients,
        posts=options.posts,
        topics=options.topics,
        vector_width=max(widths),
        seed=settings.seed if options.seed is None else options.seed,
        timezone=settings.timezone,
    )
    return settings, feed, options.output or settings.data


def _show(console: Console, summary: Summary) -> None:
    table = Table("file", "rows", "bytes")
    for column in table.columns[1:]:
        column.justify = "right"
    sizes = dict(summary.files)
    log = [sizes.pop(path) for path in summary.files if path.startswith("events/")]
    sizes[f"events/dt=*/part-00000.csv ({len(log)} days)"] = {
        key: sum(x[key] for x in log) for key in ("rows", "bytes")
    }
    for path, size in sizes.items():
        table.add_row(path, f"{size['rows']:,}", f"{size['bytes']:,}")
    console.print(table, soft_wrap=False)
    events = sum(x["rows"] for x in log)
    console.print(f"{summary.clicks:,} of {events:,} events are clicks ({summary.clicks / events:.1%})")
    if summary.best_reachable_recall is not None and summary.popularity_recall is not None:
        console.print(
            f"recall@{CUTOFF} on the last day over {summary.clients_ranked:,} clients: best reachable "
            f"[bold]{summary.best_reachable_recall:.4f}[/], popularity [bold]{summary.popularity_recall:.4f}[/]",
        )


def main(argv: Sequence[str] | None = None) -> int:
    console = Console(highlight=False, soft_wrap=True)
    began = time.perf_counter()
    try:
        settings, feed, folder = _parse(argv)
        summary, written = make_feed(feed, folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if written:
        console.print(f"wrote {folder} in {time.perf_counter() - began:.1f} s")
    else:
        console.print(f"{folder} holds this feed already: nothing written")
    _show(console, summary)
    missing = sorted(set(settings.window_days()) - set(feed.dates))
    if missing:
        console.print(
            f"[yellow]the settings' windows reach beyond the log: {len(missing)} of their days are missing, "
            f"first {missing[0]}[/]; --days and --end move the log, --set date=… the windows",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
