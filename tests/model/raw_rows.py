"""Raw rows for the raw encoder, and what the samples' own encoder makes of them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from hypothesis import settings
from hypothesis import strategies as st

from dssm.features import AnyFeature
from dssm.manifest import Statistics, encoded_columns
from dssm.model.export import raw_tensors
from dssm.model.raw.encoder import RawEncoder
from dssm.packing import unpack
from dssm.samples.encoding import encode_features
from dssm.samples.lookup_tables import Tables, Vectors
from dssm.sections import History, VectorTable

TOKENS = ["b:c", "a", "007", "é日", "x y", "0"]
ITEMS = ["a", "b", "c", "é日", "7"]
COMMAS = ["a,b", "c", "d, e"]
STATISTICS = Statistics(events=9, mean=2.0, deviation=4.0, minimum=-1.0, maximum=7.0, boundaries=(0.5, 2.0, 2.5))
EQUAL = STATISTICS.model_copy(update={"deviation": 0.0, "minimum": 2.0, "maximum": 2.0, "boundaries": ()})
SPECS = {"pre": VectorTable(path="-", width=3), "table": VectorTable(path="-", width=3, storage="table")}
MATRIX = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
VECTORS = Vectors(pa.array(["7", "b", "gone", "é日"]), MATRIX)
TABLES = Tables(
    vocabularies={
        "f": pa.array(TOKENS), "item": pa.array(ITEMS[:-1]), "comma": pa.array(COMMAS),
        "none": pa.array([], pa.string()),
    },
    buckets={"hashed": 11, "text": 50},
    statistics={"f": STATISTICS, "equal": EQUAL},
    lists={"arrays": "array", "texts": "text"},
    vectors={"pre": VECTORS, "table": VECTORS},
    storage={name: spec.storage for name, spec in SPECS.items()},
)  # fmt: skip
MAXLEN = 3
HISTORIES = {"clicks": History(sources=("log",), last=5)}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tokens = st.one_of(st.sampled_from([*TOKENS, *ITEMS, "unknown"]), texts)
spaced = st.one_of(tokens, tokens.map(lambda token: f"\u3000{token}\x1f"), st.sampled_from(["", " ", "\t\x85"]))
lists = st.lists(spaced, max_size=7)
some_lists = st.lists(st.one_of(st.none(), lists), max_size=5)
weights = st.one_of(st.integers(-3, 9).map(float), st.floats(-1e6, 1e6, width=32), st.sampled_from([0.5, 1.0]))
numbers = st.lists(st.one_of(st.none(), st.floats(-4, 9), st.sampled_from([0.5, 2.0, 2.5])), max_size=8)
keeps = st.sampled_from(["first", "last"])
reduces = st.sampled_from(["mean", "sum"])
tables = st.sampled_from(["pre", "table"])
STRINGS = pa.list_(pa.string())

fast = settings(deadline=None, max_examples=30)


@functools.cache
def compiled(feature_json: str, kind: type[AnyFeature]) -> tuple[RawEncoder, Any]:
    feature = kind.model_validate_json(feature_json)
    with tempfile.TemporaryDirectory() as folder:
        encoder = RawEncoder([feature], HISTORIES, SPECS, TABLES, folder)
    specs = {name: tf.TensorSpec(given.spec.shape, given.dtype, name) for name, given in encoder.inputs.items()}
    return encoder, tf.function(encoder, input_signature=[specs], autograph=False)


def encode(feature: AnyFeature, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Encodes raw rows and checks the columns against the manifest's description."""
    encoder, function = compiled(feature.model_dump_json(), type(feature))
    specs = {name: given.spec for name, given in encoder.inputs.items()}
    found = {name: values.numpy() for name, values in function(raw_tensors(specs, rows)).items()}
    expected = encoded_columns(feature, SPECS)
    assert set(found) == set(expected)
    for name, spec in expected.items():
        assert found[name].shape == (len(rows), *spec.shape)
        assert found[name].dtype == spec.numpy_dtype
    return found


def reference(feature: AnyFeature, **columns: pa.Array) -> dict[str, np.ndarray]:
    """Returns what the samples' encoder makes of the columns."""
    encoded = encode_features(columns, [feature], TABLES)
    return {name: unpack(encoded[name], spec) for name, spec in encoded_columns(feature, SPECS).items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], values)
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


def check(feature: AnyFeature, values: Sequence[Any], kind: pa.DataType) -> None:
    """Checks that the values of a column encode as they do in the samples."""
    found = encode(feature, [{feature.name: value} for value in values])
    assert_same(found, reference(feature, **{feature.source_column: pa.array(values, kind)}))
