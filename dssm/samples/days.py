"""Local days of Unix times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DAY_MS = 86_400_000


def local_days(times: np.ndarray, timezone: str) -> np.ndarray:
    """Returns the number of the local day of each time, from 1970-01-01.

    Args:
      times: (n,) Unix ms.
    Returns: (n,) int64.
    """
    local = pc.local_timestamp(pa.array(times, pa.timestamp("ms", timezone)))
    return local.cast(pa.date32(), safe=False).cast(pa.int32()).to_numpy().astype(np.int64)
