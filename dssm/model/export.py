"""Towers as SavedModels, whose inputs are encoded columns and whose output is `vector`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dssm import storage

OUTPUT = "vector"


def save_tower(tower: tf.keras.Model, folder: str) -> None:
    """Writes a SavedModel with the signature `serving_default`: encoded columns → {`vector`: (rows, dim)}."""
    specs = {
        name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name) for name, tensor in tower.input.items()
    }

    @tf.function(input_signature=[specs])
    def serve(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {OUTPUT: tower(columns, training=False)}

    tf.saved_model.save(tower, folder, signatures={"serving_default": serve})


class LoadedTower:
    """A tower read from a SavedModel: NumPy columns in, vectors out. TensorFlow alone is needed."""

    def __init__(self, folder: str) -> None:
        with storage.local_copy(folder) as local:
            self._model = tf.saved_model.load(local)
        self._serve = self._model.signatures["serving_default"]
        self.inputs: dict[str, tf.TensorSpec] = self._serve.structured_input_signature[1]

    def vectors(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Args: columns: each input, (rows, *shape). Returns: (rows, dim) float32."""
        tensors = {name: tf.constant(columns[name], spec.dtype) for name, spec in self.inputs.items()}
        return self._serve(**tensors)[OUTPUT].numpy()


def weights_digest(variables: list[tf.Variable]) -> str:
    """Returns a digest of the values of variables, in their order: the version of a model.

    Of a model with frozen vectors these belong to it: with other vectors the same weights give other results.
    """
    return storage.digest(*[np.ascontiguousarray(variable.numpy()).tobytes() for variable in variables])
