"""conf/kuairand_full.yaml reads the full download: a made-up log in its files and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dssm.manifest import read_manifest
from tests.pipeline import Pipeline

pytestmark = [pytest.mark.spark]

FEEDBACK = ["is_like", "is_follow", "is_comment", "is_forward", "is_hate"]
LOG = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", *FEEDBACK, "long_view", "play_time_ms",
       "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"]  # fmt: skip
USERS = ["user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
         "follow_user_num", "follow_user_num_range", "fans_user_num", "fans_user_num_range", "friend_user_num",
         "friend_user_num_range", "register_days", "register_days_range"]  # fmt: skip
VIDEOS = ["video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration",
          "server_width", "server_height", "music_id", "music_type", "tag"]  # fmt: skip


def _log(rng: np.random.Generator, first_day: str, last_day: str, rows: int) -> pd.DataFrame:
    begin, end = (pd.Timestamp(day, tz="Asia/Shanghai").value // 10**6 for day in (first_day, last_day))
    log = pd.DataFrame(0, index=range(rows), columns=LOG)
    log["user_id"], log["video_id"] = rng.integers(0, 40, rows), rng.integers(0, 30, rows)
    log["time_ms"] = rng.integers(begin, end, rows)
    log["is_click"], log["long_view"] = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    return log


def test_the_full_download_is_read_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    earlier, late = _log(rng, "2022-04-08", "2022-04-22", 500), _log(rng, "2022-04-22", "2022-05-09", 700)
    earlier.to_csv(data / "log_standard_4_08_to_4_21_pure.csv", index=False)
    late.to_csv(data / "log_standard_4_22_to_5_08_pure.csv", index=False)
    users = pd.DataFrame(1, index=range(40), columns=USERS).assign(user_id=range(40))
    users.to_csv(data / "user_features_pure.csv", index=False)
    videos = pd.DataFrame(1, index=range(30), columns=VIDEOS).assign(video_id=range(30), tag="3,5")
    videos.to_csv(data / "video_features_basic_pure.csv", index=False)

    pipeline = Pipeline("conf/kuairand_full.yaml", "kuairand_full", tmp_path / "runs", [f"data={data}"])
    pipeline.succeed("build_samples")

    samples = pipeline.run_folder("2022-05-01") / "samples"
    test_start = pd.Timestamp("2022-05-01", tz="Asia/Shanghai").value // 10**6
    trained = (late["is_click"].eq(1) & late["time_ms"].lt(test_start)).sum() + earlier["long_view"].sum()
    assert read_manifest(str(samples / "train"), "").rows == trained
    assert read_manifest(str(samples / "test"), "").rows == late["time_ms"].ge(test_start).sum()
    assert read_manifest(str(samples / "items"), "").rows == 30
