"""Towers as SavedModels. Their output is `vector`, and `vector_OBJECTIVE` of each where a model has several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import expit

from dssm import storage
from dssm.errors import UserError, did_you_mean
from dssm.model.outputs import OUTPUT, SCORE, output_name
from dssm.model.towers import combined_vector

SIGNATURE = "serving_default"
_NOTHING = {tf.string: "", tf.float64: float("nan"), tf.int64: -1}  # of a raw input that a row lacks

Tensors = dict[str, tf.Tensor]


def save_tower(tower: tf.keras.Model, folder: str, shares: Mapping[str, float] | None = None) -> None:
    """Writes a SavedModel with the signature `serving_default`: encoded columns → vectors.

    Args:
      tower: from encoded columns to {objective: (rows, width)}.
      folder: a local one.
      shares: of each objective in the combined vector; a tower of one objective needs none.
    """
    specs = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in tower.input.items()}

    def serve(columns: Tensors) -> Tensors:
        return named_outputs(tower(columns, training=False), shares)

    save_function(serve, specs, tower.variables, folder)


def save_scorer(scorer: tf.keras.Model, folder: str) -> None:
    """Writes a SavedModel with the signature `serving_default`: `user_vector`, `item_vector` → `score`, a logit.

    Args:
      scorer: from both vectors, (rows, width) each, which are those of the first objective.
      folder: a local one.
    """
    specs = {tensor.name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in scorer.inputs}

    def serve(vectors: Tensors) -> Tensors:
        return {SCORE: scorer([vectors[name] for name in specs], training=False)}

    save_function(serve, specs, scorer.variables, folder)


def named_outputs(vectors: Mapping[str, tf.Tensor], shares: Mapping[str, float] | None = None) -> Tensors:
    """Returns a tower's outputs.

    Args:
      vectors: of each objective, (rows, width).
      shares: of each objective in the combined vector; one objective needs none.
    Returns: `vector`, (rows, Σ width) of the objectives with a share; of several also each one's own.
    """
    if shares is None:
        shares = dict.fromkeys(vectors, 1.0) if len(vectors) == 1 else {}
    if set(shares) != set(vectors):
        raise ValueError(f"shares: found {sorted(shares)}, the tower's objectives are {sorted(vectors)}")
    named = {output_name(objective): vector for objective, vector in vectors.items()} if len(vectors) > 1 else {}
    return {OUTPUT: combined_vector(dict(vectors), shares), **named}


def save_function(
    function: Callable[[Tensors], Tensors], specs: Mapping[str, tf.TensorSpec], holds: Sequence[Any], folder: str
) -> None:
    """Writes a SavedModel with one signature.

    Args:
      function: of a dict of tensors.
      specs: of these, by name.
      holds: the variables and modules that it uses. They alone are saved: of a Keras model all layers' own functions
        would be traced and written as well.
    """
    model = tf.Module()
    model.holds = list(holds)
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    model.serve = tf.function(function, input_signature=[named], autograph=False)
    tf.saved_model.save(model, folder, signatures={SIGNATURE: model.serve})


def keep_to_processor() -> None:
    """Hides a host's GPUs from this process, unless TensorFlow has started already.

    TensorFlow takes all memory of a GPU that it sees: of the tasks that score on a host one would have it, and a
    service would take it from a training. A row's way through a tower is a few small matrix products.
    """
    with contextlib.suppress(RuntimeError):  # started: a rank that looks at what it has trained, say
        tf.config.set_visible_devices([], "GPU")


class _Loaded:
    """A SavedModel's signature, on the processor."""

    def __init__(self, folder: str) -> None:
        keep_to_processor()
        with storage.local_copy(folder) as local:
            self._model = tf.saved_model.load(local)
        self._serve = self._model.signatures[SIGNATURE]
        self.inputs: dict[str, tf.TensorSpec] = self._serve.structured_input_signature[1]
        self.outputs: dict[str, tf.TensorSpec] = self._serve.structured_outputs

    def _call(self, tensors: Tensors) -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in self._serve(**tensors).items()}


class LoadedTower(_Loaded):
    """A tower of encoded inputs: NumPy columns in, vectors out. TensorFlow alone is needed."""

    def vectors(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Args: columns: each input, (rows, *shape). Returns: (rows, dim) float32."""
        return self.all_vectors(columns)[OUTPUT]

    def all_vectors(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns every output, (rows, dim) float32 each: of several objectives also their own vectors."""
        return self._call({name: tf.constant(columns[name], spec.dtype) for name, spec in self.inputs.items()})


class LoadedRawTower(_Loaded):
    """A tower of raw inputs: rows as JSON has them in, vectors out. TensorFlow alone is needed."""

    def vectors(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Returns the rows' vectors, (rows, dim) float32; see `raw_tensors`."""
        return self.all_vectors(rows)[OUTPUT]

    def all_vectors(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns every output, (rows, dim) float32 each: of several objectives also their own vectors."""
        return self._call(raw_tensors(self.inputs, rows))


class LoadedScorer(_Loaded):
    """A scorer: vectors of users and items in, probabilities out. TensorFlow and SciPy are needed."""

    def probabilities(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns how probable it is that each user acts on the item of the same row, (rows,) float64.

        Args: users, items: vectors of the first objective, (rows, width) each.
        """
        pair = {"user_vector": tf.constant(users, tf.float32), "item_vector": tf.constant(items, tf.float32)}
        logits = self._call(pair)[SCORE].astype(np.float64)  # in float32 all above 17 would be 1
        probabilities: np.ndarray = expit(logits)
        return probabilities


def raw_tensors(inputs: Mapping[str, tf.TensorSpec], rows: Sequence[Mapping[str, Any]]) -> Tensors:
    """Returns rows as the tensors of a raw tower's signature.

    Args:
      inputs: of the signature: (batch,), or (batch, entries) for a list.
      rows: of each some inputs; one that is missing or None counts as nothing sent. A list may be one text.
    Raises: UserError where a row has a key that is no input.
    """
    for row in rows:
        for name in row:
            if name not in inputs:
                raise UserError(f"a raw tower has no input '{name}'" + did_you_mean(name, inputs))
    return {name: _tensor(spec, [row.get(name) for row in rows]) for name, spec in inputs.items()}


def _tensor(spec: tf.TensorSpec, values: Sequence[Any]) -> tf.Tensor:
    if spec.shape.rank == 1:
        return tf.constant([_entry(value, spec.dtype) for value in values], spec.dtype, shape=[len(values)])
    lists = [[value] if isinstance(value, (str, bytes, int, float)) else list(value or []) for value in values]
    width = max(map(len, lists), default=0)
    filled = [
        [_entry(entry, spec.dtype) for entry in [*entries, *[None] * (width - len(entries))]] for entries in lists
    ]
    return tf.constant(filled, spec.dtype, shape=[len(lists), width])


def _entry(value: Any, kind: tf.DType) -> Any:
    if value is None:
        return _NOTHING[kind]
    if kind == tf.string and isinstance(value, (bool, np.bool_)):
        return str(value).lower()  # as build_samples reads a column of booleans
    return value if kind != tf.string or isinstance(value, (str, bytes)) else str(value)


def weights_digest(variables: list[tf.Variable]) -> str:
    """Returns a digest of the values of variables, in their order: the version of a model.

    Of a model with frozen vectors these belong to it: with other vectors the same weights give other results.
    """
    return storage.digest(*[np.ascontiguousarray(variable.numpy()).tobytes() for variable in variables])
