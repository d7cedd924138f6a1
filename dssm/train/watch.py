"""What a training tells when its loss is no number: which batch, and what stood in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dssm.features import PADDING_ID, UNKNOWN_ID

NOT_FINITE = "not finite"
OF_ROWS = "row__"  # how `dssm.manifest` begins the names of a row's own columns


def told_of_batches(before: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> list[str]:
    """Describes the batch whose loss is no number, and what is none in the batch before.

    A row that is no target spoils no loss, but the weights, by a gradient of 0 × NaN: the next batch's loss tells it.
    """
    earlier = [f"{column} (the step before)" for column in suspicious_columns(before) if NOT_FINITE in column]
    return [*earlier, *suspicious_columns(batch)]


def suspicious_columns(batch: Mapping[str, np.ndarray], most: int = 5) -> list[str]:
    """Describes the columns of a batch, those first that may have spoilt a loss.

    Args:
      batch: each column, (rows, …).
      most: columns of numbers described.
    Returns: at most so many of numbers, those with NaN or infinity first, then of the largest magnitude; then all ids
      of features, which a row's own columns are not.
    """
    found: list[tuple[float, str]] = []
    ids: list[str] = []
    for name, values in batch.items():
        if not values.size:
            continue
        if values.dtype.kind in "iu" and not name.startswith(OF_ROWS):
            padding, unknown = ((values == code).mean() for code in (PADDING_ID, UNKNOWN_ID))
            bounds = f"{values.min()}…{values.max()}"
            ids.append(f"{name}: ids {bounds}, {padding:.0%} padding, {unknown:.0%} unknown")
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(values)
        broken = values.size - int(finite.sum())
        numbers = values[finite].astype(np.float64)
        shown = f"{name}: {numbers.min():.3g}…{numbers.max():.3g}, mean {numbers.mean():.3g}" if numbers.size else name
        if broken:
            shown += f", {broken} of {values.size} {NOT_FINITE}"
        largest = float(np.abs(numbers).max()) if numbers.size else 0.0
        found.append((np.inf if broken else largest, shown))
    return [*(shown for _, shown in sorted(found, key=lambda pair: -pair[0])[:most]), *ids]
