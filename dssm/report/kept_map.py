"""The map of a run's item vectors, laid out once for the reports of all its jobs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json

import numpy as np

from dssm import storage
from dssm.errors import UserError
from dssm.report.vector_map import HOW, layout

DECIMALS = 5  # of a side of 1: far below a point's size, and a quarter of the bytes


def kept_layout(path: str, vectors: np.ndarray, seed: int) -> np.ndarray | None:
    """Returns `layout` of the vectors: of these very ones from the file at `path`, else laid out and written there.

    Args and returns: as `layout`; places are rounded to DECIMALS.
    """
    how = [vectors.shape, vectors.dtype.str, seed, *HOW, DECIMALS, importlib.metadata.version("scikit-learn")]
    key = storage.digest(vectors.tobytes(), json.dumps(how))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, of another time, or not whole
        kept = json.loads(storage.read_bytes(path))
        if kept["of"] == key:
            return np.array(kept["places"], np.float64).reshape(len(vectors), 2)
    places = layout(vectors, seed)
    if places is None:
        return None
    places = np.round(places.astype(np.float64), DECIMALS)
    with contextlib.suppress(OSError, UserError):  # the next job lays it out again
        storage.write_text(path, json.dumps({"of": key, "places": places.tolist()}))
    return places
