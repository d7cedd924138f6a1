"""The two towers, from the features to vectors. Each module holds the builder of one kind of tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, EmbeddedFeature, embedded, of_side
from dssm.model.autograph import without_autograph
from dssm.model.inputs import FeatureBlock, Lookups, feature_blocks, tower_columns, tower_inputs
from dssm.model.layers import FrozenVectors
from dssm.model.sharded import ShardedEmbedding, Table, shapes_alone
from dssm.model.shards import Shard
from dssm.sections import Model, Tower, VectorTable

Vectors = dict[str, tf.Tensor]  # of each objective, (batch, width)


@dataclass(frozen=True)
class TowerContext:
    """What a tower's builder knows beside its features.

    Attributes:
      name: first part of its layers' names, such as user or user.deep; what follows stands behind a dot, which no
        feature's name has.
      setting: its key in the settings, for messages.
      objectives: what it makes vectors for.
      vector_dim: width of a vector.
      unit_norm: whether vectors are scaled to length 1.
      features: all of the side, by name: those that `residual` can name.
      penalties: each kernel with the λ of its L2 penalty; builders add to it.
    """

    name: str
    setting: str
    objectives: tuple[str, ...]
    vector_dim: int
    unit_norm: bool
    features: Mapping[str, FeatureBlock]
    penalties: list[tuple[tf.Variable, float]]

    def below(self, name: str, key: str, **changes: object) -> TowerContext:
        """Returns the context of a tower that is a part of this one.

        Args:
          name: that it adds to the layers' names.
          key: of its settings in this tower's.
          changes: other attributes.
        """
        return replace(self, name=f"{self.name}.{name}", setting=f"{self.setting}.{key}", **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TwoTowers:
    """`user` and `item`: Keras models from a dict of encoded columns to {objective: (batch, width)}.

    `frozen` holds the tables of pretrained vectors that the towers look row numbers up in, by name; `penalties`
    each kernel and table that has an L2 penalty with its λ; `tables` the embeddings that the towers use, by vocabulary.
    """

    user: tf.keras.Model
    item: tf.keras.Model
    frozen: Mapping[str, FrozenVectors] = field(default_factory=dict)
    penalties: tuple[tuple[tf.Variable, float], ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)

    @property
    def embeddings(self) -> tuple[tf.Variable, ...]:
        """The embedding tables; of those that are spread over ranks, this rank's rows."""
        return tuple(table.embeddings for table in self.tables.values())

    @property
    def sharded(self) -> tuple[ShardedEmbedding, ...]:
        """The tables of which each rank holds some rows; one rank alone holds them all."""
        return tuple(table for table in self.tables.values() if isinstance(table, ShardedEmbedding))

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


@without_autograph
def build_towers(
    model: Model,
    features: Mapping[str, AnyFeature],
    vocabulary_sizes: Mapping[str, int],
    vectors: Mapping[str, VectorTable],
    matrices: Mapping[str, np.ndarray] | None = None,
    shard: Shard | None = None,
    table_seed: int | None = 0,
) -> TwoTowers:
    """Builds both towers; features that share a vocabulary share one embedding table.

    Under a mixed-precision policy tables and vectors are float32; the layers between compute as the policy says.

    Args:
      model: the settings of the towers.
      features: by name.
      vocabulary_sizes: ids of each vocabulary, padding and unknown included.
      vectors: the settings of the tables of pretrained vectors.
      matrices: (rows, width) float32 of each of `frozen_tables`.
      shard: the rows that this process holds of tables that model.embedding spreads over ranks; default: all.
      table_seed: of those tables' initial rows; None: they are zeros. Other weights, which are the same on all ranks,
        draw from Keras' state.
    Raises: UserError where a tower names what the features don't give.
    """
    tables = {
        feature.vocabulary: _table(feature, features, model, vocabulary_sizes, shard, table_seed)
        for feature in embedded(features)
        if feature.share_embedding is None
    }
    frozen = {
        name: FrozenVectors.of((matrices or {})[name], name=f"vectors_{name}")
        for name in frozen_tables(features, vectors)
    }
    lookups, penalties = Lookups(tables, frozen), list[tuple[tf.Variable, float]]()
    with shapes_alone():
        user, item = (
            _tower(side, tower, model, features, lookups, vectors, penalties)
            for side, tower in (("user", model.user_tower), ("item", model.item_tower))
        )
    used = {id(variable) for tower in (user, item) for variable in tower.variables}
    tables = {name: table for name, table in tables.items() if table.built and id(table.embeddings) in used}
    for feature in embedded(features):
        strength = model.embedding_l2 if feature.l2 is None else feature.l2
        if strength and feature.name in tables:
            penalties.append((tables[feature.name].embeddings, strength))
    return TwoTowers(user, item, frozen, tuple(penalties), tables)


def _table(
    feature: EmbeddedFeature,
    features: Mapping[str, AnyFeature],
    model: Model,
    vocabulary_sizes: Mapping[str, int],
    shard: Shard | None,
    seed: int | None,
) -> Table:
    """Returns the embedding of a feature and of those that share it."""
    rows, name = vocabulary_sizes[feature.vocabulary], f"embedding_{feature.vocabulary}"
    deviation = model.embedding_deviation or feature.dim**-0.5
    if model.embedding.shards(rows):
        columns = tuple(other.name for other in embedded(features) if other.vocabulary == feature.vocabulary)
        return ShardedEmbedding(rows, feature.dim, columns, deviation, shard, seed, name=name)
    initializer = tf.keras.initializers.RandomNormal(stddev=deviation)
    return tf.keras.layers.Embedding(rows, feature.dim, embeddings_initializer=initializer, name=name, dtype="float32")


def frozen_tables(features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable]) -> list[str]:
    """Returns the names of the vectors that the towers hold themselves: those of storage: table that a feature uses."""
    used = {feature.pre_embed for feature in features.values() if isinstance(feature, DenseFeat)}
    return [name for name, table in vectors.items() if table.storage == "table" and name in used]


def _tower(
    side: str,
    tower: Tower,
    model: Model,
    features: Mapping[str, AnyFeature],
    lookups: Lookups,
    vectors: Mapping[str, VectorTable],
    penalties: list[tuple[tf.Variable, float]],
) -> tf.keras.Model:
    inputs = tower_inputs(tower_columns(features, side, vectors))
    blocks = feature_blocks(of_side(features, side), inputs, lookups)  # type: ignore[arg-type]
    context = TowerContext(
        name=side,
        setting=f"model.{side}_tower",
        objectives=tuple(model.all_objectives),
        vector_dim=model.vector_dim,
        unit_norm=model.similarity == "cosine",
        features={block.name: block for block in blocks},
        penalties=penalties,
    )
    made = tower.build(blocks, context)
    _check_vectors(made, tower.width(model.vector_dim), context)
    return tf.keras.Model(inputs, made, name=f"{side}_tower")


def _check_vectors(vectors: Vectors, width: int, context: TowerContext) -> None:
    """Checks what a builder gave: what the other tower, the losses and the item table count on."""
    expected = dict.fromkeys(context.objectives, ((None, width), "float32"))
    found = {name: (tuple(vector.shape), vector.dtype.name) for name, vector in vectors.items()}
    if found != expected:
        raise UserError(f"{context.setting}: its builder made {found}; expected {expected}")


def combined_vector(vectors: Vectors, shares: Mapping[str, float]) -> tf.Tensor:
    """Returns one vector whose inner product is the objectives' inner products, summed with their shares.

    Args:
      vectors: of each objective, (batch, width).
      shares: factor of each objective; those of 0 are left out.
    Returns: (batch, Σ width); √share scales each side's part.
    """
    parts = [vectors[name] * share**0.5 for name, share in shares.items() if share > 0]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)
