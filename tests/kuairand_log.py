"""A made-up log in the files and columns of the KuaiRand-Pure download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

FEEDBACK = ["is_like", "is_follow", "is_comment", "is_forward", "is_hate"]
LOG = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", *FEEDBACK, "long_view", "play_time_ms",
       "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"]  # fmt: skip
USERS = ["user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
         "follow_user_num", "follow_user_num_range", "fans_user_num", "fans_user_num_range", "friend_user_num",
         "friend_user_num_range", "register_days", "register_days_range"]  # fmt: skip
VIDEOS = ["video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration",
          "server_width", "server_height", "music_id", "music_type", "tag"]  # fmt: skip
TASTES = 4  # users and videos are of one each; clicks follow them


def _log(rng: np.random.Generator, first_day: str, last_day: str, rows: int, users: int, videos: int) -> pd.DataFrame:
    begin, end = (pd.Timestamp(day, tz="Asia/Shanghai").value // 10**6 for day in (first_day, last_day))
    log = pd.DataFrame(0, index=range(rows), columns=LOG)
    log["user_id"], log["video_id"] = rng.integers(0, users, rows), rng.integers(0, videos, rows)
    log["time_ms"] = rng.integers(begin, end, rows)
    liked = np.where(log["user_id"] % TASTES == log["video_id"] % TASTES, 0.8, 0.1)
    log["is_click"], log["long_view"] = (np.int64(rng.random(rows) < liked) for _ in range(2))
    return log


def write_download(
    folder: Path, users: int = 40, videos: int = 30, earlier_rows: int = 500, rows: int = 700
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes the logs, users and videos. Returns: the log of 8–21 April, and that of 22 April to 8 May."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    earlier = _log(rng, "2022-04-08", "2022-04-22", earlier_rows, users, videos)
    late = _log(rng, "2022-04-22", "2022-05-09", rows, users, videos)
    earlier.to_csv(folder / "log_standard_4_08_to_4_21_pure.csv", index=False)
    late.to_csv(folder / "log_standard_4_22_to_5_08_pure.csv", index=False)
    people = pd.DataFrame(1, index=range(users), columns=USERS).assign(user_id=range(users))
    people.to_csv(folder / "user_features_pure.csv", index=False)
    catalogue = pd.DataFrame(1, index=range(videos), columns=VIDEOS).assign(video_id=range(videos), tag="3,5")
    catalogue.to_csv(folder / "video_features_basic_pure.csv", index=False)
    return earlier, late
