"""A head over a user's and an item's vector, for re-scoring what was retrieved."""

from __future__ import annotations

import tensorflow as tf

from dssm.sections.model import Scorer

SCORER = "scorer"  # its folder in a model's, and its name among losses and metrics


@tf.keras.utils.register_keras_serializable("dssm")
class VectorPair(tf.keras.layers.Layer):
    """Puts u, v, u∘v and |u − v| side by side."""

    def call(self, vectors: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Args: vectors: u and v, (rows, width) each. Returns: (rows, 4 · width)."""
        user, item = vectors
        return tf.concat([user, item, user * item, tf.abs(user - item)], axis=-1)


def build_scorer(settings: Scorer, width: int) -> tf.keras.Model:
    """Returns the model from [user_vector, item_vector], (rows, width) each, to a logit, (rows,) float32.

    Args: width: of both towers' vectors.
    """
    pair = [tf.keras.Input((width,), name=f"{side}_vector") for side in ("user", "item")]
    hidden = VectorPair(name="scorer_pair")(pair)
    for number, units in enumerate(settings.layers if settings.kind == "shallow" else (), start=1):
        hidden = tf.keras.layers.Dense(units, activation="relu", name=f"scorer_dense_{number}")(hidden)
    logit = tf.keras.layers.Dense(1, dtype="float32", name="scorer_logit")(hidden)
    return tf.keras.Model(pair, tf.keras.layers.Reshape((), dtype="float32", name="scorer_score")(logit), name="scorer")
