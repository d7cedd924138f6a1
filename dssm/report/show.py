"""Samples as a person reads them: ids as words again, lists without padding, times in the pipeline's time zone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from dssm.errors import UserError
from dssm.features import PADDING_ID, AnyFeature, DenseFeat, Side, SparseFeat, VarLenSparseFeat, of_side
from dssm.manifest import (
    ALWAYS,
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    LABEL,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    SOURCE,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    ColumnSpec,
    changing_item_features,
    negatives_column,
    target_column,
)
from dssm.packing import unpack
from dssm.report.counting import DistinctCount
from dssm.report.dataset import UNKNOWN, Dataset, Run
from dssm.report.decoding import printable, restored

SIDES: dict[str, tuple[Side, ...]] = {
    "train": ("user", "item"),
    "test": ("user", "item"),
    "users": ("user",),
    "items": ("item",),
}
ENTRIES = 20  # of a list that are shown, and negatives of a kind
VECTOR_NUMBERS = 4
WIDE = 100  # columns of a terminal on which the towers stand side by side
CHUNK = 500  # samples decoded at once
USERS_TOLD = 3


@dataclass(frozen=True)
class Negative:
    """A sampled negative; `facts` holds its probability and what depends on the event's time."""

    kind: str
    item: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One row in words: what is known of it, its features by tower, its negatives."""

    facts: dict[str, str]
    features: dict[Side, dict[str, str]]
    negatives: list[Negative]


def show(run: Run, console: Console, part: str, rows: int, user: str | None = None, full: bool = False) -> None:
    """Prints samples, one block each.

    Args:
      part: train, test, users or items.
      rows: how many at most: the first of the dataset.
      user: only rows of this user, the newest first.
      full: lists and negatives with all their entries.
    Raises: UserError where the user has no row.
    """
    dataset = run.part(part)
    shown = min(rows, dataset.manifest.rows)
    if user is None:
        tables = _chunks(dataset, np.arange(shown))
    else:
        places = places_of_user(run, part, user, rows)
        shown = len(places)
        tables = _chunks(dataset, places)
    console.print(Text(f"{run.title} · {part}, {dataset.manifest.rows:,} rows · {run.paths.folder}", style="bold"))
    number = 0
    for table in tables:
        for sample in decode(run, part, table, None if full else ENTRIES):
            number += 1
            console.print(_block(sample, f"{part} {number} of {shown}", console.width), soft_wrap=False)


def _chunks(dataset: Dataset, places: np.ndarray) -> Iterator[pa.Table]:
    """Yields the rows at these places, in the order of the places, a few hundred at a time."""
    columns = list(dataset.manifest.columns)
    for start in range(0, len(places), CHUNK):
        chunk = places[start : start + CHUNK]
        order = np.argsort(chunk)
        yield dataset.take(chunk[order], columns).take(pa.array(np.argsort(order)))


# Finding a user ----------------------------------------------------------------------------------------


def places_of_user(run: Run, part: str, user: str, rows: int) -> np.ndarray:
    """Returns where the user's newest rows stand in a dataset, the newest first: at most `rows` of them.

    Raises: UserError where there is none.
    """
    dataset = run.part(part)
    if USER_ID not in dataset.manifest.columns:
        raise UserError(f"--user {user}: {part} has no users; expected --part train, test or users")
    times, places = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for found_times, found_places in _rows_of_user(dataset, user):
        times, places = np.concatenate([times, found_times]), np.concatenate([places, found_places])
        newest = np.lexsort((places, -times))[:rows]
        times, places = times[newest], places[newest]
    if len(places) == 0:
        raise UserError(f"--user {printable(user)}: {_missing(run, part, user)}")
    return places


def _rows_of_user(dataset: Dataset, user: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields times and places of the user's rows, batch by batch; times are 0 where rows have none."""
    columns = [name for name in (USER_ID, EVENT_TIME) if name in dataset.manifest.columns]
    start = 0
    for batch in dataset.batches(columns):
        inside = np.flatnonzero(pc.equal(batch.column(0), user).to_numpy(zero_copy_only=False))
        if len(inside):
            times = batch.column(1).to_numpy()[inside] if len(columns) > 1 else np.zeros(len(inside), np.int64)
            yield times, inside + start
        start += len(batch)


def _missing(run: Run, part: str, user: str) -> str:
    dataset = run.part(part)
    known = _user_count(dataset)
    if not dataset.manifest.rows:
        return f"{part} has no rows"
    some = dataset.take(np.arange(min(USERS_TOLD, dataset.manifest.rows)), [USER_ID])[USER_ID].to_pylist()
    told = ", ".join(f"'{printable(name)}'" for name in dict.fromkeys(some))
    message = f"no row of {part} is of this user. Users in it: {known}, such as {told}"
    for other in ("train", "test", "users"):
        if other != part and any(_rows_of_user(run.part(other), user)):
            return f"{message}. {other} has the user: add --part {other}"
    return f"{message}. Users are named as in the logs; without --user the first rows are shown"


def _user_count(dataset: Dataset) -> str:
    if USER_KEY not in dataset.manifest.columns:
        return f"{dataset.manifest.rows:,}"  # one row a user
    users = DistinctCount()
    for batch in dataset.batches([USER_KEY]):
        users.add(batch.column(0).to_numpy())
    return f"{users.count:,}" if users.is_exact else f"about {users.count:,}"


# Decoding ----------------------------------------------------------------------------------------------


def decode(run: Run, part: str, table: pa.Table, entries: int | None = None) -> list[Sample]:
    """Returns the rows in words.

    Args:
      part: the dataset that they are of.
      table: rows with all columns of its manifest.
      entries: shown of a list, and of each kind of negatives; None: all.
    """
    specs = run.part(part).manifest.columns
    facts = _facts(run, table, specs, entries)
    features: dict[Side, dict[str, list[str]]] = {
        side: {f.name: feature_texts(run, f, table, specs, entries) for f in of_side(run.settings.features, side)}
        for side in SIDES[part]
    }
    negatives = _negatives(run, table, specs, entries)
    return [
        Sample(
            {name: texts[row] for name, texts in facts.items() if texts[row]},
            {side: {name: texts[row] for name, texts in of.items()} for side, of in features.items()},
            negatives[row],
        )
        for row in range(len(table))
    ]


def _values(table: pa.Table, name: str, spec: ColumnSpec) -> np.ndarray:
    return unpack(table[name].combine_chunks(), spec)


def _facts(run: Run, table: pa.Table, specs: Mapping[str, ColumnSpec], entries: int | None) -> dict[str, list[str]]:
    """Returns what stands beside the features, one text a row; an empty text is left out."""

    def texts(name: str) -> list[str]:
        return [printable(value) for value in table[name].to_pylist()]

    def numbers(name: str) -> list[str]:
        return [UNKNOWN if np.isnan(value) else number(value) for value in _values(table, name, specs[name])]

    found: dict[str, list[str]] = {}
    for title, name in (("user", USER_ID), ("item", ITEM_ID)):
        if name in specs:
            found[title] = texts(name)
    if EVENT_TIME in specs:
        found["time"] = [local_time(ms, run.settings.timezone) for ms in table[EVENT_TIME].to_pylist()]
    if SOURCE in specs:
        found["source"] = texts(SOURCE)
    for title, name in (("label", LABEL), ("weight", WEIGHT)):
        if name in specs:
            found[title] = numbers(name)
    for target in run.settings.target_names:
        if target_column(target) in specs:
            found[target] = numbers(target_column(target))
    if ITEM_PROBABILITY in specs:
        found["item's share of train rows"] = numbers(ITEM_PROBABILITY)
    if ITEM_POSITIVES in specs:
        found["training positives"] = numbers(ITEM_POSITIVES)
    if UPLOAD_TIME in specs:
        times = table[UPLOAD_TIME].to_pylist()
        found["exists since"] = ["" if ms == ALWAYS else local_time(ms, run.settings.timezone) for ms in times]
    if ITEM_INDEX in specs:
        found["index"] = numbers(ITEM_INDEX)
    if WARM in specs:
        found["seen before the test"] = ["yes" if warm else "no" for warm in table[WARM].to_pylist()]
    if CLICKED in specs:
        lists = [np.asarray(row, np.int64) for row in table[CLICKED].to_pylist()]
        ids = run.item_ids(np.concatenate([np.zeros(0, np.int64), *lists]))
        found["clicked in the test"] = [_joined([printable(ids[index]) for index in row], entries) for row in lists]
    return found


def feature_texts(
    run: Run, feature: AnyFeature, table: pa.Table, specs: Mapping[str, ColumnSpec], entries: int | None
) -> list[str]:
    """Returns a feature's values in words, one text a row."""
    values = _values(table, feature.name, specs[feature.name])
    if isinstance(feature, SparseFeat):
        words = _shown(run.words(feature.vocabulary, values))
        return [words.get(place, "none") for place in values.tolist()]
    if isinstance(feature, VarLenSparseFeat):
        words = _shown(run.words(feature.vocabulary, values))
        weights: Sequence[np.ndarray | None] = [None] * len(values)
        if feature.weighted:
            weights = list(_values(table, feature.weight_name, specs[feature.weight_name]))
        return [_list_text(*row, words, entries) for row in zip(values, weights, strict=True)]
    if feature.pre_embed is None:
        return _number_texts(run, feature, values)
    if run.settings.vectors[feature.pre_embed].storage == "inline":
        return [vector_text(vector) for vector in values]
    ids = _shown(run.vector_ids(feature.pre_embed, values))
    chosen = [[ids[place] for place in np.atleast_1d(row).tolist() if place] for row in values]
    return [f"vector of {_joined(row, entries)}" if row else "no vector" for row in chosen]


def _shown(words: Mapping[int, str]) -> dict[int, str]:
    return {place: printable(word) for place, word in words.items()}


def _list_text(ids: np.ndarray, weights: np.ndarray | None, words: Mapping[int, str], entries: int | None) -> str:
    real = np.flatnonzero(ids != PADDING_ID)
    if weights is None:
        return _joined([words[int(ids[place])] for place in real], entries)
    return _joined([f"{words[int(ids[place])]} ({number(weights[place])})" for place in real], entries)


def _joined(texts: Sequence[str], entries: int | None) -> str:
    if not texts:
        return "empty"
    shown = texts if entries is None else texts[:entries]
    return ", ".join(shown) + (f", … {len(texts) - len(shown)} more" if len(shown) < len(texts) else "")


def _number_texts(run: Run, feature: DenseFeat, stored: np.ndarray) -> list[str]:
    values = restored(feature, stored, run.manifest.statistics.get(feature.name))
    if feature.transform == "raw":
        return [number(value) for value in values]
    # What was transformed and back has lost the last digit of a float32.
    rounded = [float(f"{value:.6g}") for value in values]
    return [f"{value:.12g} (stored {number(kept)})" for value, kept in zip(rounded, stored, strict=True)]


def vector_text(vector: np.ndarray) -> str:
    """Returns a vector's norm and first numbers.

    >>> vector_text(np.array([3, 4, 0, 0, 0], np.float32))
    'norm 5 [3, 4, 0, 0, … 5 numbers]'
    """
    if not vector.any():
        return "no vector"
    first = ", ".join(f"{value:.3g}" for value in vector[:VECTOR_NUMBERS])
    more = f", … {len(vector)} numbers" if len(vector) > VECTOR_NUMBERS else ""
    return f"norm {np.linalg.norm(vector):.3g} [{first}{more}]"


def number(value: float) -> str:
    """Returns a number with the seven digits that a float32 holds.

    >>> number(np.float32(0.3443)), number(1234567)
    ('0.3443', '1234567')
    """
    return f"{float(value):.7g}"


def local_time(milliseconds: int, timezone: str) -> str:
    """Returns a time as a person of the time zone reads it.

    >>> local_time(1_704_067_200_000, "Asia/Shanghai")
    'Mon 2024-01-01 08:00:00 Asia/Shanghai'
    """
    time = dt.datetime.fromtimestamp(milliseconds / 1000, ZoneInfo(timezone))
    return f"{time:%a %Y-%m-%d %H:%M:%S} {timezone}"


def _negatives(run: Run, table: pa.Table, specs: Mapping[str, ColumnSpec], entries: int | None) -> list[list[Negative]]:
    """Returns each row's negatives; places for which none was found are left out."""
    if NEGATIVES not in specs:
        return [[] for _ in range(len(table))]
    indexes = _values(table, NEGATIVES, specs[NEGATIVES])
    ids = run.item_ids(indexes)
    probabilities = _values(table, NEGATIVE_PROBABILITY, specs[NEGATIVE_PROBABILITY])
    changing = {}
    for feature in changing_item_features(run.settings.features, run.settings.counters):
        name = negatives_column(feature.name)
        stored = _values(table, name, specs[name])
        texts = _number_texts(run, feature, stored.reshape(-1))
        changing[feature.name] = np.array(texts, object).reshape(stored.shape)
    found: list[list[Negative]] = []
    for row in range(len(table)):
        negatives, first = [], 0
        for kind, asked in run.settings.samples.negatives.items():
            places = [place for place in range(first, first + asked.count) if indexes[row, place] >= 0]
            first += asked.count
            for place in places[:entries]:
                facts = {"probability": f"{probabilities[row, place]:.3g}"}
                facts |= {name: texts[row, place] for name, texts in changing.items()}
                negatives.append(Negative(kind, printable(ids[int(indexes[row, place])]), facts))
        found.append(negatives)
    return found


# Drawing -----------------------------------------------------------------------------------------------


def _block(sample: Sample, title: str, width: int) -> RenderableType:
    parts: list[RenderableType] = [Rule(Text(title, style="bold"), align="left"), _line(sample.facts)]
    towers = [_feature_table(side, values) for side, values in sample.features.items()]
    if len(towers) > 1 and width >= WIDE:
        grid = Table.grid(padding=(0, 2))
        for _ in towers:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*towers)
        towers = [grid]
    parts += towers
    if sample.negatives:
        parts.append(_negatives_table(sample.negatives))
    return Group(*parts)


def _line(facts: Mapping[str, str]) -> Text:
    line = Text()
    for name, value in facts.items():
        line.append("  " if line else "").append(f"{name} ", style="dim").append(value, style=_style(value) or "bold")
    return line


def _feature_table(side: Side, values: Mapping[str, str]) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column(f"{side} feature", overflow="fold", style="cyan")
    drawn.add_column("value", overflow="fold")
    for name, value in values.items():
        drawn.add_row(Text(name), Text(value, style=_style(value)))
    return drawn


def _negatives_table(negatives: Sequence[Negative]) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("negative", "item", *negatives[0].facts):
        drawn.add_column(title, overflow="fold")
    kind = ""
    for negative in negatives:
        drawn.add_row(
            Text(negative.kind if negative.kind != kind else ""), Text(negative.item), *negative.facts.values()
        )
        kind = negative.kind
    return drawn


def _style(value: str) -> str:
    return "yellow" if value == UNKNOWN else "dim" if value in ("empty", "no vector") else ""
