"""Weights as texts of any length: the raw encoder against Python's own parser and the samples' encoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.features import VarLenSparseFeat
from dssm.manifest import encoded_columns
from dssm.model.export import raw_tensors
from dssm.model.raw.encoder import RawEncoder
from dssm.model.raw.strings import parsed
from dssm.packing import unpack
from dssm.samples.encoding import Tables, encode_features

FEATURE = VarLenSparseFeat(name="f", side="user", maxlen=6, weighted=True)
TABLES = Tables(vocabularies={"f": pa.array(["a", "b", "c"])})
MANY = 40 * "0"

numbers = st.from_regex(r"[-+]?([0-9]{1,60}\.?[0-9]{0,60}|\.[0-9]{1,60})([eE][-+]?[0-9]{1,40})?", fullmatch=True)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(numbers, max_size=6))
def test_numbers_of_any_length(texts: list[str]) -> None:
    found = parsed(tf.constant(texts, tf.string, shape=[len(texts)])).numpy()
    np.testing.assert_allclose(found, [float(text) for text in texts], rtol=1e-15, atol=1e-300)


def test_what_is_no_number_stays_none() -> None:
    texts = ["x" * 40, f"1{MANY}x", f"{MANY} 1", f"0x{MANY}", "", f" \t{MANY}7 "]
    found = parsed(tf.constant(texts)).numpy()
    assert np.isnan(found[:5]).all()
    assert found[5] == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "number"),
    [
        (f"0.{MANY}1", 1e-41), (f"{MANY}1", 1.0), (f"-{MANY}.5{MANY}", -0.5), (f"1{30 * '0'}.25", 1e30),
        ("0." + 20 * "3", 1 / 3), (f"{MANY}12e-{MANY}1", 1.2), ("123456789" * 4, 1.2345678912345679e35),
        (f"1{MANY}e-40", 1.0), (f"0.{MANY}1e41", 1.0), (MANY, 0.0),
    ],
)  # fmt: skip
def test_a_long_weight_is_that_of_the_samples(weight: str, number: float, tmp_path: str) -> None:
    entries = ["a:0.5", f"b:{weight}", "c:2"]
    encoder = RawEncoder([FEATURE], {}, {}, TABLES, str(tmp_path))
    specs = {name: given.spec for name, given in encoder.inputs.items()}
    signature = {n: tf.TensorSpec(s.shape, s.dtype, n) for n, s in specs.items()}
    function = tf.function(encoder, input_signature=[signature], autograph=False)
    found = {name: values.numpy() for name, values in function(raw_tensors(specs, [{"f": entries}])).items()}
    encoded = encode_features({"f": pa.array([entries])}, [FEATURE], TABLES)
    expected = {name: unpack(encoded[name], spec) for name, spec in encoded_columns(FEATURE, {}).items()}
    assert found["f"].tolist() == expected["f"].tolist() == [[2, 3, 4, 0, 0, 0]]
    # TensorFlow takes what float32 holds only with fewer digits, below 1e-38, as 0.
    np.testing.assert_allclose(found[FEATURE.weight_name], expected[FEATURE.weight_name], rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(found[FEATURE.weight_name][0, 1], number, rtol=1e-6, atol=1e-38)


def test_a_weight_beyond_float32_is_left_out(tmp_path: str) -> None:
    """The samples put such a row aside."""
    encoder = RawEncoder([FEATURE], {}, {}, TABLES, str(tmp_path))
    specs = {name: given.spec for name, given in encoder.inputs.items()}
    entries = [f"a:1{MANY}", "b:2", f"c:1e{MANY}99"]
    assert encoder(raw_tensors(specs, [{"f": entries}]))["f"].numpy().tolist() == [[3, 0, 0, 0, 0, 0]]
