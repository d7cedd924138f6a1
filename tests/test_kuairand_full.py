"""conf/kuairand_full.yaml reads the full download: a made-up log in its files and columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dssm.manifest import LABEL, data_files, read_manifest
from tests.kuairand_log import write_download
from tests.pipeline import Pipeline

pytestmark = [pytest.mark.spark]


def test_the_full_download_is_read_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    earlier, late = write_download(data)

    pipeline = Pipeline("conf/kuairand_full.yaml", "kuairand_full", tmp_path / "runs", [f"data={data}"])
    pipeline.succeed("build_samples")

    samples = pipeline.run_folder("2022-05-01") / "samples"
    test_start = pd.Timestamp("2022-05-01", tz="Asia/Shanghai").value // 10**6
    before = late[late["time_ms"].lt(test_start)]
    manifest = read_manifest(str(samples / "train"), "")
    assert manifest.rows == len(earlier) + len(before)  # each impression is a row
    labels = pq.read_table(data_files(str(samples / "train"), manifest), columns=[LABEL])[LABEL]
    assert pc.sum(labels).as_py() == earlier["long_view"].sum() + before["is_click"].sum()
    assert read_manifest(str(samples / "test"), "").rows == late["time_ms"].ge(test_start).sum()
    assert read_manifest(str(samples / "items"), "").rows == 30
