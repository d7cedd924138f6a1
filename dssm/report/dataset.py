"""A run's datasets, read by Arrow: file by file, batch by batch, and only the columns and rows asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import FIRST_TOKEN_ID, UNKNOWN_ID, SparseFeat, embedded
from dssm.manifest import ITEM_ID, ITEM_INDEX, Manifest, VocabularySpec, data_files, read_manifest, read_settings
from dssm.paths import RunPaths, vectors_path, vocabulary_path
from dssm.report.decoding import clock, interval

MADE_BY = "build_samples"
BATCH_ROWS = 16_384
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Dataset:
    """One of a run's datasets: train, test, users, items or interactions."""

    folder: str
    manifest: Manifest

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yields the columns of all files, in their order, in batches of at most so many rows."""
        for path in data_files(self.folder, self.manifest):
            yield from parquet_batches(path, columns, rows)

    def take(self, places: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Returns the rows at these places, which ascend: of the files only those that hold one are read."""
        found, start = [], 0
        for path, file in zip(data_files(self.folder, self.manifest), self.manifest.files, strict=True):
            inside = places[(places >= start) & (places < start + file.rows)] - start
            if len(inside):
                found.append(take_rows(parquet_batches(path, columns), inside))
            start += file.rows
        return pa.concat_tables(found) if found else pa.table({})


@dataclass(frozen=True)
class Run:
    """What build_samples left of one run, with the settings that it had."""

    paths: RunPaths
    settings: Settings
    manifest: Manifest

    def part(self, name: str) -> Dataset:
        folder = self.paths.part(name)
        return Dataset(folder, read_manifest(folder, MADE_BY))

    @property
    def title(self) -> str:
        return f"{self.settings.name} {self.manifest.date}"

    @cached_property
    def _owners(self) -> dict[str, Any]:
        return {feature.name: feature for feature in embedded(self.settings.features)}

    def vocabulary(self, name: str) -> VocabularySpec:
        """Raises: UserError where the manifest does not have it."""
        spec = self.manifest.vocabularies.get(name)
        if spec is None:
            raise UserError(f"{self.paths.samples}: the manifest has no vocabulary '{name}'; run {MADE_BY} again")
        return spec

    def boundaries(self, name: str) -> tuple[float, ...]:
        """Returns the boundaries of a number's buckets, ascending."""
        owner = self._owners[name]
        assert isinstance(owner, SparseFeat)  # the rule is buckets
        return owner.boundaries or self.manifest.statistics[name].boundaries

    def words(self, name: str, ids: np.ndarray) -> dict[int, str]:
        """Returns what ids of a vocabulary stand for; of its tokens only these are read.

        Args:
          name: of the vocabulary.
          ids: (n,); padding is left out, and 1 is `unknown`.
        """
        spec = self.vocabulary(name)
        wanted = np.unique(ids[ids >= FIRST_TOKEN_ID]).astype(np.int64) - FIRST_TOKEN_ID
        texts: Iterable[str]
        if spec.rule == "tokens":
            texts = self._tokens(name, wanted)
        elif spec.rule == "buckets":
            texts = [interval(int(place), self.boundaries(name)) for place in wanted]
        elif spec.rule == "time":
            texts = [clock(self._owners[name].time, int(place)) for place in wanted]
        else:
            texts = [f"#{place}" for place in wanted]
        found = dict(zip((wanted + FIRST_TOKEN_ID).tolist(), texts, strict=True))
        return {UNKNOWN_ID: UNKNOWN} | found if (ids == UNKNOWN_ID).any() else found

    def ids(self, name: str, words: Sequence[str]) -> np.ndarray:
        """Returns the id of each word in a vocabulary, (words,) int64: −1 where it has none."""
        spec = self.vocabulary(name)
        found = np.full(len(words), -1, np.int64)
        if spec.rule == "hash":
            digits = [word.removeprefix("#") if word.startswith("#") else "" for word in words]
            numbers = np.array([int(d) + FIRST_TOKEN_ID if d.isdecimal() else -1 for d in digits], np.int64)
            return np.where(numbers < spec.size, numbers, -1)
        if spec.rule != "tokens":  # at most a thousand
            known = {word: number for number, word in self.words(name, np.arange(spec.size)).items()}
            return np.array([known.get(word, -1) for word in words], np.int64)
        start = FIRST_TOKEN_ID
        value_set = pa.array(words, pa.string())
        for batch in parquet_batches(vocabulary_path(self.paths.samples, name), ["token"]):
            places = pc.index_in(batch.column(0), value_set=value_set)
            inside = places.is_valid().to_numpy(zero_copy_only=False)
            found[pc.fill_null(places, 0).to_numpy()[inside]] = start + np.flatnonzero(inside)
            start += len(batch)
        return found

    def _tokens(self, name: str, places: np.ndarray) -> list[str]:
        path = vocabulary_path(self.paths.samples, name)
        table = take_rows(parquet_batches(path, ["token"]), places)
        if len(table) != len(places):
            raise UserError(f"{path}: {len(places) - len(table)} ids are above the last token's; run {MADE_BY} again")
        return table["token"].to_pylist() if len(table) else []

    def vector_ids(self, name: str, numbers: np.ndarray) -> dict[int, str]:
        """Returns the ids of rows of a frozen table of vectors, by row number from 1."""
        wanted = np.unique(numbers[numbers >= 1]).astype(np.int64) - 1
        path = vectors_path(self.paths.samples, name)
        table = take_rows(parquet_batches(path, ["id"]), wanted)
        return dict(zip((wanted + 1).tolist(), table["id"].to_pylist() if len(table) else [], strict=True))

    def item_ids(self, indexes: np.ndarray) -> dict[int, str]:
        """Returns the ids of items by their index; those below 0 are none."""
        wanted = np.unique(indexes[indexes >= 0])
        found: dict[int, str] = {}
        for batch in self.part("items").batches([ITEM_INDEX, ITEM_ID]):
            if len(found) == len(wanted):
                break
            rows = batch.filter(pc.is_in(batch.column(0), value_set=pa.array(wanted, pa.int32())))
            found |= dict(zip(rows.column(0).to_pylist(), rows.column(1).to_pylist(), strict=True))
        return found


def open_run(paths: RunPaths) -> Run:
    """Reads a run's manifest and settings.

    Raises: UserError where they are missing or of another version.
    """
    manifest = read_manifest(paths.samples, MADE_BY)
    return Run(paths, read_settings(paths.samples, MADE_BY), manifest)


def parquet_batches(path: str, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yields a file's columns in batches of at most so many rows.

    Raises: UserError where the file is missing or damaged, or has no such column.
    """
    with _explained(path):
        system, place = storage.filesystem(path)
        with system.open(place, "rb") as opened:
            file = pq.ParquetFile(opened)
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise UserError(f"{path}: no column '{min(missing)}'; run {MADE_BY} again")
            for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                yield batch.select(list(columns))


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found, but the manifest has it; run {MADE_BY} again") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: can't be read ({error}); run {MADE_BY} again") from error


def take_rows(batches: Iterable[pa.RecordBatch], places: np.ndarray) -> pa.Table:
    """Returns the rows at these places, counted over all batches.

    Args:
      batches: read only as far as needed.
      places: (n,), ascending, each once.
    """
    found: list[pa.RecordBatch] = []
    start = 0
    for batch in batches:
        found.append(batch.take(pa.array(places[(places >= start) & (places < start + len(batch))] - start)))
        start += len(batch)
        if len(places) == 0 or start > places[-1]:
            break
    return pa.Table.from_batches(found) if found else pa.table({})
