"""Sampled negatives: items drawn for each positive, with their columns from the encoded catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import (
    ITEM_INDEX,
    LABEL,
    NEGATIVE_PROBABILITY,
    NEGATIVES,
    WEIGHT,
    ColumnSpec,
    Manifest,
    changing_item_features,
    check_columns,
    negative_columns,
    negatives_column,
    read_manifest,
)
from dssm.model.losses import Sampled
from dssm.sections import Negatives, Staging
from dssm.stream.batches import Batch
from dssm.stream.reader import Columns, read_files


class SampledNegatives:
    """Gives each positive of a batch the negatives that were drawn for it when the samples were built.

    What stands in the catalogue is looked up there; the values of an item feature that changes with the
    event's time stand beside the positive. The catalogue lies in each rank's main memory, 4 bytes for each
    number of an item's encoded columns: 3 GB for a million items with an inline vector of 768 numbers, and
    a few dozen MB with vectors of storage: table.

    Args:
      catalogue: encoded item columns in the order of the item indexes, each (items, *shape).
      changing: names of the item features whose values stand beside the positive.
      kinds: of each kind of negatives, in their order, its count for each positive and the factor on the
        positive's weight.
    """

    def __init__(
        self, catalogue: Mapping[str, np.ndarray], changing: Sequence[str], kinds: Sequence[tuple[int, float]]
    ) -> None:
        with tf.device("CPU:0"):  # a GPU's memory is for the tables; what a batch needs of the catalogue is small
            self._catalogue = {name: tf.constant(values) for name, values in catalogue.items()}
        self._weights = tf.constant([weight for count, weight in kinds for _ in range(count)], tf.float32)
        self._kinds = tuple(count for count, _ in kinds)
        self._changing = tuple(changing)

    def drawn(self, batch: Batch) -> DrawnRows:
        """Looks the negatives of a batch's positives up.

        A place without a negative (−1) gives no row, nor does a row that is no positive or weighs nothing.

        Args:
          batch: LABEL and WEIGHT, (batch,); NEGATIVES, NEGATIVE_PROBABILITY and `negatives_column`s, (batch, K).
        """
        drawn = batch[NEGATIVES]
        positive = tf.logical_and(batch[LABEL] > 0, batch[WEIGHT] > 0)
        there = tf.logical_and(positive[:, None], drawn >= 0)
        places = tf.where(there)
        items = tf.gather_nd(drawn, places)
        with tf.device("CPU:0"):
            columns = {name: tf.gather(values, items) for name, values in self._catalogue.items()}
        columns |= {name: tf.gather_nd(batch[negatives_column(name)], places) for name in self._changing}
        return DrawnRows(columns, places, there, batch[NEGATIVE_PROBABILITY], self._weights, self._kinds)


@dataclass(frozen=True)
class DrawnRows:
    """The negatives of a batch's positives.

    Attributes:
      columns: item columns, each (negatives, …).
      places: (negatives, 2) int64: the row of the batch that each belongs to, and its place among the row's K.
      there: (batch, K) bool: which of the places have one.
      probability: (batch, K).
      weight: (K,), the factor on the positive's weight.
      kinds: how many of the K places each kind of negative has.
    """

    columns: Batch
    places: tf.Tensor
    there: tf.Tensor
    probability: tf.Tensor
    weight: tf.Tensor
    kinds: tuple[int, ...]

    def beside(self, users: tf.Tensor, items: tf.Tensor, temperature: float) -> Sampled:
        """Scores each negative with its row's user.

        Args: users (batch, dim), of the batch; items (negatives, dim), of the negatives.
        """
        score = tf.reduce_sum(tf.gather(users, self.places[:, 0]) * items, axis=1) / temperature
        logits = tf.scatter_nd(self.places, score, tf.shape(self.there, self.places.dtype))
        return Sampled(logits, self.probability, self.there, self.weight, self.kinds)


def step_negative_columns(settings: Settings, manifest: Manifest, folder: str) -> dict[str, ColumnSpec]:
    """Returns the columns that the step reads of the sampled negatives; none where the settings have no negatives.

    Raises: UserError where the training samples were built with other negatives.
    """
    expected = negative_columns(settings.samples.negatives, settings.features, settings.counters)
    try:
        check_columns(manifest, expected, folder)
    except UserError as error:
        raise UserError(f"samples.negatives: {error}") from error
    made, asked = (
        [(name, kind.model_dump(exclude={"weight"})) for name, kind in kinds.items()]
        for kinds in (manifest.negatives, settings.samples.negatives)
    )
    if made != asked:
        raise UserError(
            f"samples.negatives: {folder} was built with {_shown(manifest.negatives)}, the settings have "
            f"{_shown(settings.samples.negatives)}; run build_samples again with these settings"
        )
    return expected


def _shown(negatives: Mapping[str, Negatives]) -> str:
    shown = (
        f"{name}: {kind.model_dump(exclude={'weight'}, exclude_defaults=True)}" for name, kind in negatives.items()
    )
    return "; ".join(shown) or "none"


def load_negatives(
    settings: Settings, folder: str, item_columns: Mapping[str, ColumnSpec], build: str
) -> SampledNegatives | None:
    """Loads what the negatives need of the catalogue; None where the settings have no negatives.

    Args:
      folder: the encoded catalogue, samples/items.
      item_columns: the inputs of the item tower.
      build: of the training samples.
    Raises: UserError where the catalogue is of another build, or does not fit the settings.
    """
    kinds = settings.samples.negatives.values()
    if not kinds:
        return None
    manifest = read_manifest(folder, "build_samples")
    if manifest.build != build:
        raise UserError(
            f"{folder}: of build {manifest.build}, but the training samples are of build {build}, whose negatives are "
            "indexes of its own catalogue; run build_samples again"
        )
    changing = [feature.name for feature in changing_item_features(settings.features, settings.counters)]
    fixed = {name: spec for name, spec in item_columns.items() if name not in changing}
    return SampledNegatives(
        read_catalogue(folder, manifest, fixed, settings.train.staging),
        changing,
        [(kind.count, kind.weight) for kind in kinds],
    )


def read_catalogue(
    folder: str, manifest: Manifest, columns: Mapping[str, ColumnSpec], staging: Staging | None = None
) -> Columns:
    """Reads columns of the encoded catalogue, in the order of the item indexes.

    Returns: arrays of shape (items, *column shape).
    Raises: UserError where the dataset has other columns, or its indexes are not 0…items − 1.
    """
    wanted = {ITEM_INDEX: ColumnSpec(dtype="int32"), **columns}
    check_columns(manifest, wanted, folder)
    found = {name: np.zeros((manifest.rows, *spec.shape), spec.dtype) for name, spec in columns.items()}
    filled = np.zeros(manifest.rows, bool)
    for part in read_files(folder, [file for file in manifest.files if file.rows], wanted, staging=staging):
        index = part.pop(ITEM_INDEX)
        known = (index >= 0) & (index < manifest.rows)
        filled[index[known]] = True
        for name, values in part.items():
            found[name][index[known]] = values[known]
    if not filled.all():
        raise UserError(f"{folder}: the item indexes are not 0…{manifest.rows - 1}; run build_samples again")
    return found
