"""A tiny KuaiRand: what bench-samples reads, for its tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.samples.task import SPLIT_MS, USER_SPARSE


def a_log(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, 9, rows),
            "video_id": rng.integers(0, 30, rows),
            "time_ms": np.sort(SPLIT_MS + rng.integers(-10_000_000, 1_000_000, rows)),
            "is_click": rng.integers(0, 2, rows),
            "long_view": 0,
        }
    )


def write_kuairand(folder: Path) -> Path:
    """Writes files of KuaiRand's columns: user 0 clicks 80 times at distinct times, the others meet ties."""
    folder.mkdir()
    log = a_log(300)
    log["time_ms"] = log["time_ms"] // 2_000_000 * 2_000_000
    log["user_id"] += 1
    heavy = pd.DataFrame({"user_id": 0, "video_id": np.arange(80) * 7 % 30, "is_click": 1, "long_view": 0})
    heavy["time_ms"] = SPLIT_MS - 9_000_000 + 1_000 * np.arange(80)
    pd.concat([log, heavy]).sort_values("time_ms").to_csv(folder / "events.csv.gz", index=False)
    texts = {name: ["a", None, "b"] * 4 for name in USER_SPARSE}
    pd.DataFrame({"user_id": range(12), "register_days": range(12), **texts}).to_csv(
        folder / "users.csv.gz", index=False
    )
    pd.DataFrame(
        {
            "video_id": range(30),
            "author_id": np.arange(30) // 3,
            "upload_type": ["Web", "Kmovie", None] * 10,
            "music_type": [9.0, None, 4.0] * 10,
            "video_duration": [1000.0, None, 5000.0] * 10,
            "tag": ["39", "2,1,39,7", None] * 10,
        }
    ).to_csv(folder / "videos.csv", index=False)
    return folder
