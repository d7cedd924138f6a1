"""conf/kuairand_full.yaml reads the full download: a made-up log in its files and columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dssm.manifest import read_manifest
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
    trained = (late["is_click"].eq(1) & late["time_ms"].lt(test_start)).sum() + earlier["long_view"].sum()
    assert read_manifest(str(samples / "train"), "").rows == trained
    assert read_manifest(str(samples / "test"), "").rows == late["time_ms"].ge(test_start).sum()
    assert read_manifest(str(samples / "items"), "").rows == 30
