"""Lists of weighted ids, and the entries that stay of a list that is too long."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import VarLenSparseFeat
from tests.samples.encoded import STRINGS, TWO_COLUMNS, WEIGHTED, blank, cut, encode, id_of, kept, padded, tokens

numbers = st.floats(-100, 100, width=32)
weighted_lists = st.lists(st.tuples(tokens, numbers), max_size=6)


@given(values=st.lists(st.one_of(st.none(), weighted_lists), max_size=8), cut=cut, as_text=st.booleans())
def test_a_weighted_list(values: list[list[tuple[str, float]] | None], cut: tuple[int, int], as_text: bool) -> None:
    entries = [v if v is None else [f" {token}:{weight!r} " for token, weight in v] for v in values]
    if as_text:
        column = pa.array([v if v is None else ",".join(v) for v in entries], pa.string())
    else:
        column = pa.array(entries, STRINGS)
    found = encode(WEIGHTED, column.slice(*cut))
    kept = [v or [] for v in values[cut[0] : cut[0] + cut[1]]]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in v], 3) for v in kept]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in v], 3) for v in kept]


def test_the_last_colon_parts_id_from_weight() -> None:
    found = encode(WEIGHTED, pa.array(["b:c:0.5, a : +2 ,,x\ny:.5"]))
    assert found["f"].tolist() == [[2, 3, 1]]
    assert found["f__weight"].tolist() == [[0.5, 2.0, 0.5]]


paired = st.tuples(
    st.lists(st.one_of(st.none(), tokens, blank), max_size=6),
    st.lists(st.one_of(st.none(), numbers), max_size=6),
)


@given(rows=st.lists(paired, max_size=6), cut=cut, kinds=st.tuples(*[st.sampled_from(["text", "array"])] * 2))
def test_weights_in_a_column_of_their_own(
    rows: list[tuple[list[str | None], list[float | None]]], cut: tuple[int, int], kinds: tuple[str, str]
) -> None:
    if kinds[0] == "array":
        ids = pa.array([ids for ids, _ in rows], pa.list_(pa.string()))
    else:
        ids = pa.array([",".join(entry or "" for entry in ids) for ids, _ in rows], pa.string())
    if kinds[1] == "array":
        weights = pa.array([weights for _, weights in rows], pa.list_(pa.float64()))
    else:
        texts = [",".join("" if entry is None else f" {entry!r}" for entry in weights) for _, weights in rows]
        weights = pa.array(texts, pa.string())
    found = encode(TWO_COLUMNS, ids.slice(*cut), w=weights.slice(*cut))
    pairs = [
        [(i, w) for i, w in zip(ids, weights, strict=False) if i and i.strip() and w is not None]
        for ids, weights in rows[cut[0] : cut[0] + cut[1]]
    ]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in row], 3) for row in pairs]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in row], 3) for row in pairs]


def test_weights_as_a_list_of_texts_and_as_one_number() -> None:
    found = encode(TWO_COLUMNS, pa.array([["a", "007"]]), w=pa.array([[" 1.5", "2"]]))
    assert (found["f"].tolist(), found["f__weight"].tolist()) == ([[3, 4, 0]], [[1.5, 2.0, 0]])
    found = encode(TWO_COLUMNS, pa.array(["a,007", None]), w=pa.array([3, 4]))
    assert (found["f"].tolist(), found["f__weight"].tolist()) == ([[3, 0, 0], [0, 0, 0]], [[3.0, 0, 0], [0, 0, 0]])


few_weights = st.lists(st.tuples(tokens, st.sampled_from([-1.0, 0.5, 2.0, 3.0])), max_size=9)


@given(rows=st.lists(few_weights, max_size=6), maxlen=st.integers(1, 5), keep=st.sampled_from(["last", "heaviest"]))
def test_the_last_or_the_heaviest_entries_stay(rows: list[list[tuple[str, float]]], maxlen: int, keep: str) -> None:
    feature = VarLenSparseFeat(name="f", side="user", maxlen=maxlen, weighted=True, keep=keep)
    found = encode(feature, pa.array([[f"{token}:{weight}" for token, weight in row] for row in rows], STRINGS))
    stay = [kept(row, [weight for _, weight in row], maxlen, keep) for row in rows]
    assert found["f"].tolist() == [padded([id_of(token) for token, _ in row], maxlen) for row in stay]
    assert found["f__weight"].tolist() == [padded([weight for _, weight in row], maxlen) for row in stay]


def test_the_last_ids_of_a_list_stay() -> None:
    feature = VarLenSparseFeat(name="f", side="user", maxlen=2, keep="last")
    assert encode(feature, pa.array(["b:c,a,007,", "a"]))["f"].tolist() == [[3, 4], [3, 0]]
