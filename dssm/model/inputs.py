"""Features as the towers take them: encoded columns to one vector a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.manifest import ColumnSpec, encoded_columns
from dssm.model.embedding_bag import EmbeddingBag
from dssm.model.layers import EntryDropout, FrozenVectors, Pooling
from dssm.model.sharded import Table
from dssm.sections import VectorTable


@dataclass(frozen=True)
class FeatureBlock:
    """What a feature gives to its tower: `vector` is (batch, width).

    Under mixed precision a feature stays float32, but for encoders with kernels and projections: each layer of a tower
    casts what it takes to the type that it computes in.
    """

    name: str
    vector: tf.Tensor

    @property
    def width(self) -> int:
        return int(self.vector.shape[-1])


@dataclass(frozen=True)
class Lookups:
    """What the towers share: the embedding of each vocabulary, and the frozen tables by the vectors' name."""

    embeddings: Mapping[str, Table]
    frozen: Mapping[str, FrozenVectors]


def tower_columns(
    features: Mapping[str, AnyFeature], side: str, vectors: Mapping[str, VectorTable]
) -> dict[str, ColumnSpec]:
    """Returns the encoded columns that a tower takes, in the order of its features."""
    chosen = [feature for feature in features.values() if feature.side == side]
    return {name: spec for feature in chosen for name, spec in encoded_columns(feature, vectors).items()}


def tower_inputs(columns: Mapping[str, ColumnSpec]) -> dict[str, tf.Tensor]:
    """Returns a Keras input for each encoded column, (batch, *shape)."""
    return {name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=name) for name, spec in columns.items()}


def feature_blocks(
    features: Sequence[AnyFeature], inputs: Mapping[str, tf.Tensor], lookups: Lookups
) -> list[FeatureBlock]:
    """Returns what each feature gives to its tower, in the order of the features."""
    return [FeatureBlock(feature.name, _vector(feature, inputs, lookups)) for feature in features]


def _vector(feature: AnyFeature, inputs: Mapping[str, tf.Tensor], lookups: Lookups) -> tf.Tensor:
    column = inputs[feature.name]
    if isinstance(feature, DenseFeat):
        return _dense_vector(feature, column, lookups.frozen)
    if isinstance(feature, SparseFeat):
        return lookups.embeddings[feature.vocabulary](column)
    if feature.entry_dropout:
        column = EntryDropout(feature.entry_dropout, name=f"{feature.name}.entry_dropout")(column)
    embedding = lookups.embeddings[feature.vocabulary]
    weights = inputs[feature.weight_name] if feature.weighted else None
    if feature.encoder.kind == "pooling" and feature.combiner != "max":
        return EmbeddingBag(embedding, feature.combiner, name=f"{feature.name}.pooling")(column, weights=weights)
    vector = _encoder(feature)(embedding(column), ids=column, weights=weights)
    width = feature.encoder.width(feature.dim)
    if vector.shape.rank != 2 or vector.shape[1] != width:
        raise UserError(
            f"features.{feature.name}.encoder: {feature.encoder.kind} made {vector.shape} of the list; expected "
            f"{(None, width)}: a vector as wide as its settings' width() says"
        )
    return vector


def _encoder(feature: VarLenSparseFeat) -> tf.keras.layers.Layer:
    if feature.encoder.kind == "pooling":
        return feature.encoder.build(feature.dim, f"{feature.name}.pooling", combiner=feature.combiner)
    return feature.encoder.build(feature.dim, f"{feature.name}.encoder")


def _dense_vector(feature: DenseFeat, column: tf.Tensor, frozen: Mapping[str, FrozenVectors]) -> tf.Tensor:
    if feature.pre_embed is None:
        return tf.keras.layers.Reshape((1,), name=f"{feature.name}.column", dtype="float32")(column)
    if feature.pre_embed in frozen:
        vector = frozen[feature.pre_embed](column)
        if feature.reduce_type != "none":
            pooling = Pooling(feature.reduce_type, name=f"{feature.name}.pooling", dtype="float32")
            vector = pooling(vector, ids=column)
    else:  # storage: inline, the column is the vector
        vector = column
    if feature.projection is None:
        return vector
    return tf.keras.layers.Dense(feature.projection, use_bias=False, name=f"{feature.name}.projection")(vector)
