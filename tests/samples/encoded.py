"""Raw columns, what they are looked up in, and plain Python's word on what they become."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dssm.features import AnyFeature, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.manifest import Statistics, encoded_columns
from dssm.packing import unpack
from dssm.samples.encoding import encode_features
from dssm.samples.lookup_tables import Tables, Vectors
from dssm.sections import VectorTable

TOKENS = ["b:c", "a", "007", "é日"]
VECTORS = {"a": [1.0, 2.0], "b:c": [-3.0, 0.5], "é日": [0.25, 4.0]}
STATISTICS = Statistics(events=9, mean=2.0, deviation=4.0, minimum=-1.0, maximum=7.0, boundaries=(0.5, 2.0, 2.5))
SPECS = {
    "pre": VectorTable(path="-", width=2),
    "table": VectorTable(path="-", width=2, storage="table"),
}
VECTOR_TABLE = Vectors(pa.array(list(VECTORS)), np.array(list(VECTORS.values()), np.float32))
TABLES = Tables(
    vocabularies={"f": pa.array(TOKENS)},
    buckets={"hashed": 11, "text": 7},
    statistics={"f": STATISTICS},
    vectors={"pre": VECTOR_TABLE, "table": VECTOR_TABLE},
    storage={name: spec.storage for name, spec in SPECS.items()},
)

SPARSE = SparseFeat(name="f", side="item")
LIST = VarLenSparseFeat(name="f", side="user", maxlen=3)
WEIGHTED = VarLenSparseFeat(name="f", side="user", maxlen=3, weighted=True)
TWO_COLUMNS = VarLenSparseFeat(name="f", side="user", maxlen=3, weighted=True, weight_column="w")
TEXT = TextFeat(name="text", side="item", maxlen=4, hash_buckets=7)


def encode(feature: AnyFeature, column: pa.Array, **others: pa.Array) -> dict[str, np.ndarray]:
    """Encodes one column and checks it against the manifest's description."""
    encoded = encode_features({feature.source_column: column, **others}, [feature], TABLES)
    specs = encoded_columns(feature, SPECS)
    assert set(encoded) == set(specs)
    for name, spec in specs.items():
        assert len(encoded[name]) == len(column)
        assert encoded[name].null_count == 0
        assert encoded[name].type == (pa.binary() if spec.encoding == "packed" else pa.type_for_alias(spec.dtype))
    return {name: unpack(encoded[name], spec) for name, spec in specs.items()}


def id_of(token: str | None) -> int:
    return TOKENS.index(token) + 2 if token in TOKENS else 1


def entries_of(value: str | Sequence[str | None] | None, separator: str = ",") -> list[str]:
    parts = value.split(separator) if isinstance(value, str) else value or []
    return [part.strip() for part in parts if part is not None and part.strip()]


def padded(values: Sequence[float], width: int) -> list[float]:
    return [*values[:width], *[0] * (width - len(values))]


def kept(entries: Sequence, weights: Sequence[float], maxlen: int, keep: str) -> list:
    """What stays of a list, by sorting; its order stays."""
    places = list(range(len(entries)))
    if keep == "last":
        places = places[-maxlen:]
    elif keep == "heaviest":
        places = sorted(sorted(places, key=lambda place: -weights[place])[:maxlen])
    return [entries[place] for place in places[:maxlen]]


tokens = st.sampled_from([*TOKENS, "unknown", "7"])
blank = st.sampled_from(["", " ", "\t"])
lists = st.lists(st.one_of(tokens, tokens.map(lambda t: f" {t}\t"), blank), max_size=6)
cut = st.tuples(st.integers(0, 8), st.integers(0, 8))
STRINGS = pa.list_(pa.string())
