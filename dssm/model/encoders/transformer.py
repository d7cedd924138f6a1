"""Self-attention blocks over the entries."""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

from dssm.encoders import Transformer as TransformerSettings
from dssm.model.encoders.entries import Order, sorted_entries, zero_where_empty
from dssm.model.randomness import Dropout


def build(settings: TransformerSettings, dim: int, name: str) -> Transformer:
    assert dim % settings.heads == 0, "a feature's settings are checked for it"
    chosen = settings.model_dump(include={"blocks", "heads", "hidden", "dropout", "causal", "pool", "order"})
    return Transformer(**chosen, name=name)


@tf.keras.utils.register_keras_serializable("dssm")
class Transformer(tf.keras.layers.Layer):
    """Blocks of self-attention and a feed-forward layer over a list's entries (Kang and McAuley, ICDM 2018).

    x = dropout(e + p), then the blocks; the vector is norm(x) of the newest entry, or its mean over the entries.
    Positions p count from the newest entry, so that an entry's is the same however long the list; lists have at most
    as many entries as those that the layer was built with. An empty list gives zeros.

    Args: as in `dssm.encoders.Transformer`.
    """

    def __init__(
        self,
        blocks: int,
        heads: int,
        hidden: int,
        dropout: float,
        causal: bool,
        pool: Literal["last", "mean"],
        order: Order,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads, self.hidden, self.rate = heads, hidden, dropout
        self.causal, self.pool, self.order = causal, pool, order
        self.dropout = Dropout(dropout)
        self.blocks = [Block(heads, hidden, dropout, name=f"block_{number}") for number in range(1, blocks + 1)]
        self.norm = _layer_norm("norm")

    def build(self, shape: tf.TensorShape) -> None:
        deviation = tf.keras.initializers.RandomNormal(stddev=shape[-1] ** -0.5)
        self.positions = self.add_weight("positions", (shape[1], shape[2]), initializer=deviation)
        super().build(shape)

    def call(
        self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, dim)."""
        entries, real = sorted_entries(embeddings, ids, weights, self.order, "newest_first")
        number = tf.shape(ids)[1]
        hidden = self.dropout(entries + self.positions[:number], training=training)
        seen = tf.tile(real[:, None, :], [1, number, 1])  # (batch, entry, entry that it attends to)
        if self.causal:
            place = tf.range(number)
            seen = tf.logical_and(seen, place[:, None] <= place[None, :])
        for block in self.blocks:
            hidden = block(hidden, seen=seen, training=training)
        hidden = tf.cast(self.norm(hidden), tf.float32)
        if self.pool == "last":
            return zero_where_empty(hidden[:, 0], real)
        counted = tf.cast(real, tf.float32)
        total = tf.einsum("be,bed->bd", counted, hidden)
        return tf.math.divide_no_nan(total, tf.reduce_sum(counted, axis=1, keepdims=True))

    def get_config(self) -> dict[str, Any]:
        own = {
            "blocks": len(self.blocks), "heads": self.heads, "hidden": self.hidden, "dropout": self.rate,
            "causal": self.causal, "pool": self.pool, "order": self.order,
        }  # fmt: skip
        return {**super().get_config(), **own}


@tf.keras.utils.register_keras_serializable("dssm")
class Block(tf.keras.layers.Layer):
    """x ← x + dropout(attention(norm(x))), then x ← x + dropout(W₂ relu(W₁ norm(x) + b₁) + b₂).

    The attention's heads share out the dimensions of an entry.

    Args: heads, hidden, dropout: as in `dssm.encoders.Transformer`.
    """

    def __init__(self, heads: int, hidden: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.hidden, self.rate = heads, hidden, dropout
        self.norms = [_layer_norm("attention_norm"), _layer_norm("feed_forward_norm")]
        self.first = tf.keras.layers.Dense(hidden, activation="relu", name="first")
        self.dropout = Dropout(dropout)

    def build(self, shape: tf.TensorShape) -> None:
        dim = shape[-1]
        self.attention = _Attention(self.heads, dim // self.heads, dropout=self.rate, name="attention")
        self.second = tf.keras.layers.Dense(dim, name="second")
        super().build(shape)

    def call(self, hidden: tf.Tensor, seen: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Args: hidden (batch, entries, dim); seen (batch, entries, entries) bool. Returns: (batch, entries, dim)."""
        normal = self.norms[0](hidden)
        attended = self.attention(normal, normal, attention_mask=seen, training=training)
        hidden += self.dropout(attended, training=training)
        forward = self.second(self.first(self.norms[1](hidden)))
        return hidden + self.dropout(forward, training=training)

    def get_config(self) -> dict[str, Any]:
        own = {"heads": self.heads, "hidden": self.hidden, "dropout": self.rate}
        return {**super().get_config(), **own}


class _Attention(tf.keras.layers.MultiHeadAttention):
    """Keras' own, with the dropout of a step that can be resumed."""

    def _build_attention(self, rank: int) -> None:
        super()._build_attention(rank)
        self._dropout_layer = Dropout(self._dropout, dtype=self._dtype_policy)


def _layer_norm(name: str) -> tf.keras.layers.LayerNormalization:
    return tf.keras.layers.LayerNormalization(epsilon=1e-6, name=name)
