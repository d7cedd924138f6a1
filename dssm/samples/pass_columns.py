"""The columns of the rows that go into the user pass, and of those that come out."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from dssm.manifest import EVENT_TIME, ITEM_INDEX, LABEL, SOURCE, USER_ID, USER_KEY, WEIGHT, target_column

# Columns of the rows that come in: an event, or (KIND ≥ 0) a row of that profile, seen from EVENT_TIME on.
KIND, FATE_CODE, IN_LOG, HASH, WORDS = "__kind", "__fate_code", "__in_log", "__hash", "__words"
EVENT = -1
NO_SAMPLE, TRAIN_ROW, TEST_ROW = 0, 1, 2
CLICK_ONLY = 3  # a positive before its item's upload: nothing knows it, but its item is no negative of the user
# Columns of the rows that go out, beside those of a sample.
TASK, FILE, ORDER, WARM_USER = "__task", "__file", "__order", "__warm"
DRAWN, PROBABILITY = "__negatives", "__negative_probability"
CLICKED_ITEMS = "__clicked"
SEEN_ITEMS, SEEN_POSITIVE, SEEN_TARGETS, SEEN_TIME = "__seen", "__seen_positive", "__seen_targets", "__seen_time"


def history_column(name: str) -> str:
    return f"__history_{name}"


def input_fields(targets: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    """Returns the columns that the user pass reads; WORDS are a profile's, what ITEM_INDEX begins an event's."""
    fields = [(USER_ID, pa.string()), (USER_KEY, pa.int64()), (KIND, pa.int32()), (EVENT_TIME, pa.int64())]
    fields += [(WORDS, pa.binary()), (ITEM_INDEX, pa.int32()), (SOURCE, pa.int32()), (LABEL, pa.float32())]
    fields += [(WEIGHT, pa.float32()), *((target_column(t), pa.float32()) for t in targets)]
    return [*fields, (FATE_CODE, pa.int32()), (IN_LOG, pa.bool_()), (HASH, pa.int64())]


def output_fields(targets: Iterable[str], histories: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    """Returns the columns that the user pass yields; each of its batches has those of its dataset."""
    fields = [(TASK, pa.int32()), (FILE, pa.int32()), (ORDER, pa.int64()), (USER_ID, pa.string())]
    fields += [(USER_KEY, pa.int64()), (ITEM_INDEX, pa.int32()), (EVENT_TIME, pa.int64()), (SOURCE, pa.int32())]
    fields += [(LABEL, pa.float32()), (WEIGHT, pa.float32()), *((target_column(t), pa.float32()) for t in targets)]
    fields += [(WORDS, pa.binary()), *((history_column(name), pa.binary()) for name in histories)]
    fields += [(DRAWN, pa.binary()), (PROBABILITY, pa.binary()), (WARM_USER, pa.int32()), (CLICKED_ITEMS, pa.binary())]
    return [*fields, *((c, pa.binary()) for c in (SEEN_ITEMS, SEEN_POSITIVE, SEEN_TARGETS, SEEN_TIME))]
