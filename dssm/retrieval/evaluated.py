"""The files of an evaluation, as they are read without Spark."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dssm import storage
from dssm.errors import UserError
from dssm.evaluation import VIEWS
from dssm.paths import RunPaths

REPLICATES = "evaluation_replicates.npz"
# Of what was evaluated: the catalogue, users, what is relevant to them, that of it which they had not seen.
DIGESTS = ("catalogue", "users", "relevant", "relevant_unseen")


@dataclass(frozen=True)
class Replicates:
    """Sums over the users, of which a mean is a ratio.

    Attributes:
      rankers, metrics: names.
      sums: (2 views, rankers, 1 + replicates, 1 + metrics): each user once, then each replicate; the users' number
        first, then the metrics, without coverage.
    """

    rankers: tuple[str, ...]
    metrics: tuple[str, ...]
    sums: np.ndarray

    def means(self, view: str, ranker: str, metric: str) -> np.ndarray:
        """Returns a metric and its replicates, (1 + replicates,); NaN in one without users."""
        sums = self.sums[list(VIEWS).index(view), self.rankers.index(ranker)]
        part, users = sums[:, 1 + self.metrics.index(metric)], sums[:, 0]
        return np.divide(part, users, out=np.full(len(users), np.nan), where=users > 0)


@dataclass(frozen=True)
class Evaluation:
    """A run's evaluation.json and its replicates."""

    run: str
    result: dict[str, Any]
    replicates: Replicates


def write_replicates(paths: RunPaths, replicates: Replicates) -> str:
    """Writes the file. Returns: its digest, which tells whether it and evaluation.json belong together."""
    content = io.BytesIO()
    np.savez_compressed(
        content, rankers=list(replicates.rankers), metrics=list(replicates.metrics), sums=replicates.sums
    )
    with tempfile.TemporaryDirectory(prefix="dssm-") as scratch:
        local = Path(scratch, REPLICATES)
        local.write_bytes(content.getvalue())
        storage.put_file(str(local), f"{paths.folder}/{REPLICATES}")
    return storage.digest(content.getvalue())


def read_evaluation(paths: RunPaths, run: str) -> Evaluation:
    """Reads what `evaluate` wrote.

    Args:
      run: its name for people.
    Raises: UserError where a file is missing, or was written before these things were kept, or of another evaluation.
    """
    file = f"{paths.folder}/{REPLICATES}"
    for path in (paths.evaluation, file):
        if not storage.exists(path):
            raise UserError(f"RUN {run}: {path} not found; run evaluate for it first")
    result, content = json.loads(storage.read_text(paths.evaluation)), storage.read_bytes(file)
    if result.get("bootstrap", {}).get("digest") != storage.digest(content):
        raise UserError(f"RUN {run}: {file} does not belong to {paths.evaluation}; run evaluate again")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        rankers, metrics = (tuple(arrays[name].tolist()) for name in ("rankers", "metrics"))
        return Evaluation(run, result, Replicates(rankers, metrics, arrays["sums"]))


def what_differs(first: Evaluation, other: Evaluation, names: Sequence[str]) -> str | None:
    """Says what `other` was evaluated on that `first` was not, so that their figures can't be compared.

    Args:
      names: those of DIGESTS that have to be equal.
    Returns: None where they are.
    """
    one, two = first.result, other.result
    words = {
        "catalogue": f"its catalogue is another one ({two['items']:,} items, not {one['items']:,})",
        "users": f"its users are others ({two['users']:,} of {two['date']}, not {one['users']:,} of {one['date']})",
        "relevant": "the same users clicked other items",
        "relevant_unseen": "the same users had seen other items before",
    }
    return next((words[name] for name in names if one["evaluated"][name] != two["evaluated"][name]), None)
