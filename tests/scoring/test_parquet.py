from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.scoring.parquet import CREATED_BY, Kind, VectorWriter, plain_texts, read_matrices, varint

COLUMNS: dict[str, Kind] = {
    "id": "text", "floats": "floats", "bytes": "bytes", "scale": "float", "halves": "halves", "version": "constant",
}  # fmt: skip
NUMBERS = ("floats", "bytes", "scale", "halves")


def draw(rows: int, width: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "id": pa.array(["é" * int(n) + str(n) for n in random.integers(0, 5, rows)], pa.string()),
        "floats": random.normal(size=(rows, width)).astype(np.float32),
        "bytes": random.integers(-128, 128, (rows, width), np.int8),
        "scale": random.normal(size=rows).astype(np.float32),
        "halves": random.normal(size=(rows, width)).astype(np.float16),
        "version": "v é",
    }


def written(groups: list[dict[str, Any]], columns: dict[str, Kind]) -> bytes:
    file = io.BytesIO()
    writer = VectorWriter(file, columns)
    for group in groups:
        writer.write(group, len(group["id"]))
    writer.close()
    assert writer.size == len(file.getvalue())
    assert writer.rows == sum(len(group["id"]) for group in groups)
    return file.getvalue()


@given(rows=st.lists(st.integers(1, 40), max_size=4), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_pyarrow_reads_what_was_written(rows: list[int], width: int, seed: int) -> None:
    groups = [draw(count, width, seed + number) for number, count in enumerate(rows)]
    content = written(groups, COLUMNS)
    table = pq.read_table(io.BytesIO(content))
    table.validate(full=True)
    assert table.column_names == list(COLUMNS)
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == len(rows)
    assert table.schema.field("bytes").type.value_type == pa.int8()
    assert table.schema.field("floats").type.value_type == pa.float32()
    assert table["id"].to_pylist() == [text for group in groups for text in group["id"].to_pylist()]
    assert table["version"].to_pylist() == ["v é"] * sum(rows)
    for name in ("floats", "bytes"):
        assert table[name].to_pylist() == [row for group in groups for row in group[name].tolist()]
    assert table["scale"].to_pylist() == [value for group in groups for value in group["scale"].tolist()]
    assert table["halves"].to_pylist() == [row.tobytes() for group in groups for row in group["halves"]]


@given(rows=st.lists(st.integers(1, 40), max_size=3), width=st.integers(1, 70))
def test_values_are_read_from_their_places(rows: list[int], width: int) -> None:
    groups = [draw(count, width, number) for number, count in enumerate(rows)]
    content = written(groups, COLUMNS)
    found = read_matrices(content, {name: (COLUMNS[name], width) for name in NUMBERS})
    for name in NUMBERS:
        expected = np.concatenate([np.empty_like(draw(0, width, 0)[name]), *(group[name] for group in groups)])
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_files_of_others_are_refused() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"scale": pa.array([1.0], pa.float32())}), file)
    with pytest.raises(ValueError, match=f"written by parquet-cpp-arrow .*, not by {CREATED_BY[:4]}"):
        read_matrices(file.getvalue(), {"scale": ("float", 1)})
    content = written([draw(3, 4, 0)], COLUMNS)
    with pytest.raises(ValueError, match="no column 'other'"):
        read_matrices(content, {"other": ("float", 1)})
    with pytest.raises(ValueError, match="12 values in 3 rows, expected 5 a row"):
        read_matrices(content, {"floats": ("floats", 5)})


def test_duckdb_reads_it_as_well(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    group = draw(30, 6, 1)
    path = tmp_path / "a.parquet"
    path.write_bytes(written([group, draw(5, 6, 2)], COLUMNS))
    rows = duckdb.sql(f"select id, floats, bytes, scale, version from '{path}' limit 30").fetchall()
    assert [row[0] for row in rows] == group["id"].to_pylist()
    assert [list(row[1]) for row in rows] == group["floats"].tolist()
    assert [list(row[2]) for row in rows] == group["bytes"].tolist()
    assert {row[4] for row in rows} == {"v é"}


@given(st.lists(st.text(max_size=6), max_size=8), st.integers(0, 8))
def test_texts_stand_behind_their_lengths(texts: list[str], first: int) -> None:
    expected = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts[first:])
    assert plain_texts(pa.array(texts, pa.string())[first:]).tobytes() == expected


@given(st.integers(0, 2**40))
def test_varint(number: int) -> None:
    found = 0
    for place, part in enumerate(varint(number)):
        assert (part < 0x80) == (place == len(varint(number)) - 1)
        found |= (part & 0x7F) << 7 * place
    assert found == number
