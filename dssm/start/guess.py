"""Which column is what: by its name first, then by its values. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dssm.errors import UserError
from dssm.start.log import Unit, unix_ms
from dssm.start.look import Column, Looked

USER_WORDS = ("user", "client", "member", "customer", "uid", "viewer", "visitor")
ITEM_WORDS = ("item", "post", "video", "product", "article", "goods", "movie", "song", "doc", "nid", "ad")
TIME_WORDS = ("timestamp", "time_ms", "event_time", "time", "ts", "date", "datetime")
LABEL_WORDS = ("label", "click", "is_click", "clicked", "act", "like", "buy", "purchase")
TITLE_WORDS = ("title", "name", "headline", "caption")
UPLOAD_WORDS = (
    "upload", "uploaded", "publish", "published", "publication", "pub", "pubdate", "release", "released", "create",
    "created", "creation", "posted", "added",
)  # fmt: skip
TIMES_OF_DAY = ("hourmin", "hour_min", "hhmm", "hour")
SINCE_MS = 946_684_800_000  # 2000: a number that would be an earlier time is none
WHOLE_DAY = re.compile(r"^20\d{2}-?\d{2}-?\d{2}$")
# Where clocks never change, by minutes ahead of UTC; elsewhere an offset tells no zone.
ZONES = {
    0: "UTC", 180: "Europe/Moscow", 240: "Asia/Dubai", 330: "Asia/Kolkata", 420: "Asia/Bangkok", 480: "Asia/Shanghai",
    540: "Asia/Tokyo", -180: "America/Sao_Paulo",
}  # fmt: skip


@dataclass(frozen=True)
class Zone:
    """A time zone, how far it is ahead of UTC, and why it was chosen."""

    name: str
    offset_min: int
    why: str


def found(table: Looked, words: Sequence[str]) -> Column | None:
    """Returns the column whose name is one of the words, else holds one, the first words first."""
    for word in words:
        for column in table.columns:
            if column.name.lower() == word:
                return column
    for word in words:
        for column in table.columns:
            if word in words_of(column.name):
                return column
    return None


def words_of(name: str) -> list[str]:
    """Returns the words of a name.

    >>> words_of("userId"), words_of("is_click")
    (['user', 'id'], ['is', 'click'])
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def needed(table: Looked, option: str, what: str, words: Sequence[str]) -> Column:
    """Returns the column that is found. Raises: UserError where none is."""
    column = found(table, words)
    if column is None:
        names = ", ".join(column.name for column in table.columns)
        raise UserError(
            f"{option} {table.path}: no column looks like the {what}; found {names}, expected a name with one of "
            f"{', '.join(words)}: rename it, or copy conf/demo.yaml and name the columns there"
        )
    return column


def rivals(table: Looked, chosen: Column, words: Sequence[str]) -> list[str]:
    """Returns other columns that the words fit, by their names: ids, or no more than a word."""
    return [
        column.name
        for column in table.columns
        if column.name != chosen.name
        and set(words_of(column.name)) & set(words)
        and (len(words_of(column.name)) == 1 or words_of(column.name)[-1] == "id")
    ]


def key(table: Looked, like: Column) -> Column:
    """Returns the column of the same name, else the first that has no value twice. Raises: UserError where none is."""
    same = table.named(like.name)
    chosen = same or next((column for column in table.columns if column.unique), None)
    if chosen is None:
        raise UserError(f"{table.path}: no column is named '{like.name}', and none has each value once")
    return chosen


def unit_of(time: Column) -> Unit:
    try:
        return "ms" if float(time.example) > 1e11 else "s"
    except ValueError:
        return "iso"


def upload_time(items: Looked) -> Column | None:
    """Returns the column of the day or time from which an item exists: by its name, if it holds dates or Unix times."""
    for word in UPLOAD_WORDS:
        for column in items.columns:
            if word in words_of(column.name) and _holds_times(column, items):
                return column
    return None


def _holds_times(column: Column, table: Looked) -> bool:
    if column.looks == "date":
        return True
    times = unix_ms(table.rows[column.name], unit_of(column)) if column.is_whole else np.empty(0)
    return bool((times > 0).any()) and float(np.median(times[times > 0])) > SINCE_MS


def zone(events: Looked, time: Column) -> Zone:
    """Returns the zone in which a day and a time of day beside a Unix time were written, else UTC."""
    unit = unit_of(time)
    if unit == "iso":
        return Zone("UTC", 0, "the log's times are texts: where they name no zone, they are of this one")
    local = _local_ms(events, time)
    if local is None:
        return Zone("UTC", 0, "nothing in the log tells another")
    names, there = local
    unix = unix_ms(events.rows[time.name], unit)
    ahead = ((there - unix) / 60_000)[np.isfinite(there) & (unix > 0)]  # a time of day is cut to its minute or hour
    if not len(ahead):
        return Zone("UTC", 0, f"{names} hold no times")
    offset = int(round(float(np.quantile(ahead, 0.99)) / 15) * 15)
    if abs(offset) > 14 * 60 or np.mean((ahead > offset - 61) & (ahead < offset + 1)) < 0.95:
        return Zone("UTC", 0, f"{names} beside {time.name} tell no other")
    hours = offset / 60
    # Etc/GMT-2 is two hours ahead: POSIX counts the other way. None is more than 12 hours behind.
    name = ZONES.get(offset) or (f"Etc/GMT{-int(hours):+d}" if hours.is_integer() and hours >= -12 else "UTC")
    change = "" if offset in ZONES else "; name the place where its clocks change"
    return Zone(
        name,
        offset if name != "UTC" else 0,
        f"{names} are {abs(hours):g} h {'ahead of' if offset >= 0 else 'behind'} UTC{change}",
    )


def _local_ms(events: Looked, time: Column) -> tuple[str, np.ndarray] | None:
    """Returns the columns of the day and the time of day, and what they say, as if it were of UTC (ms)."""
    others = [column for column in events.columns if column.name != time.name]
    for column in others:
        if (
            column.looks == "date"
            and len(column.example) > 10
            and not re.search(r"(Z|[-+]\d{2}:?\d{2})$", column.example)
        ):
            return column.name, unix_ms(events.rows[column.name].astype(str), "iso")
    day = next((column for column in others if WHOLE_DAY.match(column.example.removesuffix(".0"))), None)
    clock = next((column for column in others if column.name.lower() in TIMES_OF_DAY and column.is_whole), None)
    if day is None or clock is None:
        return None
    days = pd.to_datetime(events.rows[day.name].astype(str).str.replace("-", ""), format="%Y%m%d", errors="coerce")
    number = pd.to_numeric(events.rows[clock.name], errors="coerce").to_numpy(float)
    minutes = number * 60 if clock.name.lower() == "hour" else number // 100 * 60 + number % 100
    there = (days - pd.Timestamp(0)) / pd.Timedelta(milliseconds=1) + minutes * 60_000
    return f"{day.name} and {clock.name}", there.to_numpy(float)
