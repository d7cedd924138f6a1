"""The work that every side does on the same Parquet files, and the names the peers share.

A row an event (or, with --rows positives, a click): the user's profile and the item's catalogue columns as
encoded ids and numbers, the user's last 50 clicks strictly before it, and for a click four negatives in
proportion to popularity^0.75 that the user did not click in the training window. Vocabularies and popularity
are those of the training window.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

DATE, TIMEZONE = dt.date(2022, 5, 8), "Asia/Shanghai"  # of a log from 25 April to 8 May: all but its last day trains
SPLIT_MS = int(dt.datetime(DATE.year, DATE.month, DATE.day, tzinfo=ZoneInfo(TIMEZONE)).timestamp()) * 1000

HISTORY = 50
NEGATIVES = 4
EXPONENT = 0.75

# Columns of the ids in profile and catalogue, each with its min_count; numbers; and the list, as in the catalogue.
USER_ID, USER_MIN_COUNT = "user_id", 2
USER_SPARSE = ("user_active_degree", "follow_user_num_range", "fans_user_num_range", "register_days_range")
USER_DENSE = "register_days"
ITEM_ID = "video_id"
AUTHOR, AUTHOR_MIN_COUNT = "author_id", 5
ITEM_SPARSE = ("upload_type", "music_type")
ITEM_DENSE = "video_duration"
TAGS, TAGS_KEPT = "tag", 3

POSITIVES, ALL = "positives", "all"  # what becomes a row: each click, or each event (then clicks have negatives)
THREADS = 2
