"""What a training tells when its loss is no number: which batch, and what stood in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def suspicious_columns(batch: Mapping[str, np.ndarray], most: int = 5) -> list[str]:
    """Describes the columns of a batch that may have spoilt a loss.

    Args:
      batch: each column, (rows, …).
      most: columns described.
    Returns: those with NaN or infinity first, then the numbers of the largest magnitude; ids are left out.
    """
    found: list[tuple[float, str]] = []
    for name, values in batch.items():
        if values.dtype.kind != "f" or not values.size:
            continue
        finite = np.isfinite(values)
        broken = values.size - int(finite.sum())
        numbers = values[finite].astype(np.float64)
        shown = f"{name}: {numbers.min():.3g}…{numbers.max():.3g}, mean {numbers.mean():.3g}" if numbers.size else name
        if broken:
            shown += f", {broken} of {values.size} not finite"
        largest = float(np.abs(numbers).max()) if numbers.size else 0.0
        found.append((np.inf if broken else largest, shown))
    return [shown for _, shown in sorted(found, key=lambda pair: -pair[0])[:most]]
