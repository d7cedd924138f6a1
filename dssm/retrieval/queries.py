"""The users' vectors, which indexes are searched with: published ones, or the user tower's of the samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from dssm import published
from dssm.errors import UserError
from dssm.imports import uncollected
from dssm.manifest import USER_ID
from dssm.model.manifest import ModelManifest
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.report.dataset import Dataset, open_run
from dssm.scoring.vectors import check_model_fits

BATCH_ROWS = 4096


class Users:
    """All users of a run's samples, with features as of the test window's start.

    Attributes:
      source: where the vectors are from, for people.
    """

    def __init__(self, paths: RunPaths, model: ModelManifest, objective: str | None = None) -> None:
        """Looks for a published version of the model's user vectors first: the current one, else the newest.

        Args:
          paths: of the run.
          model: of `paths`.
          objective: whose own vectors; None: the combined ones.
        Raises: UserError where the samples don't fit the model.
        """
        self._paths, self._model, self._objective = paths, model, objective
        self._table = _published_users(paths, model)
        self._dataset: Dataset | None = None
        if self._table is None:
            self._dataset = open_run(paths).part("users")
            check_model_fits(model, self._dataset.manifest, model.user_columns, self._dataset.folder)
        self.source = "user vectors published" if self._table is not None else "users of the samples, by the user tower"

    def of(self, objective: str | None) -> Users:
        """Returns the same users, from the same version, with an objective's own vectors."""
        other = copy.copy(self)
        other._objective = objective
        return other

    @property
    def rows(self) -> int:
        if self._table is not None:
            return self._table.manifest.rows
        assert self._dataset is not None
        return self._dataset.manifest.rows

    def batches(self) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yields ids, (n,) text, and vectors, (n, dim) float32."""
        if self._table is not None:
            yield from published.batches(self._table, self._objective)
            return
        assert self._dataset is not None
        columns = [USER_ID, *self._model.user_columns]
        yield from self._through_tower(self._dataset.batches(columns, BATCH_ROWS))

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """Returns vectors of at most so many users, drawn uniformly: (users, dim) float32."""
        places = draw(self.rows, count, seed)
        if self._table is not None:
            return rows_at(self.batches(), places)
        assert self._dataset is not None
        table = self._dataset.take(places, [USER_ID, *self._model.user_columns])
        return np.concatenate([vectors for _, vectors in self._through_tower(table.to_batches(BATCH_ROWS))])

    def _through_tower(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.Array, np.ndarray]]:
        with uncollected():
            from dssm.model.export import LoadedTower
            from dssm.model.outputs import output_name

        tower = LoadedTower(f"{self._paths.model}/user_tower")
        output = output_name(self._objective)
        for batch in batches:
            yield batch.column(0), tower.all_vectors(unpack_all(batch, self._model.user_columns))[output]


def _published_users(paths: RunPaths, model: ModelManifest) -> Published | None:
    try:
        location = published.run_table(paths.folder, "users")
    except UserError:
        return None
    current = published.current(location, model.date)
    if current is not None and current.manifest.model_version == model.model_version:
        return current
    # After a rollback of the items alone, what belongs to them is an earlier version of the users.
    known = published.versions(location, model.date)
    own = [version for version in known if version.manifest.model_version == model.model_version]
    return own[-1] if own else None


def draw(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns at most `count` different places below `rows`, ascending."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, rows), replace=False))


def rows_at(batches: Iterator[tuple[pa.Array, np.ndarray]], places: np.ndarray) -> np.ndarray:
    """Returns the vectors at some places, ascending, counted over all batches: (places, dim) float32."""
    found, start = [], 0
    for _, matrix in batches:
        found.append(matrix[places[(places >= start) & (places < start + len(matrix))] - start])
        start += len(matrix)
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)
