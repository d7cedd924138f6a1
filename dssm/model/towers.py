"""The two towers, from the features to vectors of unit norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from dssm.features import AnyFeature, DenseFeat, SparseFeat, embedded, of_side
from dssm.manifest import ColumnSpec, encoded_columns
from dssm.model.layers import FrozenVectors, Pooling, UnitNorm
from dssm.sections import Model, Tower, VectorTable


@dataclass(frozen=True)
class TwoTowers:
    """`user` and `item`: Keras models from a dict of encoded columns to vectors (batch, vector_dim) of unit norm.

    `frozen` holds the tables of pretrained vectors that the towers look row numbers up in, by name.
    """

    user: tf.keras.Model
    item: tf.keras.Model
    frozen: Mapping[str, FrozenVectors] = field(default_factory=dict)

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables, each once: the towers may share embedding and frozen tables."""
        unique = {id(v): v for v in [*self.user.variables, *self.item.variables]}
        return list(unique.values())

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """The variables that a training changes, be it without a gradient: all but the frozen tables."""
        frozen = {id(layer.table) for layer in self.frozen.values()}
        return [variable for variable in self.variables if id(variable) not in frozen]

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        return [variable for variable in self.variables if variable.trainable]


def build_towers(
    model: Model,
    features: Mapping[str, AnyFeature],
    vocabulary_sizes: Mapping[str, int],
    vectors: Mapping[str, VectorTable],
    matrices: Mapping[str, np.ndarray] | None = None,
) -> TwoTowers:
    """Builds both towers; features that share a vocabulary share one embedding table.

    Args:
      model: the settings of the towers.
      features: by name.
      vocabulary_sizes: ids of each vocabulary, padding and unknown included.
      vectors: the settings of the tables of pretrained vectors.
      matrices: (rows, width) float32 of each of `frozen_tables`.
    """
    tables = {
        feature.vocabulary: tf.keras.layers.Embedding(
            vocabulary_sizes[feature.vocabulary],
            feature.dim,
            embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=feature.dim**-0.5),
            name=f"embedding_{feature.vocabulary}",
        )
        for feature in embedded(features)
        if feature.share_embedding is None
    }
    frozen = {
        name: FrozenVectors.of((matrices or {})[name], name=f"vectors_{name}")
        for name in frozen_tables(features, vectors)
    }
    lookups = _Lookups(tables, frozen)
    user, item = (
        _tower(side, tower, model.vector_dim, of_side(features, side), lookups, vectors)  # type: ignore[arg-type]
        for side, tower in (("user", model.user_tower), ("item", model.item_tower))
    )
    return TwoTowers(user, item, frozen)


def frozen_tables(features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable]) -> list[str]:
    """Returns the names of the vectors that the towers hold themselves: those of storage: table that a feature uses."""
    used = {feature.pre_embed for feature in features.values() if isinstance(feature, DenseFeat)}
    return [name for name, table in vectors.items() if table.storage == "table" and name in used]


def tower_columns(
    features: Mapping[str, AnyFeature], side: str, vectors: Mapping[str, VectorTable]
) -> dict[str, ColumnSpec]:
    """Returns the encoded columns that a tower takes, in the order of its features."""
    chosen = [feature for feature in features.values() if feature.side == side]
    return {name: spec for feature in chosen for name, spec in encoded_columns(feature, vectors).items()}


@dataclass(frozen=True)
class _Lookups:
    """What the towers share: the embedding of each vocabulary, and the frozen tables by the vectors' name."""

    embeddings: Mapping[str, tf.keras.layers.Embedding]
    frozen: Mapping[str, FrozenVectors]


def _tower(
    side: str,
    tower: Tower,
    vector_dim: int,
    features: list[AnyFeature],
    lookups: _Lookups,
    vectors: Mapping[str, VectorTable],
) -> tf.keras.Model:
    columns = tower_columns({feature.name: feature for feature in features}, side, vectors)
    inputs = {name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=name) for name, spec in columns.items()}
    blocks = [_block(feature, inputs, lookups) for feature in features]
    hidden = tf.keras.layers.Concatenate(name=f"{side}_features")(blocks) if len(blocks) > 1 else blocks[0]
    for number, width in enumerate(tower.layers, start=1):
        hidden = tf.keras.layers.Dense(width, activation=tower.activation, name=f"{side}_dense_{number}")(hidden)
        if tower.dropout:
            hidden = tf.keras.layers.Dropout(tower.dropout, name=f"{side}_dropout_{number}")(hidden)
    projected = tf.keras.layers.Dense(vector_dim, name=f"{side}_projection")(hidden)
    return tf.keras.Model(inputs, UnitNorm(name=f"{side}_vector")(projected), name=f"{side}_tower")


def _block(feature: AnyFeature, inputs: Mapping[str, tf.Tensor], lookups: _Lookups) -> tf.Tensor:
    """Returns what a feature gives to its tower's first layer: (batch, width)."""
    column = inputs[feature.name]
    if isinstance(feature, DenseFeat):
        return _dense_block(feature, column, lookups.frozen)
    embeddings = lookups.embeddings[feature.vocabulary](column)
    if isinstance(feature, SparseFeat):
        return embeddings
    weights = inputs[feature.weight_name] if feature.weighted else None
    return Pooling(feature.combiner, name=f"{feature.name}_pooling")(embeddings, ids=column, weights=weights)


def _dense_block(feature: DenseFeat, column: tf.Tensor, frozen: Mapping[str, FrozenVectors]) -> tf.Tensor:
    if feature.pre_embed is None:
        return tf.keras.layers.Reshape((1,), name=f"{feature.name}_column")(column)
    if feature.pre_embed not in frozen:  # storage: inline, the column is the vector
        return column
    rows = frozen[feature.pre_embed](column)
    if feature.reduce_type == "none":
        return rows
    return Pooling(feature.reduce_type, name=f"{feature.name}_pooling")(rows, ids=column)
