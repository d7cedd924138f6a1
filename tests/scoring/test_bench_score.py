from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import score as bench
from dssm.manifest import check_columns, read_manifest
from dssm.packing import unpack_all
from dssm.paths import RunPaths
from dssm.scoring.digests import id_keys, row_digests

ITEMS = 2 * bench.FILE_ROWS + 100


def read(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the keys and digests of a dataset's items."""
    manifest = read_manifest(folder, "bench")
    columns = bench.columns_of(bench.settings_of(Path(), ()))
    check_columns(manifest, columns, folder)
    keys, digests = [], []
    for file in manifest.files:
        (batch,) = pq.read_table(f"{folder}/{file.name}").combine_chunks().to_batches()
        assert batch.num_rows == file.rows
        keys.append(id_keys(batch.column("row__item_id")))
        digests.append(row_digests(unpack_all(batch, columns)))
    return np.concatenate(keys), np.concatenate(digests)


def test_one_per_cent_of_the_items_change(tmp_path: Path) -> None:
    settings = bench.settings_of(tmp_path, bench.LAYERS["demo"])
    folder = RunPaths(settings.run_folder).part("items")
    bench.write_items(settings, ITEMS, "first")
    keys, digests = read(folder)
    assert len(set(keys.tolist())) == ITEMS
    bench.write_items(settings, ITEMS, "second", bench.CHANGED)
    later_keys, later = read(folder)
    np.testing.assert_array_equal(later_keys, keys)
    assert (later != digests).mean() == pytest.approx(bench.CHANGED, rel=0.2)


def test_the_ratios(kept_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.Found(
        {"": bench.Seconds(9, 10, 0.5), "demo": bench.Seconds(3, 4, 1)}, {10: 100 * bench.MIB, 100: 110 * bench.MIB}
    )
    bench.show(found, 1000, keep=True)
    assert json.loads((kept_in / "score.json").read_text())["ratios"] == {
        "vs_bare_tower": 0.9, "incremental_1pct": 0.05, "vs_bare_tower_demo": 0.75, "incremental_1pct_demo": 0.25,
        "memory_10x_items": 1.1,
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "score_items, layers 1024–512–256" in printed
    assert "110 MiB" in printed
    assert bench.kept() == found


def test_a_part_goes_beside_those_that_are_kept(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {bench.LAYERS[""]: bench.Seconds(9, 10, 0.5), bench.LAYERS["demo"]: bench.Seconds(3, 4, 1)}
    monkeypatch.setattr(bench, "measure", lambda folder, layers, items, rounds: folder.mkdir() or measured[layers])
    monkeypatch.setattr(bench, "memory", lambda folder, items: folder.mkdir() or 7 * items)
    assert bench.kept() == bench.Found({}, {})
    for part in ("memory", "demo-tower", "tower"):
        bench.main(["--only", part])
    found = bench.kept()
    assert list(found.seconds) == ["", "demo"]
    bench.main([])
    assert (
        bench.kept()
        == found
        == bench.Found(
            {"": measured[1024, 512, 256], "demo": measured[256, 128]}, {500_000: 3_500_000, 5_000_000: 35_000_000}
        )
    )
    bench.main(["--items", "5"])
    assert json.loads((kept_in / "score.json").read_text())["ratios"]["memory_10x_items"] == 10
