"""The same work in SQL: python -m benchmarks.samples.duckdb_peer FEED OUT positives|all.

As pandas', but: histories, negatives and tags are lists of their own length instead of packed matrices, chances are
rounded to a millionth, and each positive draws six candidates of which the first four unclicked ones are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from benchmarks.samples.arrays import FIRST_TOKEN, UNKNOWN, run
from benchmarks.samples.feed import EVENTS, ITEMS, USERS
from benchmarks.samples.task import (
    AUTHOR,
    AUTHOR_MIN_COUNT,
    EXPONENT,
    HISTORY,
    ITEM_DENSE,
    ITEM_ID,
    ITEM_SPARSE,
    NEGATIVES,
    SPLIT_MS,
    TAGS,
    TAGS_KEPT,
    THREADS,
    USER_DENSE,
    USER_ID,
    USER_MIN_COUNT,
    USER_SPARSE,
)

SLOTS = 1 << 20
CANDIDATES = 6


def statements(feed: Path, out: Path, clicks_only: bool) -> Iterator[str]:
    """Yields the statements in their order; the last writes the samples."""
    where = "where is_click = 1" if clicks_only else ""
    yield f"create table users as from '{feed / USERS}'"
    yield f"create table items as select *, (row_number() over () - 1)::int as item from '{feed / ITEMS}'"
    yield f"""
        create table rows as
        select {USER_ID}, {ITEM_ID}, time_ms, is_click = 1 as click, time_ms < {SPLIT_MS} as trains
        from '{feed / EVENTS}/*.parquet' semi join items using ({ITEM_ID}) {where}"""
    yield f"""
        create table tags as
        select {ITEM_ID}, item, unnest(string_split({TAGS}, ',')) as {TAGS},
            generate_subscripts(string_split({TAGS}, ','), 1) as place
        from items"""
    yield vocabulary(USER_ID, "users", USER_ID, USER_MIN_COUNT)
    yield vocabulary(ITEM_ID, "items", ITEM_ID)
    yield vocabulary(AUTHOR, "items", ITEM_ID, AUTHOR_MIN_COUNT)
    yield vocabulary(TAGS, "tags", ITEM_ID)
    yield from (vocabulary(name, "users", USER_ID) for name in USER_SPARSE)
    yield from (vocabulary(name, "items", ITEM_ID) for name in ITEM_SPARSE)
    yield encoded("users", USER_ID, (USER_ID, *USER_SPARSE), USER_DENSE)
    yield encoded(
        "items", ITEM_ID, (ITEM_ID, AUTHOR, *ITEM_SPARSE), ITEM_DENSE, f"item, coalesce(tags.ids, []) as {TAGS}, share"
    )
    yield from negatives()
    yield f"copy ({samples()}) to '{out}' (format parquet)"


def vocabulary(name: str, table: str, key: str, min_count: int = 1) -> str:
    """Returns the statement that makes the table `name__ids` (token, id), by frequency in the training rows."""
    return f"""
        create table {name}__ids as
        select {name} as token, (row_number() over (order by count(*) desc, token) + {FIRST_TOKEN - 1})::int as id
        from rows join {table} using ({key}) where trains and {name} is not null
        group by token having count(*) >= {min_count}"""


def encoded(table: str, key: str, sparse: tuple[str, ...], dense: str, further: str = "0") -> str:
    """Returns the statement that makes the table `table_encoded`, with NAME__id and NAME__number columns."""
    ids = ", ".join(f"coalesce({name}__ids.id, {UNKNOWN}) as {name}__id" for name in sparse)
    joins = " ".join(f"left join {name}__ids on {name}__ids.token = {table}.{name}" for name in sparse)
    tags = f"""
        left join (
            select item, list(coalesce(id, {UNKNOWN}) order by place)[:{TAGS_KEPT}] as ids
            from tags left join {TAGS}__ids on token = {TAGS} group by item
        ) as tags using (item)
        left join (
            select {ITEM_ID}, (count(*) / sum(count(*)) over ())::float as share
            from rows where trains group by {ITEM_ID}
        ) as shares using ({ITEM_ID})"""
    return f"""
        create table {table}_encoded as
        select {table}.{key}, {ids}, ln(1 + coalesce({dense}, 0))::float as {dense}__number, {further}
        from {table} {joins} {tags if table == "items" else ""}"""


def negatives() -> Iterator[str]:
    """Yields what makes `slots`, in which an item has as many of SLOTS rows as it has chance, and `clicked`."""
    yield f"""
        create table chances as
        select item, weight / sum(weight) over () as chance,
            sum(weight) over (order by item) / sum(weight) over () as upto
        from (
            select item, count(*) ^ {EXPONENT} as weight from rows join items using ({ITEM_ID})
            where click and trains group by item
        )"""
    yield f"""
        create table slots as
        select item, chance::float as chance,
            unnest(range(round((upto - chance) * {SLOTS})::int, round(upto * {SLOTS})::int))::int as slot
        from chances"""
    yield f"""
        create table clicked as
        select {USER_ID}, list(item) as clicked from rows join items using ({ITEM_ID})
        where click and trains group by {USER_ID}"""


def samples() -> str:
    """Returns the query of the samples. Its window is quadratic in a user's clicks: no feed for heavy users."""
    numbers = range(CANDIDATES)
    slots = ", ".join(f"floor(random() * {SLOTS})::int as slot{n}" for n in numbers)
    joins = " ".join(f"join slots s{n} on s{n}.slot = slot{n}" for n in numbers)
    drawn, chances = (", ".join(f"s{n}.{column}" for n in numbers) for column in ("item", "chance"))
    features = [*(f"{name}__id" for name in (USER_ID, *USER_SPARSE, ITEM_ID, AUTHOR, *ITEM_SPARSE))]
    history = f"""list({ITEM_ID}__id) filter (where click) over (
        partition by {USER_ID} order by time_ms range between unbounded preceding and 1 preceding)"""
    return f"""
        with described as (
            select {USER_ID}, {ITEM_ID}, time_ms, click, trains, {", ".join(features)}, {USER_DENSE}__number,
                {ITEM_DENSE}__number, {TAGS}, share, {history} as history, {slots}
            from rows join users_encoded using ({USER_ID}) join items_encoded using ({ITEM_ID})
        ), drawn as (
            select described.*, [{drawn}] as candidates, [{chances}] as chances,
                list_transform([{drawn}], lambda item: click and trains and not list_contains(clicked, item)) as fits
            from described left join clicked using ({USER_ID}) {joins}
        )
        select {USER_ID} as row_user, {ITEM_ID} as row_item, time_ms as row_time, click::float as row_label,
            1::float as row_weight, coalesce(share, 0) as row_item_probability,
            list_where(candidates, fits)[:{NEGATIVES}] as row_negatives,
            list_where(chances, fits)[:{NEGATIVES}] as row_negative_probability,
            {", ".join(f"{name} as {name.removesuffix('__id')}" for name in features)},
            {USER_DENSE}__number as {USER_DENSE}, {ITEM_DENSE}__number as {ITEM_DENSE}, {TAGS},
            list_reverse(coalesce(history, [])[-{HISTORY}:]) as clicks
        from drawn"""


def build(feed: Path, out: Path, clicks_only: bool) -> int:
    """Writes the samples to one Parquet file. Returns the number of training rows."""
    with duckdb.connect() as connection:
        connection.execute(f"set threads = {THREADS}")
        connection.execute("set preserve_insertion_order = false")
        connection.execute(f"set temp_directory = '{out}.tmp'")
        for statement in statements(feed, out, clicks_only):
            connection.execute(statement)
        counted = connection.execute("select count(*) from rows where trains").fetchone()
    assert counted is not None  # an aggregate is one row
    return int(counted[0])


if __name__ == "__main__":
    run(build)
