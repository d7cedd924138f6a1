from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import stream as bench
from dssm.manifest import WEIGHT
from dssm.packing import unpack
from dssm.stream.reader import read_files

pytestmark = pytest.mark.slow

ROWS = 20_000  # a file and a quarter


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> bench.FileSet:
    return bench.write(tmp_path_factory.mktemp("stream"), ROWS)


def test_the_formats_hold_the_same_rows(files: bench.FileSet) -> None:
    assert [file.rows for file in files.manifest.files] == [16_000, 4_000]
    packed, lists = (pq.read_table(files.paths(kind)[1]) for kind in ("packed", "lists"))
    fields = {
        name: tf.io.FixedLenFeature(spec.shape, tf.float32 if spec.dtype == "float32" else tf.int64)
        for name, spec in files.manifest.columns.items()
    }
    records = list(tf.data.TFRecordDataset(files.paths("tfrecord", "tfrecord")[1]))
    parsed = tf.io.parse_example(records, fields)

    assert len(records) == 4_000
    for name, spec in files.manifest.columns.items():
        expected = unpack(packed.column(name).chunk(0), spec)
        assert expected.shape == (4_000, *spec.shape)
        np.testing.assert_array_equal(np.array(lists.column(name).to_pylist()), expected)
        np.testing.assert_array_equal(parsed[name], expected)


def test_a_record_is_what_protobuf_makes_of_the_row() -> None:
    drawn = bench.draw(3, 4)
    for row, record in enumerate(bench.records(drawn)):
        found = tf.train.Example.FromString(record.tobytes()).features.feature
        assert set(found) == set(drawn)
        assert len(record) == tf.train.Example.FromString(record.tobytes()).ByteSize()
        for name, values in drawn.items():
            kind = "float_list" if name == WEIGHT else "int64_list"
            assert list(getattr(found[name], kind).value) == np.atleast_1d(values[row]).tolist()


@given(st.lists(st.integers(bench.IDS[0], bench.IDS[1] - 1), min_size=1, max_size=6))
def test_varints_are_protobufs(values: list[int]) -> None:
    whole = tf.train.Int64List(value=values).SerializeToString()
    assert bench.varints(np.array([values], np.int32)).tobytes() == whole[-3 * len(values) :]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm's own reader stands on PyArrow's legacy datasets
def test_every_side_reads_all_rows(files: bench.FileSet) -> None:
    found = bench.costs(files, rounds=1)
    assert list(found) == [bench.OURS, bench.LISTS, bench.TFRECORD, bench.PYARROW]
    assert all(cost.wall_s > 0 for cost in found.values())


def test_a_side_that_reads_too_little_is_an_error(files: bench.FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDES", {"half": lambda files: ROWS // 2})
    with pytest.raises(RuntimeError, match="half: 10000 rows read, 20000 written"):
        bench.costs(files, rounds=1)


def test_the_rows_written_for_memory_are_packed_alone(tmp_path: Path) -> None:
    manifest = bench.write(tmp_path, 10, peers=False).manifest
    assert [folder.name for folder in tmp_path.iterdir()] == ["packed"]
    (arrays,) = read_files(f"{tmp_path}/packed", manifest.files, manifest.columns)
    np.testing.assert_array_equal(arrays["list_5"], bench.draw(0, 10)["list_5"])


def test_the_best_of_each_side_makes_the_ratios(kept_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(zip(bench.SIDES, map(bench.Cost, (2.0, 5.0, 6.0, 0.5), (1.0, 2.0, 3.0, 4.0)), strict=True))
    held = [bench.Memory(100 * bench.MIB, 140 * bench.MIB), bench.Memory(90 * bench.MIB, 140 * bench.MIB)]
    bench.show(found, held, 0.004, 1_000_000, keep=True)
    kept = json.loads((kept_in / "stream.json").read_text())

    assert kept["ratios"] == {
        "vs_petastorm_lists": 2.5, "vs_tfrecord": 3.0, "vs_pyarrow": 0.25, "memory_4x_rows": 1.25,
        "input_wait": 0.004,
    }  # fmt: skip
    assert kept["rows"][0][1:] == ["500,000", "1.00", "1.00", ""]
    assert kept["rows"][-1] == ["this reader's memory, 4,000,000 rows", "", "", "", "140 MiB, +50"]
    assert "vs_tfrecord: 3.00" in capsys.readouterr().out


def test_the_memory_of_another_process_is_measured(tmp_path: Path) -> None:
    bench.write(tmp_path, 10, peers=False)
    found = bench.memory(tmp_path)
    assert 100 * bench.MIB < found.before <= found.peak < 4096 * bench.MIB
