"""The two towers, from the features to vectors of unit norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from dssm.features import AnyFeature, DenseFeat, SparseFeat, embedded, of_side
from dssm.manifest import ColumnSpec, encoded_columns
from dssm.model.layers import Pooling, UnitNorm
from dssm.sections import Model, Tower


@dataclass(frozen=True)
class TwoTowers:
    """`user` and `item`: Keras models from a dict of encoded columns to vectors (batch, vector_dim) of unit norm."""

    user: tf.keras.Model
    item: tf.keras.Model

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables, each once: the towers may share embedding tables."""
        unique = {id(v): v for v in [*self.user.variables, *self.item.variables]}
        return list(unique.values())

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        return [variable for variable in self.variables if variable.trainable]


def build_towers(
    model: Model,
    features: Mapping[str, AnyFeature],
    vocabulary_sizes: Mapping[str, int],
    vector_widths: Mapping[str, int],
) -> TwoTowers:
    """Builds both towers; features that share a vocabulary share one embedding table.

    Args:
      model: the settings of the towers.
      features: by name.
      vocabulary_sizes: ids of each vocabulary, padding and unknown included.
      vector_widths: width of each table of pretrained vectors.
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
    user, item = (
        _tower(side, tower, model.vector_dim, of_side(features, side), tables, vector_widths)  # type: ignore[arg-type]
        for side, tower in (("user", model.user_tower), ("item", model.item_tower))
    )
    return TwoTowers(user, item)


def tower_columns(
    features: Mapping[str, AnyFeature], side: str, vector_widths: Mapping[str, int]
) -> dict[str, ColumnSpec]:
    """Returns the encoded columns that a tower takes, in the order of its features."""
    chosen = [feature for feature in features.values() if feature.side == side]
    return {name: spec for feature in chosen for name, spec in encoded_columns(feature, vector_widths).items()}


def _tower(
    side: str,
    tower: Tower,
    vector_dim: int,
    features: list[AnyFeature],
    tables: Mapping[str, tf.keras.layers.Embedding],
    vector_widths: Mapping[str, int],
) -> tf.keras.Model:
    columns = tower_columns({feature.name: feature for feature in features}, side, vector_widths)
    inputs = {name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=name) for name, spec in columns.items()}
    blocks = [_block(feature, inputs, tables) for feature in features]
    hidden = tf.keras.layers.Concatenate(name=f"{side}_features")(blocks) if len(blocks) > 1 else blocks[0]
    for number, width in enumerate(tower.layers, start=1):
        hidden = tf.keras.layers.Dense(width, activation=tower.activation, name=f"{side}_dense_{number}")(hidden)
        if tower.dropout:
            hidden = tf.keras.layers.Dropout(tower.dropout, name=f"{side}_dropout_{number}")(hidden)
    vectors = tf.keras.layers.Dense(vector_dim, name=f"{side}_projection")(hidden)
    return tf.keras.Model(inputs, UnitNorm(name=f"{side}_vector")(vectors), name=f"{side}_tower")


def _block(
    feature: AnyFeature, inputs: Mapping[str, tf.Tensor], tables: Mapping[str, tf.keras.layers.Embedding]
) -> tf.Tensor:
    """Returns what a feature gives to its tower's first layer: (batch, width)."""
    column = inputs[feature.name]
    if isinstance(feature, DenseFeat):
        return (
            column
            if feature.pre_embed is not None
            else tf.keras.layers.Reshape((1,), name=f"{feature.name}_column")(column)
        )
    embeddings = tables[feature.vocabulary](column)
    if isinstance(feature, SparseFeat):
        return embeddings
    weights = inputs[feature.weight_name] if feature.weighted else None
    return Pooling(feature.combiner, name=f"{feature.name}_pooling")(embeddings, ids=column, weights=weights)
