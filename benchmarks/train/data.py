"""Rows of MovieLens' shape, drawn at random, as both sides read them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.train.task import (
    DIM,
    FIRST_ID,
    HIDDEN,
    HISTORY,
    HISTORY_IDS,
    HISTORY_LENGTH,
    INITIAL_ACCUMULATOR,
    ITEM_ID,
    ITEM_SIZES,
    LEARNING_RATE,
    SIZES,
    TEMPERATURE,
    USER_ID,
    USER_SIZES,
    VECTOR,
)
from dssm.config import Settings, load_settings
from dssm.manifest import (
    EVENT_TIME,
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    Manifest,
    VocabularySpec,
    encoded_columns,
    write_manifest,
)
from dssm.packing import pack
from dssm.paths import RunPaths

TEST_ROWS = 4096
ROWS_PER_FILE = 16_384  # as samples.rows_per_file
# The item, or user, of rank r is drawn in proportion to 1 / (r + 60): as in MovieLens 1M, the first item then has 0.4 %
# of all events and the median one 130 of a million.
ZIPF_OFFSET = 60

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Log:
    """Events ordered by user and, of each user, by time.

    Attributes:
      users, items: (events,) encoded ids.
      place: (events,), how many events of the same user come before it.
      sizes: known values of each feature.
      of_id: for each feature beside the ids, its value of each encoded user or item.
    """

    users: np.ndarray
    items: np.ndarray
    place: np.ndarray
    sizes: Mapping[str, int]
    of_id: Mapping[str, np.ndarray]

    def rows(self, chosen: np.ndarray) -> Rows:
        """Returns both towers' columns of events.

        Args: chosen: (rows,) places in the log.
        Returns: encoded ids, (rows,) int32; the history (rows, HISTORY), newest first; and its length.
        """
        length = np.minimum(self.place[chosen], HISTORY)
        back = np.arange(HISTORY)
        before = np.maximum(chosen[:, None] - 1 - back, 0)
        history = np.where(back < length[:, None], self.items[before], 0).astype(np.int32)
        ids = {USER_ID: self.users[chosen], ITEM_ID: self.items[chosen]}
        others = {name: values[ids[USER_ID if name in USER_SIZES else ITEM_ID]] for name, values in self.of_id.items()}
        return {**ids, **others, HISTORY_IDS: history, HISTORY_LENGTH: length.astype(np.int32)}

    def item_counts(self) -> np.ndarray:
        """Returns how often each item stands in the log: (items + FIRST_ID,)."""
        return np.bincount(self.items, minlength=self.sizes[ITEM_ID] + FIRST_ID)


def draw_log(events: int, seed: int = 0, *, shown_users: int | None = None) -> Log:
    """Draws a log: few users and items have most of the events.

    Args: shown_users: each event gets one of so many user ids, all as likely, instead of its user's; the histories
      stay those of MovieLens' users. For a table of another size under the same work.
    """
    random = np.random.default_rng(seed)
    sizes = {**SIZES, USER_ID: shown_users or SIZES[USER_ID]}
    per_user = random.multinomial(events, _zipf(SIZES[USER_ID]))
    starts = np.cumsum(per_user) - per_user
    users = np.repeat(np.arange(SIZES[USER_ID]), per_user)
    of_id = {
        name: random.integers(
            FIRST_ID, size + FIRST_ID, sizes[USER_ID if name in USER_SIZES else ITEM_ID] + FIRST_ID, np.int32
        )
        for name, size in sizes.items()
        if name not in (USER_ID, ITEM_ID)
    }
    items = random.choice(sizes[ITEM_ID], events, p=_zipf(sizes[ITEM_ID])) + FIRST_ID
    shown = users if shown_users is None else random.integers(0, shown_users, events)
    return Log(
        users=(shown + FIRST_ID).astype(np.int32),
        items=items.astype(np.int32),
        place=np.arange(events) - np.repeat(starts, per_user),
        sizes=sizes,
        of_id=of_id,
    )


def _zipf(count: int) -> np.ndarray:
    weights = 1 / (np.arange(count) + ZIPF_OFFSET)
    return weights / weights.sum()


def write_arrays(path: Path, log: Log, rows: int, seed: int = 0) -> None:
    """Writes what the peer holds in memory: the columns of `rows` events, and the items' counts."""
    chosen = np.random.default_rng(seed).permutation(len(log.items))[:rows]
    np.savez(path, **log.rows(chosen), item_counts=log.item_counts())


def write_run(work: Path, log: Log, rows: int, seed: int = 0, rows_per_file: int = ROWS_PER_FILE) -> Path:
    """Writes a run's samples as build_samples leaves them, and its settings.

    Args:
      work: folder of the run.
      log: `rows` of its events train, all others are there to test.
    Returns: the settings' YAML file.
    """
    config = work / "bench.yaml"
    work.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(settings_of(work, log.sizes), sort_keys=False))
    settings = load_settings(str(config))
    order = np.random.default_rng(seed).permutation(len(log.items))
    for part, chosen in (("train", order[:rows]), ("test", order[rows:])):
        _write_dataset(settings, part, log, chosen, rows_per_file)
    return config


def settings_of(work: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Returns the settings of a run of the task below `work`; how it is trained goes over them."""
    features: dict[str, Any] = {
        name: {"kind": "SparseFeat", "side": side, "dim": DIM, "hash_buckets": sizes[name]}
        for side, chosen in (("user", USER_SIZES), ("item", ITEM_SIZES))
        for name in chosen
    }
    history = {"kind": "VarLenSparseFeat", "side": "user", "column": HISTORY_IDS, "dim": DIM, "maxlen": HISTORY}
    tower = {"layers": [HIDDEN], "activation": "relu"}
    return {
        "name": "bench",
        "date": dt.date(2024, 1, 8),
        "root": str(work / "runs"),
        "sources": {"log": {"path": "log.csv", "user": USER_ID, "item": ITEM_ID, "time": "time"}},
        "catalogue": {"path": "items.csv", "key": ITEM_ID},
        "histories": {HISTORY_IDS: {"sources": ["log"], "last": HISTORY}},
        "features": {**features, HISTORY_IDS: {**history, "share_embedding": ITEM_ID}},
        "model": {
            "user_tower": tower,
            "item_tower": tower,
            "vector_dim": VECTOR,
            "similarity": "cosine",
            "temperature": TEMPERATURE,
        },
        "train": {
            "launch": "single",
            "loss": {"kind": "in_batch_softmax", "logq": "frequency", "mask_accidental_hits": False},
            "optimizer": {"kind": "adagrad", "initial_accumulator": INITIAL_ACCUMULATOR},
            "learning_rate": LEARNING_RATE,
        },
        "item_table": {"metastore": None},
    }


def _write_dataset(settings: Settings, part: str, log: Log, chosen: np.ndarray, rows_per_file: int) -> None:
    folder = Path(RunPaths(settings.run_folder).part(part))
    folder.mkdir(parents=True)
    columns = {name: ColumnSpec(dtype="int64") for name in (USER_KEY, ITEM_KEY, EVENT_TIME)}
    columns |= {name: ColumnSpec(dtype="float32") for name in (LABEL, WEIGHT, ITEM_PROBABILITY)}
    for feature in settings.features.values():
        columns |= encoded_columns(feature, settings.vectors)
    share = (log.item_counts() / len(log.items)).astype(np.float32)
    files = []
    for number, rows in enumerate(_files(log, chosen, rows_per_file)):
        count, users, items = len(rows[USER_ID]), rows[USER_ID], rows[ITEM_ID]
        one = np.ones(count, np.float32)
        rows |= {USER_KEY: users.astype(np.int64), ITEM_KEY: items.astype(np.int64), LABEL: one, WEIGHT: one}
        rows |= {ITEM_PROBABILITY: share[items], EVENT_TIME: np.full(count, settings.day_start_ms(-1))}
        files.append(FileSpec(name=f"part-{number:05d}.parquet", rows=count))
        stored = {name: pack(rows[name]) if spec.shape else pa.array(rows[name]) for name, spec in columns.items()}
        pq.write_table(pa.table(stored), folder / files[-1].name, row_group_size=count)
    vocabularies = {
        name: VocabularySpec(size=size + FIRST_ID, digest=name, rule="hash") for name, size in log.sizes.items()
    }
    manifest = Manifest(
        kind=part,
        date=settings.date.isoformat(),
        build="bench",
        seed=settings.seed,
        columns=columns,
        vocabularies=vocabularies,
        files=files,
    )
    write_manifest(str(folder), manifest)


def _files(log: Log, chosen: np.ndarray, rows_per_file: int) -> Iterator[Rows]:
    for start in range(0, len(chosen), rows_per_file):
        yield log.rows(chosen[start : start + rows_per_file])
