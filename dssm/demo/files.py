"""The feed as files, written in bounded memory and committed by one rename."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pyarrow import csv

from dssm import storage
from dssm.demo.feed import (
    BACKGROUND,
    CLIENT_TYPES,
    FAVOURITES,
    INTERESTS_STREAM,
    PROFILE_ROWS,
    PROFILES_STREAM,
    READS_MEAN,
    READS_STREAM,
    TITLES_STREAM,
    VECTOR_NOISE,
    VECTORS_MISSING,
    VECTORS_STREAM,
    WORDS_STREAM,
    Events,
    Feed,
    Floats,
    Ints,
    Tastes,
    draw_events,
    pieces,
    plant_tastes,
)
from dssm.demo.recall import best_reachable_recall, popularity_recall
from dssm.demo.words import Lexicon, make_lexicon
from dssm.errors import UserError
from dssm.manifest import MANIFEST

GENERATOR = "dssm.demo 2"  # raise the number when the same parameters give other bytes
RECALL_CLIENTS = 10_000  # at most so many clients of the last day are ranked for it
ROWS_AT_ONCE = 1 << 18  # events; bounds the memory and has no influence on what is written
_VECTOR_NUMBERS = 1 << 21  # numbers of the vectors at once; likewise
TITLE_WORDS = (3, 6)
TITLE_COMMON = 0.3  # share of common words in titles
LENGTH_S = (math.log(45), 0.8)  # of the posts' log-normal length: mean and deviation of the logarithm
INTEREST_WORDS = (3, 8)
INTEREST_NOISE = (0.15, 0.15)  # shares of common words and of any topic's words in interests
INTERESTS_MISSING = 0.2  # share of clients that state none
AGE_DAYS_MEAN = 400


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
    lexicon = make_lexicon(feed.generator(WORDS_STREAM), feed.topics)
    (folder / "oracle").mkdir()
    rows = {
        "clients.csv": _write_csv(folder / "clients.csv", _client_tables(feed, tastes, lexicon)),
        "reads.csv": _write_csv(folder / "reads.csv", _read_tables(feed, tastes)),
        "posts.csv": _write_csv(folder / "posts.csv", [_post_table(feed, tastes, lexicon)]),
        "vectors.jsonl": _write_vectors(folder / "vectors.jsonl", feed, tastes),
        "oracle/clients.parquet": _write_oracle(
            folder / "oracle/clients.parquet", tastes.client_ids, tastes.client_values
        ),
        "oracle/posts.parquet": _write_oracle(folder / "oracle/posts.parquet", tastes.post_ids, tastes.post_values),
    }
    clicks_before = np.zeros(feed.posts, dtype=np.int64)
    last_clicks: list[Ints] = []  # client · P + post

    def tables(date: dt.date, count: int) -> Iterator[pa.Table]:
        for start, stop in pieces(count, rows_at_once):
            events = draw_events(feed, tastes, date, start, stop)
            post = events.post[events.act]
            if date == feed.end:
                last_clicks.append(events.client[events.act] * feed.posts + post)
            else:
                np.add(clicks_before, np.bincount(post, minlength=feed.posts), out=clicks_before)
            yield _event_table(events, tastes)

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


def _event_table(events: Events, tastes: Tastes) -> pa.Table:
    return pa.table(
        {
            "client_id": tastes.client_ids[events.client],
            "post_id": tastes.post_ids[events.post],
            "act": events.act.astype(np.int8),
            "time": events.time,
            "position": events.position,
            "like": events.like.astype(np.int8),
            "dwell_share": events.dwell_share,
        }
    )


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


def _client_tables(feed: Feed, tastes: Tastes, lexicon: Lexicon) -> Iterator[pa.Table]:
    """Yields client_id, client_type, the followed topics, the favourites of seven days with weights, interests, age.

    Topics, favourites and interests are noisy views of the taste. A cold client has clicked nothing yet, so it has no
    favourites, and has registered on the last day.
    """
    types = pa.array(CLIENT_TYPES)
    topic_names = pa.array(tastes.topic_ids.astype(str))
    weight_names = pa.array([f"{weight / 10_000:.4f}".rstrip("0").rstrip(".") for weight in range(10_001)])
    for start, stop in pieces(feed.clients, PROFILE_ROWS):
        random = feed.generator(PROFILES_STREAM, start)
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
                **_interests(feed, tastes, lexicon, start, stop),
            }
        )


def _interests(feed: Feed, tastes: Tastes, lexicon: Lexicon, start: int, stop: int) -> dict[str, pa.Array]:
    """Returns the clients' interests in their own words, null where they state none, and their accounts' age."""
    random = feed.generator(INTERESTS_STREAM, start)
    least, most = INTEREST_WORDS
    shape = (stop - start, most)
    client = np.repeat(np.arange(start, stop), most)
    source_u, topic_u, word_u = random.random((3, *shape))
    common, any_topic = INTEREST_NOISE
    topic = tastes.draw_topics(client, (source_u < common).ravel(), topic_u.ravel()).reshape(shape)
    topic = np.where(source_u >= 1 - any_topic, random.integers(0, feed.topics, shape), topic)
    count = random.integers(least, most + 1, stop - start)
    count[random.random(stop - start) < INTERESTS_MISSING] = 0
    age_days = np.rint(random.exponential(AGE_DAYS_MEAN, stop - start)).astype(np.int64)
    age_days[tastes.cold[start:stop]] = 0
    return {
        "interests": _joined(lexicon.draw(topic, word_u), np.arange(most) < count[:, None], " "),
        "age_days": pa.array(age_days),
    }


def _read_tables(feed: Feed, tastes: Tastes) -> Iterator[pa.Table]:
    """Yields client_id and the posts read before the log starts; without a row where there are none."""
    names = pa.array(tastes.post_ids.astype(str))
    for start, stop in pieces(feed.clients, PROFILE_ROWS):
        random = feed.generator(READS_STREAM, start)
        most = 4 * int(READS_MEAN)
        mean = READS_MEAN * np.sqrt(tastes.activity[start:stop])
        counts = np.minimum(random.exponential(mean).astype(np.int64), most)
        counts[tastes.cold[start:stop]] = 0
        client = np.repeat(np.arange(start, stop), counts)
        source_u, topic_u, post_u = random.random((3, len(client)))
        posts = tastes.draw_posts(tastes.draw_topics(client, source_u < BACKGROUND, topic_u), post_u)
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


def _joined(entries: pa.Array, kept: npt.NDArray[np.bool_], separator: str = ",") -> pa.Array:
    """Joins each row's kept entries; null where none is kept. `entries` is `kept` row by row."""
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), entries.filter(pa.array(kept.ravel())))
    texts = pc.binary_join(lists, separator)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


def _post_table(feed: Feed, tastes: Tastes, lexicon: Lexicon) -> pa.Table:
    """Returns post_id, topic_id, author_id, a title in words of both topics, and the post's length in seconds."""
    random = feed.generator(TITLES_STREAM)
    least, most = TITLE_WORDS
    source_u, topic_u, word_u = random.random((3, feed.posts, most))
    main, second = tastes.post_topics.T[:, :, None]
    topic = np.where(topic_u < tastes.second_shares[:, None], second, main)
    topic = np.where(source_u < TITLE_COMMON, feed.topics, topic)
    count = random.integers(least, most + 1, feed.posts)
    return pa.table(
        {
            "post_id": tastes.post_ids,
            "topic_id": tastes.topic_ids[tastes.post_topics[:, 0]],
            "author_id": tastes.author_ids,
            "title": _joined(lexicon.draw(topic, word_u), np.arange(most) < count[:, None], " "),
            "length_s": np.round(random.lognormal(*LENGTH_S, feed.posts), 1),
        }
    )


def _write_vectors(path: Path, feed: Feed, tastes: Tastes) -> int:
    """Writes noisy random projections of the posts' topics as JSON lines; returns the number of rows."""
    projection = feed.generator(VECTORS_STREAM).normal(0, feed.vector_width**-0.5, (feed.topics, feed.vector_width))
    rows = 0
    with path.open("wb") as file:
        for start, stop in pieces(feed.posts, max(1, _VECTOR_NUMBERS // feed.vector_width)):
            random = feed.generator(VECTORS_STREAM, start)
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
        for start, stop in pieces(len(ids), PROFILE_ROWS):
            rows = values(start, stop).astype(np.float32)
            bounds = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
            lists = pa.ListArray.from_arrays(bounds, pa.array(rows.ravel()))
            writer.write_table(pa.table([pa.array(ids[start:stop].astype(str)), lists], schema=schema))
    return len(ids)
