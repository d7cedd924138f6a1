"""Raw inputs to encoded columns in TensorFlow's own operations: what build_samples does, at the service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.features import (
    FIRST_TOKEN_ID,
    TIME_VALUES,
    UNKNOWN_ID,
    AnyFeature,
    DenseFeat,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    takes_list,
)
from dssm.manifest import Statistics
from dssm.model.raw.hashing import bucket_ids
from dssm.model.raw.inputs import entry_separator, is_history, raw_inputs
from dssm.model.raw.lists import counted, kept, padded, shares
from dssm.model.raw.lookup import TokenTable
from dssm.model.raw.strings import real_entries, split_lists, split_weights, trimmed
from dssm.model.raw.text import trigram_ids
from dssm.samples.lookup_tables import Tables
from dssm.sections import History, VectorTable

Columns = dict[str, tf.Tensor]


class RawEncoder(tf.Module):
    """Encodes the raw inputs of one tower's features, as `dssm.samples.encoding` encodes their columns.

    Where samples have no such row, it does what a service can use: a number that is not finite is null, an entry
    whose weight is no number is none (build_samples quarantines both), and a hashed history hashes items that the
    catalogue lacks, too (there they are 1, and come from a profile's older list alone).

    Attributes:
      inputs: by name, in the order of the features.
    """

    def __init__(
        self,
        features: Sequence[AnyFeature],
        histories: Mapping[str, History],
        vectors: Mapping[str, VectorTable],
        tables: Tables,
        folder: str,
    ) -> None:
        """Takes up what the features need of the tables.

        Args:
          features: of one tower.
          histories: by name.
          vectors: settings of the tables of pretrained vectors.
          tables: of build_samples.
          folder: for the files of the tables of tokens; it must stay until the module is saved.
        """
        super().__init__()
        self.inputs = raw_inputs(features, histories, tables)
        self._features = tuple(features)
        self._histories = dict(histories)
        self._statistics = {f.name: tables.statistics[f.name] for f in features if f.name in tables.statistics}
        self._buckets = dict(tables.buckets)
        self._separators = {f.name: entry_separator(f, histories, tables) for f in features if takes_list(f)}
        names = sorted({f.vocabulary for f in features if isinstance(f, (SparseFeat, VarLenSparseFeat))})
        self._vocabularies = {
            name: TokenTable(tables.vocabularies[name], f"{folder}/vocabulary_{name}.txt")
            for name in names
            if name in tables.vocabularies
        }
        used = sorted({f.pre_embed for f in features if isinstance(f, DenseFeat) and f.pre_embed is not None})
        self._rows = {name: TokenTable(tables.vectors[name].ids, f"{folder}/vectors_{name}.txt") for name in used}
        inline = [name for name in used if vectors[name].storage == "inline"]
        described = {name: given.model_dump() for name, given in self.inputs.items()}
        statistics = {name: found.model_dump() for name, found in self._statistics.items()}
        storage.write_text(
            f"{folder}/inputs.json", json.dumps({"inputs": described, "statistics": statistics}, indent=1)
        )
        self.description = tf.saved_model.Asset(f"{folder}/inputs.json")
        self._matrices = {name: _with_zero_row(tables.vectors[name].matrix, vectors[name].width) for name in inline}

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> Columns:
        """Args: raw: each of `inputs`. Returns: the columns of `manifest.encoded_columns`."""
        columns: Columns = {}
        for feature in self._features:
            with tf.name_scope(feature.name):
                if isinstance(feature, SparseFeat):
                    columns[feature.name] = self._one_id(feature, raw[feature.name])
                elif isinstance(feature, TextFeat):
                    columns |= self._text(feature, raw[feature.name])
                elif isinstance(feature, VarLenSparseFeat):
                    columns |= self._list(feature, raw)
                elif feature.pre_embed is None:
                    numbers = encode_numbers(feature, raw[feature.name], self._statistics.get(feature.name))
                    columns[feature.name] = numbers
                else:
                    columns[feature.name] = self._vectors(feature, feature.pre_embed, raw[feature.name])
        return columns

    def _one_id(self, feature: SparseFeat, value: tf.Tensor) -> tf.Tensor:
        if feature.time is not None:
            known = (value >= 0) & (value < TIME_VALUES[feature.time])
            return tf.where(known, tf.cast(value, tf.int32) + FIRST_TOKEN_ID, UNKNOWN_ID)
        if not feature.is_bucketised:
            return self._ids(feature.vocabulary, value)
        boundaries = feature.boundaries or self._statistics[feature.name].boundaries
        reached = tf.searchsorted(np.array([*boundaries, np.inf]), value, side="right")  # one at least is asked for
        return tf.where(tf.math.is_finite(value), reached + FIRST_TOKEN_ID, UNKNOWN_ID)

    def _ids(self, vocabulary: str, tokens: tf.Tensor) -> tf.Tensor:
        """Returns each token's id, int32 of the same shape."""
        if vocabulary in self._buckets:
            return bucket_ids(tokens, self._buckets[vocabulary])
        places = self._vocabularies[vocabulary].places(tokens)
        return tf.where(places >= 0, places + FIRST_TOKEN_ID, UNKNOWN_ID)

    def _text(self, feature: TextFeat, texts: tf.Tensor) -> Columns:
        ids = trigram_ids(texts, self._buckets[feature.vocabulary])
        ids, counts = counted(ids, ids.with_values(tf.ones_like(ids.values, tf.float64)))
        return _list_columns(feature, *kept(ids, feature.maxlen, feature.keep, tf.cast(counts, tf.float32)))

    def _list(self, feature: VarLenSparseFeat, raw: Mapping[str, tf.Tensor]) -> Columns:
        if not feature.weighted:
            entries = self._entries(feature, raw[feature.name])
            ids = entries.with_values(self._ids(feature.vocabulary, entries.values))
            if feature.of is not None:
                ids = tf.ragged.boolean_mask(ids, ids.with_values(ids.values >= FIRST_TOKEN_ID))
            return _list_columns(feature, *kept(ids, feature.maxlen, feature.keep))
        if feature.weight_column is not None:
            tokens, weights = real_entries(*_pairs(raw[feature.name], raw[feature.weight_name]))
        else:
            tokens, weights = split_weights(self._entries(feature, raw[feature.name]))
        ids = tokens.with_values(self._ids(feature.vocabulary, tokens.values))
        if feature.of is None:
            return _list_columns(feature, *kept(ids, feature.maxlen, feature.keep, tf.cast(weights, tf.float32)))
        known = ids.with_values((ids.values >= FIRST_TOKEN_ID) & (weights.values > 0))
        ids, share = shares(tf.ragged.boolean_mask(ids, known), tf.ragged.boolean_mask(weights, known))
        return _list_columns(feature, *kept(ids, feature.maxlen, "first", share))

    def _entries(self, feature: VarLenSparseFeat | DenseFeat, lists: tf.Tensor) -> tf.RaggedTensor:
        """Returns the tokens of a list's input, (batch, None)."""
        if not is_history(feature, self._histories):
            return split_lists(lists, self._separators[feature.name])
        ids = tf.ragged.boolean_mask(lists, tf.not_equal(lists, ""))  # a log's ids are not trimmed
        return ids[:, : self._histories[feature.source_column].last]

    def _vectors(self, feature: DenseFeat, name: str, ids: tf.Tensor) -> tf.Tensor:
        if feature.reduce_type == "none":
            codes = self._rows[name].places(ids) + 1
            return tf.gather(self._matrices[name], codes) if name in self._matrices else codes
        entries = self._entries(feature, ids)
        codes = entries.with_values(self._rows[name].places(entries.values) + 1)
        codes = tf.ragged.boolean_mask(codes, codes.with_values(codes.values > 0))
        if feature.maxlen is not None:
            codes = codes[:, : feature.maxlen]
        if name not in self._matrices:
            assert feature.maxlen is not None  # the settings' checks ask for it
            return padded(codes, feature.maxlen)
        batch = tf.cast(codes.nrows(), tf.int32)
        segments = tf.cast(codes.value_rowids(), tf.int32)
        # Rows of the matrix are added up where they lie: entries × width numbers are never laid out.
        total = tf.sparse.segment_sum(self._matrices[name], codes.values, segments, num_segments=batch)
        if feature.reduce_type == "sum":
            return total
        return total / tf.cast(tf.maximum(codes.row_lengths(), 1), tf.float32)[:, None]


def encode_numbers(feature: DenseFeat, values: tf.Tensor, statistics: Statistics | None) -> tf.Tensor:
    """Transforms the numbers of a feature; see `dssm.samples.number_encoding.encode_numbers`.

    Args:
      values: (batch,) float64; one that is not finite is null.
      statistics: of the training window; minmax and standard need them.
    Returns: (batch,) float32.
    """
    of_window = feature.transform in ("minmax", "standard")
    null = feature.null
    if null is None:
        null = statistics.mean if of_window and statistics is not None else 0.0
    values = tf.where(tf.math.is_finite(values), values, tf.constant(null, tf.float64))
    if feature.transform == "log1p":
        values = tf.sign(values) * tf.math.log1p(tf.abs(values))
    elif of_window:
        assert statistics is not None  # the build takes them for every such feature
        start, width = statistics.mean, statistics.deviation
        if feature.transform == "minmax":
            start, width = statistics.minimum, statistics.maximum - statistics.minimum
        values = (values - start) / width if width else tf.zeros_like(values)
        if feature.transform == "minmax":
            values = tf.clip_by_value(values, 0.0, 1.0)
    return tf.cast(values, tf.float32)


def _list_columns(feature: VarLenSparseFeat, ids: tf.RaggedTensor, weights: tf.RaggedTensor | None) -> Columns:
    columns = {feature.name: padded(ids, feature.maxlen)}
    if weights is not None:
        columns[feature.weight_name] = padded(weights, feature.maxlen)
    return columns


def _pairs(tokens: tf.Tensor, weights: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns tokens and weights by place up to the end of the shorter, (batch, None) each, the tokens trimmed."""
    width = tf.minimum(tf.shape(tokens)[1], tf.shape(weights)[1])
    tokens, weights = trimmed(tokens[:, :width]), weights[:, :width]
    return tf.RaggedTensor.from_tensor(tokens), tf.RaggedTensor.from_tensor(weights)


def _with_zero_row(matrix: np.ndarray, width: int) -> tf.Variable:
    """Returns vectors behind a row of zeros, which stands for no vector.

    A variable and not a constant: a SavedModel's graph, with the constants in it, holds at most 2 GB.
    """
    rows = tf.Variable(tf.zeros([len(matrix) + 1, width]), trainable=False)
    rows[1:].assign(np.reshape(matrix, (-1, width)))
    return rows
