"""`init`: a commented config for a user's own tables."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dssm.config import load_settings
from dssm.console import step
from dssm.errors import UserError
from dssm.shipped import shipped
from dssm.start import choose
from dssm.start.guess import (
    ITEM_WORDS,
    LABEL_WORDS,
    TIME_WORDS,
    TITLE_WORDS,
    USER_WORDS,
    Zone,
    found,
    key,
    needed,
    rivals,
    unit_of,
    upload_time,
    zone,
)
from dssm.start.log import Tally, tally
from dssm.start.look import Column, Looked, look

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
    text = f"# yaml-language-server: $schema={_schema_for(out)}\n{config_text(name, tables, date)}"
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


def _schema_for(config: str) -> str:
    """Returns where an editor finds the schema of a config: relative to it within a checkout, else as a URL."""
    schema, folder = shipped("conf/schema.json"), Path(config).resolve().parent
    return os.path.relpath(schema, folder) if folder.is_relative_to(schema.parents[1]) else schema.as_uri()


def look_at(events: str, items: str, profiles: Sequence[str], vectors: str | None) -> Tables:
    return Tables(
        look("--events", events),
        look("--items", items),
        tuple(look("--profiles", path) for path in profiles),
        None if vectors is None else look("--vectors", vectors),
    )


@dataclass(frozen=True)
class _Guess:
    """The columns that all else depends on."""

    user: Column
    item: Column
    time: Column
    label: Column | None
    key: Column
    title: Column | None
    upload: Column | None
    zone: Zone


def _guess(tables: Tables) -> _Guess:
    events, items = tables.events, tables.items
    user = needed(events, "--events", "user id", USER_WORDS)
    item = needed(events, "--events", "item id", ITEM_WORDS)
    time = needed(events, "--events", "time", TIME_WORDS)
    return _Guess(
        user,
        item,
        time,
        found(events, LABEL_WORDS),
        key(items, item),
        found(items, TITLE_WORDS),
        upload_time(items),
        zone(events, time),
    )


def config_text(name: str, tables: Tables, date: dt.date | None = None) -> str:
    """Reads the log, and returns the YAML; what changes the results' meaning is marked with ?."""
    guess = _guess(tables)
    label = guess.label.name if guess.label else None
    with step("times and labels of the log") as remarks:
        log = tally(tables.events, guess.user.name, guess.time.name, unit_of(guess.time), label)
        rows = sum(log.rows.values())
        remarks.counted("rows", rows, f"{rows:,} events")
    window = _windows(tables.events, log, guess)
    lines = [
        f"# Made by init from the first rows of each table, and from {_read(log)}. What is marked",
        "# with ? decides what the results mean: look at it.",
        f"name: {name}",
        *_when(log, window, guess.zone, date),
        "",
        *_sources(tables, guess),
    ]
    if tables.profiles:
        lines.append("profiles:")
        for number, profile in enumerate(tables.profiles, 1):
            lines += [
                f"  profile_{number}:",
                f"    path: {_quoted(profile.path)}",
                f"    format: {profile.format}",
                f"    key: {_quoted(key(profile, guess.user).name)}",
            ]
        lines.append("")
    lines += _catalogue(tables.items, guess)
    if tables.vectors is not None:
        lines += _vectors(tables.vectors, guess.item)
    lines += ["histories:", "  clicks: {sources: [events], last: 50}", "", "features:"]
    of_read = round(window.positives / log.scale)  # as the users are, who are not scaled
    lines += _features(tables, guess, choose.least_count(of_read, log.users))
    lines += ["", "samples: {train_rows: positives}", _training(window.positives).rstrip()]
    return "\n".join(lines) + "\n"


def _windows(events: Looked, log: Tally, guess: _Guess) -> choose.Windows:
    """Chooses the windows from the log's days: those of its folders, or else of its times."""
    positives = choose.by_day(log.positives, guess.zone.offset_min)
    if events.in_folders and events.days is not None:
        first, last = map(dt.date.fromisoformat, events.days)
    elif log.rows:
        first, last = choose.span(choose.by_day(log.rows, guess.zone.offset_min))
    else:
        raise UserError(
            f"--events {events.path}: no row has a time in '{guess.time.name}'; expected {unit_of(guess.time)}, "
            f"1970 to 2100, such as {guess.time.example}"
        )
    if log.scale == 1:
        return choose.windows(first, last, positives, events.in_folders)
    rows = choose.by_day(log.rows, guess.zone.offset_min)
    return choose.windows(first, last, choose.estimated(first, last, rows, positives, log.scale), events.in_folders)


def _read(log: Tally) -> str:
    return "all times and labels of the log" if log.scale == 1 else "the times and labels of some of the log's files"


def _when(log: Tally, window: choose.Windows, zone: Zone, date: dt.date | None) -> list[str]:
    """Returns the lines of the date, the windows and the zone."""
    rows, positives = (round(sum(counts.values()) * log.scale) for counts in (log.rows, log.positives))
    part = "" if log.scale == 1 else f": about, by 1 / {log.scale:.3g} of its bytes"
    lines = []
    if rows:
        lines += [
            f"# The log runs from {_minute(log.first_ms)} to {_minute(log.last_ms)} UTC: {rows:,} events, {positives:,}"
            f" positives, {log.users:,} users{part}."
        ]
    if not window.can_train:
        lines.append("# Too short to train and test: both windows need positives. Give more days, or another label.")
    return [
        *lines,
        f"date: {date or window.date}    # ? D: train on the days before it, test from it on",
        f"window: {{train_days: {window.train_days}, test_days: {window.test_days}}}    "
        "# ? the test has the last tenth of these days, at least one",
        f"timezone: {zone.name}    # ? days begin at midnight there; {zone.why}",
    ]


def _minute(time_ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC):%Y-%m-%d %H:%M}"


def _sources(tables: Tables, guess: _Guess) -> list[str]:
    events, label = tables.events, guess.label
    taken = {column.name for column in (guess.user, guess.item, guess.time, label) if column is not None}
    flags = [column.name for column in events.columns if column.is_flag and column.name not in taken]
    others = [f"    # Other columns of 0 and 1, which may be the label: {', '.join(flags)}."] if flags else []
    every = "" if label else " (each event is a positive)"
    return [
        "sources:                # a second log is another entry beside events, with its own path and columns",
        "  events:",
        f"    path: {_quoted(events.path)}",
        f"    format: {events.format}",
        f"    user: {_quoted(guess.user.name)}{_or(rivals(events, guess.user, USER_WORDS), guess.user)}",
        f"    item: {_quoted(guess.item.name)}{_or(rivals(events, guess.item, ITEM_WORDS), guess.item)}",
        f"    time: {_quoted(guess.time.name)}    # such as {guess.time.example}",
        f"    time_unit: {unit_of(guess.time)}",
        f"    label: {_quoted(label.name if label else '1')}    # ? SQL; above 0 is a positive{every}",
        *others,
        "",
    ]


def _or(others: Sequence[str], chosen: Column) -> str:
    """Returns the comment of an id: a question only where another column may be it."""
    return f"    # ? or {', '.join(others)}" if others else f"    # such as {chosen.example}"


def _catalogue(items: Looked, guess: _Guess) -> list[str]:
    lines = [
        "catalogue:",
        f"  path: {_quoted(items.path)}",
        f"  format: {items.format}",
        f"  key: {_quoted(guess.key.name)}",
    ]
    if guess.title is not None:
        lines.append(f"  title: {_quoted(guess.title.name)}    # names an item for people")
    if guess.upload is not None:
        lines.append(f"  upload_time: {_quoted(guess.upload.name)}    # ? no event of an item before it counts")
        if unit_of(guess.upload) != "iso":
            lines.append(f"  upload_unit: {unit_of(guess.upload)}")
    return [*lines, ""]


def _training(positives: int) -> str:
    """Returns the sections model and train."""
    size = choose.sizes(positives)
    launch = "spark" if size.ranks > 1 else "single"
    return f"""
model:
  user_tower: {{layers: [256, 128]}}
  item_tower: {{layers: [256, 128]}}
  vector_dim: 64
  temperature: 0.1

train:                    # sized by the {positives:,} positives of the train days
  launch: {launch:<16}# one rank needs no launcher; spark for more
  ranks: {size.ranks:<17}# processes that train together; each needs sample files of its own
  loss: in_batch_softmax
  batch_size: {size.batch_size:<12}# of a rank; small for a small log: {choose.LEAST_STEPS} steps an epoch, or nearly
  epochs: {size.epochs:<16}# the more, the fewer steps an epoch has: {choose.STEPS:,} in all, or nearly
"""


def _vectors(vectors: Looked, item: Column) -> list[str]:
    its_key = key(vectors, item)
    values = next((column for column in vectors.columns if column.looks == "vector"), None)
    if values is None:
        raise UserError(f"--vectors {vectors.path}: no column holds lists of equally many numbers")
    return [
        "vectors:",
        "  item:",
        f"    path: {_quoted(vectors.path)}",
        f"    format: {vectors.format}",
        f"    key: {_quoted(its_key.name)}",
        f"    values: {_quoted(values.name)}",
        f"    width: {values.width}",
        "",
    ]


def _features(tables: Tables, guess: _Guess, least: int) -> list[str]:
    """Returns a line for each feature; a column that none fits stands there as a comment."""
    lines = [
        "  # Kinds are guessed from each column's name and first values, of which one stands behind it.",
        f"  user_id: {{kind: SparseFeat, side: user, column: {_quoted(guess.user.name)}, dim: 32, min_count: {least}}}",
    ]
    taken = {"user_id", "clicks", "item_id", "item_vector", "clicks_vector"}
    for profile in tables.profiles:
        its_key = key(profile, guess.user)
        chosen = [column for column in profile.columns if column.name != its_key.name]
        lines += [_feature(column, "user", taken, _shared(column, tables.items, guess.key)) for column in chosen]
    lines.append("  clicks: {kind: VarLenSparseFeat, side: user, maxlen: 50, share_embedding: item_id, dim: 32}")
    if tables.vectors is not None:
        lines.append(
            "  clicks_vector: {kind: DenseFeat, side: user, column: clicks, pre_embed: item, reduce_type: mean}"
        )
    of_item = _quoted(guess.key.name)
    lines.append(f"  item_id: {{kind: SparseFeat, side: item, column: {of_item}, dim: 32}}")
    apart = {column.name for column in (guess.key, guess.title, guess.upload) if column is not None}
    lines += [_feature(column, "item", taken) for column in tables.items.columns if column.name not in apart]
    if tables.vectors is not None:
        lines.append(f"  item_vector: {{kind: DenseFeat, side: item, column: {of_item}, pre_embed: item}}")
    return lines


def _shared(column: Column, items: Looked, its_key: Column) -> str | None:
    """Returns the item feature whose ids a user's list seems to hold: read_post_id those of post_id."""
    for other in items.columns:
        stem = other.name.lower().removesuffix("_id")
        if column.looks.endswith("list") and len(stem) > 2 and stem in column.name.lower():
            return "item_id" if other.name == its_key.name else other.name
    return None


def _feature(column: Column, side: str, taken: set[str], shared: str | None = None) -> str:
    longest = min(max(column.width, 1), 50)
    width = 32 if shared == "item_id" else 8 if shared else 16
    between = "" if column.separator == "," else f', separator: "{column.separator}"'
    kinds = {
        "number": "kind: DenseFeat, side: SIDE, transform: standard",
        "category": "kind: SparseFeat, side: SIDE, dim: 8",
        "list": f"kind: VarLenSparseFeat, side: SIDE{between}, maxlen: {longest}, dim: {width}",
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
    return f"{line}    # such as {column.example}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
