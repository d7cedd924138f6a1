"""What a rank trains on: the run's datasets, checked, and how they are read."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import horovod.tensorflow as hvd
import numpy as np

from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import embedded
from dssm.manifest import EVENT_TIME, ColumnSpec, Manifest, check_columns, read_manifest
from dssm.model.inputs import tower_columns
from dssm.model.towers import frozen_tables
from dssm.paths import RunPaths, vectors_path
from dssm.samples.lookups import load_vectors
from dssm.stream.batches import Prefetched, Reading, rank_batches
from dssm.train.catalogue import catalogue_batches
from dssm.train.negatives import SampledNegatives, load_negatives, step_negative_columns
from dssm.train.passes import Passes, plan_passes
from dssm.train.place import Place
from dssm.train.step import CATALOGUE_COLUMNS, step_columns
from dssm.train.warm_start import check_vocabularies


@dataclass(frozen=True)
class Inputs:
    """The datasets of a run.

    Attributes:
      train, test: manifests of the samples.
      user_columns, item_columns: of the towers.
      columns: what a step reads, by part.
      passes: epochs, the last pass and what is kept back.
      negatives: of the samples; None where the settings have none.
    """

    settings: Settings
    train: Manifest
    test: Manifest
    user_columns: dict[str, ColumnSpec]
    item_columns: dict[str, ColumnSpec]
    columns: dict[str, dict[str, ColumnSpec]]
    passes: Passes
    negatives: SampledNegatives | None

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.settings.run_folder)

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        return {name: spec.size for name, spec in self.train.vocabularies.items()}

    def batches(self, part: str, reading: Reading) -> Prefetched:
        """Returns this rank's batches of the part `train` or `test`."""
        train, manifest = self.settings.train, self.train if part == "train" else self.test
        made = rank_batches(
            self.paths.part(part), manifest, self.columns[part], reading, hvd.rank(), train.batch_size,
            train.reader_threads, train.reader_queue_rows, train.staging,
        )  # fmt: skip
        return Prefetched(made, train.prefetch)

    def items(self, rows: int) -> Manifest | None:
        """Returns the manifest of the encoded catalogue, where so many rows are drawn from it for each step.

        Raises: UserError where there is nothing to draw.
        """
        if not rows:
            return None
        folder = self.paths.part("items")
        manifest = read_manifest(folder, "build_samples")
        check_columns(manifest, {**CATALOGUE_COLUMNS, **self.item_columns}, folder)
        if manifest.rows == 0:
            losses = (o.loss or self.settings.train.loss for o in self.settings.model.all_objectives.values())
            kinds = dict.fromkeys(loss.kind for loss in losses if loss.catalogue_items)
            raise UserError(f"{folder}: no items, but {' and '.join(kinds)} would draw from the catalogue")
        return manifest

    def drawn_items(self, place: Place, items: Manifest | None, rows: int) -> Prefetched:
        """Returns the items of the catalogue for the next steps, without end: nothing where no loss draws any."""
        if items is None:
            return Prefetched(itertools.repeat({}), 1)
        leg, columns = place.legs[-1], {**CATALOGUE_COLUMNS, **self.item_columns}
        made = catalogue_batches(
            self.paths.part("items"), items, columns, rows, hvd.rank(),
            (self.settings.seed, place.epoch, len(place.legs)), leg.steps, staging=self.settings.train.staging,
        )  # fmt: skip
        return Prefetched(made, self.settings.train.prefetch)


def read_inputs(settings: Settings) -> Inputs:
    """Opens the samples of a run.

    Raises: UserError where they are not there, not of these settings, or empty.
    """
    paths = RunPaths(settings.run_folder)
    train, test = (read_manifest(paths.part(part), "build_samples") for part in ("train", "test"))
    user_columns, item_columns = (tower_columns(settings.features, side, settings.vectors) for side in ("user", "item"))
    columns = {**step_columns(settings), **user_columns, **item_columns}
    for part, manifest in (("train", train), ("test", test)):
        check_columns(manifest, columns, paths.part(part))
    of_train = {**columns, **step_negative_columns(settings, train, paths.part("train"))}
    if train.rows == 0:
        raise UserError(f"{paths.part('train')}: no rows; expected positives in the training window")
    for feature in embedded(settings.features):
        if feature.vocabulary not in train.vocabularies:
            raise UserError(f"{paths.part('train')}: no vocabulary '{feature.vocabulary}'; run build_samples again")
    negatives = load_negatives(settings, paths.part("items"), item_columns, train.build)
    if settings.train.warm_start is not None:
        check_vocabularies(settings, train)
    passes = plan_passes(settings, train)
    if any(not a_pass.span.is_all for a_pass in passes.all):
        of_train[EVENT_TIME] = ColumnSpec(dtype="int64")
    by_part = {"train": of_train, "test": columns}
    return Inputs(settings, train, test, user_columns, item_columns, by_part, passes, negatives)


def frozen_matrices(settings: Settings, paths: RunPaths) -> dict[str, np.ndarray]:
    """Loads the vectors that the towers hold themselves, (rows, width) each, from the run's samples.

    Raises: UserError where a table's width is not that of the settings.
    """
    matrices = {}
    for name in frozen_tables(settings.features, settings.vectors):
        path = vectors_path(paths.samples, name)
        matrix, width = load_vectors(path).matrix, settings.vectors[name].width
        if len(matrix) and matrix.shape[1] != width:
            raise UserError(
                f"vectors.{name}.width: {width}, but {path} holds vectors of {matrix.shape[1]} numbers; "
                "run build_samples again with these settings"
            )
        matrices[name] = matrix.reshape(-1, width)
    return matrices
