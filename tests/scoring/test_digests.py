from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.scoring.digests import WORDS_AT_ONCE, id_keys, row_digests
from dssm.scoring.tasks import distinct_keys


def draw(rows: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "id": random.integers(0, 1000, rows, np.int32),
        "list": random.integers(0, 9, (rows, 5), np.int32),
        "vector": random.normal(size=(rows, 3)).astype(np.float32),
    }


@given(
    row=st.integers(0, 49),
    place=st.sampled_from([("id", ()), ("list", (0,)), ("list", (4,)), ("vector", (2,))]),
    bit=st.integers(0, 31),
)
def test_any_bit_of_a_row_changes_its_digest_alone(row: int, place: tuple[str, tuple[int, ...]], bit: int) -> None:
    columns = draw()
    before = row_digests(columns)
    name, index = place
    columns[name].view(np.uint32)[(row, *index)] ^= np.uint32(1 << bit)
    after = row_digests(columns)
    assert np.flatnonzero(before != after).tolist() == [row]


def test_no_two_patterns_of_signs_have_the_same_digest() -> None:
    """The highest bits of neighbouring words: weaker mixtures lose them, or let one undo the other."""
    patterns = np.array([list(np.ndindex(2, 2, 2, 2, 2, 2, 2, 2, 2, 2))]).reshape(-1, 10)
    rows = np.ones((len(patterns), 40), np.float32)
    rows[:, 15:25] -= 2 * patterns
    assert len(set(row_digests({"vector": rows}).tolist())) == 1024


def test_a_digest_is_of_the_row_alone() -> None:
    columns = draw(WORDS_AT_ONCE + 100)
    whole = row_digests(columns)
    assert len(set(whole.tolist())) == WORDS_AT_ONCE + 100
    some = np.array([WORDS_AT_ONCE + 7, 3, WORDS_AT_ONCE])
    reversed_names = {name: columns[name][some] for name in reversed(columns)}
    np.testing.assert_array_equal(row_digests(reversed_names), whole[some])
    np.testing.assert_array_equal(
        row_digests({k: v[:, ::-1][:, ::-1] if v.ndim > 1 else v for k, v in columns.items()}), whole
    )


def test_values_do_not_move_between_columns() -> None:
    one = {"a": np.array([[1], [2]], np.int64), "b": np.array([[2], [1]], np.int64)}
    digests = row_digests(one)
    assert digests[0] != digests[1]


@given(st.lists(st.text(alphabet="ab\0é", max_size=20), max_size=30))
def test_keys_are_equal_where_the_ids_are(ids: list[str]) -> None:
    keys = id_keys(pa.array(ids, pa.string())).tolist()
    assert len(keys) == len(ids)
    assert len(set(keys)) == len(set(ids))
    assert dict(zip(ids, keys, strict=True)) == dict(zip(reversed(ids), reversed(keys), strict=True))


@given(st.lists(st.text(max_size=12), min_size=1, max_size=10), st.data())
def test_a_key_is_of_the_id_alone(ids: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(ids)))
    whole = pa.array(ids, pa.string())
    np.testing.assert_array_equal(id_keys(whole[first:]), id_keys(whole)[first:])


def test_any_column_has_digests() -> None:
    """Of one word and of many more than are taken at once, of any type and layout; of no row, and of no number."""
    random = np.random.default_rng(3)
    columns = {
        "flag": random.random(9) < 0.5,
        "half": random.normal(size=(9, 3)).astype(np.float16),
        "double": random.normal(size=(9, 2, 2)),
        "wide": random.integers(0, 9, (9, 2 * WORDS_AT_ONCE + 1), np.int64),
        "nothing": np.empty((9, 0), np.float32),
    }
    whole = row_digests(columns)
    assert len(set(whole.tolist())) == 9
    np.testing.assert_array_equal(row_digests({n: np.asfortranarray(v) for n, v in columns.items()}), whole)
    np.testing.assert_array_equal(row_digests({n: v[4:5] for n, v in columns.items()}), whole[4:5])
    assert row_digests({n: v[:0] for n, v in columns.items()}).tolist() == []


def test_keys_are_counted_in_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    keys = random.integers(-(2**63), 2**63 - 1, 300)
    parts = [keys[:200], keys[100:]]  # a hundred stand twice
    for number, part in enumerate(parts):
        pq.write_table(pa.table({"key": part}), tmp_path / f"{number}.parquet")
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    assert distinct_keys(paths, 400) == 300
    monkeypatch.setattr("dssm.scoring.tasks.KEYS_AT_ONCE", 30)
    assert distinct_keys(paths, 400) == 300
