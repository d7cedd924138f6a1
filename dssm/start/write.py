"""`init`: a commented config for a user's own tables."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dssm.config import load_settings
from dssm.errors import UserError
from dssm.start.look import Column, Looked, look

USER_WORDS = ("user", "client", "member", "customer", "uid", "viewer", "visitor")
ITEM_WORDS = ("item", "post", "video", "product", "article", "goods", "movie", "song", "doc", "nid", "ad")
TIME_WORDS = ("timestamp", "time_ms", "event_time", "time", "ts", "date", "datetime")
LABEL_WORDS = ("label", "click", "is_click", "clicked", "act", "like", "buy", "purchase")
TITLE_WORDS = ("title", "name", "headline", "caption")
YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
NAME = re.compile(r"^[A-Za-z]\w*$", re.ASCII)


@dataclass(frozen=True)
class Tables:
    """What `init` is told of: None where there is no such table."""

    events: Looked
    items: Looked
    profiles: tuple[Looked, ...] = ()
    vectors: Looked | None = None


def init(name: str, tables: Tables, out: str, date: dt.date | None = None) -> str:
    """Writes the config, and reads it back.

    Returns: its text.
    Raises: UserError where the file is there, or a column that must be there can't be told.
    """
    if Path(out).exists():
        raise UserError(f"--out {out}: there is such a file already; name another, or remove it")
    text = config_text(name, tables, date)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    unread = Path(f"{out}.tmp")
    unread.write_text(text, encoding="utf-8")
    try:
        load_settings(str(unread))
    except UserError as error:
        unread.unlink()
        raise UserError(
            f"init: a config for these tables does not hold: {error}; copy conf/demo.yaml instead"
        ) from error
    unread.replace(out)
    return text


def look_at(events: str, items: str, profiles: Sequence[str], vectors: str | None) -> Tables:
    return Tables(
        look("--events", events),
        look("--items", items),
        tuple(look("--profiles", path) for path in profiles),
        None if vectors is None else look("--vectors", vectors),
    )


def config_text(name: str, tables: Tables, date: dt.date | None = None) -> str:
    """Returns the YAML: what was told from the tables, each guess marked."""
    events, items = tables.events, tables.items
    user = _guess(events, "--events", "user id", USER_WORDS)
    item = _guess(events, "--events", "item id", ITEM_WORDS)
    time = _guess(events, "--events", "time", TIME_WORDS)
    label = _found(events, LABEL_WORDS)
    key = _key(items, item)
    title = _found(items, TITLE_WORDS)
    lines = [
        "# Made by init from the first rows of each table. What is marked with ? is a guess: look at it.",
        f"name: {name}",
        f"date: {date or _last_day(events, time)}    # ? D: train on the days before it, test on the day itself",
        "window: {train_days: 14, test_days: 1}",
        "timezone: UTC           # ? of the days",
        "",
        "sources:",
        "  events:",
        f"    path: {_quoted(events.path)}",
        f"    format: {events.format}",
        f"    user: {_quoted(user.name)}    # ? such as {user.example}",
        f"    item: {_quoted(item.name)}    # ? such as {item.example}",
        f"    time: {_quoted(time.name)}    # ? such as {time.example}",
        f"    time_unit: {_unit(time)}",
        f"    label: {_quoted(label.name if label else '1')}    # ? SQL; above 0 is a positive",
        "",
    ]
    if tables.profiles:
        lines.append("profiles:")
        for number, profile in enumerate(tables.profiles, 1):
            lines += [
                f"  profile_{number}:",
                f"    path: {_quoted(profile.path)}",
                f"    format: {profile.format}",
                f"    key: {_quoted(_key(profile, user).name)}",
            ]
        lines.append("")
    lines += [
        "catalogue:",
        f"  path: {_quoted(items.path)}",
        f"  format: {items.format}",
        f"  key: {_quoted(key.name)}",
    ]
    lines += [f"  title: {_quoted(title.name)}    # ? names an item for people", ""] if title else [""]
    if tables.vectors is not None:
        lines += _vectors(tables.vectors, item)
    lines += ["histories:", "  clicks: {sources: [events], last: 50}", "", "features:"]
    lines += _features(tables, user, key, title)
    lines += ["", "samples: {train_rows: positives}", _TRAINING.rstrip()]
    return "\n".join(lines) + "\n"


_TRAINING = """
model:
  user_tower: {layers: [256, 128]}
  item_tower: {layers: [256, 128]}
  vector_dim: 64
  temperature: 0.1

train:
  launch: spark
  ranks: 2                # processes that train together
  loss: in_batch_softmax
  batch_size: 1024
  epochs: 3
"""


def _vectors(vectors: Looked, item: Column) -> list[str]:
    key = _key(vectors, item)
    values = next((column for column in vectors.columns if column.looks == "vector"), None)
    if values is None:
        raise UserError(f"--vectors {vectors.path}: no column holds lists of equally many numbers")
    return [
        "vectors:",
        "  item:",
        f"    path: {_quoted(vectors.path)}",
        f"    format: {vectors.format}",
        f"    key: {_quoted(key.name)}",
        f"    values: {_quoted(values.name)}",
        f"    width: {values.width}",
        "",
    ]


def _features(tables: Tables, user: Column, item: Column, title: Column | None) -> list[str]:
    """Returns a line for each feature; a column that none fits stands there as a comment."""
    lines = ["  user_id: {kind: SparseFeat, side: user, column: " + _quoted(user.name) + ", dim: 32, min_count: 5}"]
    taken = {"user_id", "clicks", "item_id", "item_vector", "clicks_vector"}
    for profile in tables.profiles:
        key = _key(profile, user)
        chosen = [column for column in profile.columns if column.name != key.name]
        lines += [_feature(column, "user", taken, _shared(column, tables.items, item)) for column in chosen]
    lines.append("  clicks: {kind: VarLenSparseFeat, side: user, maxlen: 50, share_embedding: item_id, dim: 32}")
    if tables.vectors is not None:
        lines.append(
            "  clicks_vector: {kind: DenseFeat, side: user, column: clicks, pre_embed: item, reduce_type: mean}"
        )
    lines.append("  item_id: {kind: SparseFeat, side: item, column: " + _quoted(item.name) + ", dim: 32}")
    others = [column for column in tables.items.columns if column.name != item.name]
    lines += [_feature(column, "item", taken) for column in others if title is None or column.name != title.name]
    if tables.vectors is not None:
        lines.append(
            "  item_vector: {kind: DenseFeat, side: item, column: " + _quoted(item.name) + ", pre_embed: item}"
        )
    return lines


def _shared(column: Column, items: Looked, key: Column) -> str | None:
    """Returns the item feature whose ids a user's list seems to hold: read_post_id those of post_id."""
    for other in items.columns:
        stem = other.name.lower().removesuffix("_id")
        if column.looks.endswith("list") and len(stem) > 2 and stem in column.name.lower():
            return "item_id" if other.name == key.name else other.name
    return None


def _feature(column: Column, side: str, taken: set[str], shared: str | None = None) -> str:
    longest = min(max(column.width, 1), 50)
    width = 32 if shared == "item_id" else 8 if shared else 16
    kinds = {
        "number": "kind: DenseFeat, side: SIDE, transform: standard",
        "category": "kind: SparseFeat, side: SIDE, dim: 8",
        "list": f"kind: VarLenSparseFeat, side: SIDE, maxlen: {longest}, dim: {width}",
        "weighted list": f"kind: VarLenSparseFeat, side: SIDE, weighted: true, maxlen: {longest}, dim: {width}",
        "text": "kind: TextFeat, side: SIDE, maxlen: 20, hash_buckets: 20000, dim: 16",
    }
    share = f", share_embedding: {shared}" if shared else ""
    line = f"  {column.name}: {{{kinds.get(column.looks, '')}{share}}}".replace("SIDE", side)
    if not NAME.match(column.name) or column.name.lower() in YAML_WORDS:
        return f"  # {column.name}: left out (no feature can have this name; give it one, and column: {column.name})"
    if column.name in taken or column.looks not in kinds or (column.looks == "category" and column.unique):
        why = "another has its name" if column.name in taken else f"{column.looks}, such as {column.example}"
        return f"  # {column.name}: left out ({why})"
    taken.add(column.name)
    return f"{line}    # ? such as {column.example}"


def _found(table: Looked, words: Sequence[str]) -> Column | None:
    """Returns the column whose name is one of the words, else holds one, the first words first."""
    for word in words:
        for column in table.columns:
            if column.name.lower() == word:
                return column
    for word in words:
        for column in table.columns:
            if word in _words(column.name):
                return column
    return None


def _words(name: str) -> list[str]:
    """Returns the words of a name.

    >>> _words("userId"), _words("is_click")
    (['user', 'id'], ['is', 'click'])
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def _guess(table: Looked, option: str, what: str, words: Sequence[str]) -> Column:
    found = _found(table, words)
    if found is None:
        names = ", ".join(column.name for column in table.columns)
        raise UserError(
            f"{option} {table.path}: no column looks like the {what}; found {names}, expected a name with one of "
            f"{', '.join(words)}: rename it, or copy conf/demo.yaml and name the columns there"
        )
    return found


def _key(table: Looked, like: Column) -> Column:
    """Returns the column of the same name, else the first that has no value twice."""
    same = table.named(like.name)
    found = same or next((column for column in table.columns if column.unique), None)
    if found is None:
        raise UserError(f"{table.path}: no column is named '{like.name}', and none has each value once")
    return found


def _last_day(events: Looked, time: Column) -> str:
    """Returns the newest day of the folders, else that of the newest time looked at."""
    if events.newest_day is not None:
        return events.newest_day
    if _unit(time) == "iso":
        return time.last[:10]
    seconds = float(time.last) / (1000 if _unit(time) == "ms" else 1)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date().isoformat()


def _unit(time: Column) -> str:
    try:
        return "ms" if float(time.example) > 1e11 else "s"
    except ValueError:
        return "iso"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
