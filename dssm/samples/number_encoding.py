"""Numbers and times, parsed and transformed, by whole columns. Pure Arrow and NumPy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.features import FIRST_TOKEN_ID, DenseFeat
from dssm.manifest import Statistics


def numbers_of(column: pa.Array) -> np.ndarray:
    """Returns a column of numbers or of their texts as (n,) float64, NaN for null and blank."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    numbers = column.cast(pa.float64(), safe=False)  # an integer beyond 2⁵³ is rounded
    return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)


def encode_numbers(feature: DenseFeat, values: np.ndarray, statistics: Statistics | None) -> np.ndarray:
    """Transforms the numbers of a feature.

    Args:
      feature: says the transform, and what stands for null.
      values: (n,) float64, NaN for null.
      statistics: of the training window; minmax and standard need them. Where all its numbers are equal, the
        result is 0.
    Returns: (n,) float32.
    """
    if feature.transform in ("raw", "log1p"):
        values = _filled(values, 0.0 if feature.null is None else feature.null)
        if feature.transform == "log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        return values.astype(np.float32)
    assert statistics is not None  # the build takes them for every such feature
    values = _filled(values, statistics.mean if feature.null is None else feature.null)
    if feature.transform == "minmax":
        start, width = statistics.minimum, statistics.maximum - statistics.minimum
    else:
        start, width = statistics.mean, statistics.deviation
    if width == 0:
        return np.zeros(len(values), np.float32)
    scaled = (values - start) / width
    return (scaled.clip(0, 1) if feature.transform == "minmax" else scaled).astype(np.float32)


def encode_event_time(times_ms: np.ndarray, unit: Literal["hour", "weekday"], timezone: str) -> np.ndarray:
    """Returns ids of the local hour 0…23 or weekday 0 (Monday)…6, (n,) int32 from 2.

    Args:
      times_ms: (n,) int64 Unix milliseconds.
      unit: what to encode.
      timezone: its name, such as Asia/Shanghai; its summer time is kept to.
    """
    local = pa.array(times_ms, pa.timestamp("ms", timezone))
    value = pc.hour(local) if unit == "hour" else pc.day_of_week(local)
    return (value.to_numpy() + FIRST_TOKEN_ID).astype(np.int32)


def _filled(values: np.ndarray, null: float) -> np.ndarray:
    return np.where(np.isnan(values), null, values)
