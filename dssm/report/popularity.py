"""How the training positives spread over the catalogue's items."""

from __future__ import annotations

import numpy as np

from dssm.manifest import ITEM_INDEX, ITEM_POSITIVES
from dssm.report.dataset import Run
from dssm.report.figures import POPULARITY_GROUPS, Popularity

CURVE_POINTS = 60


def item_positives(run: Run) -> np.ndarray:
    """Returns each item's training positives, (items,) by item index."""
    items = run.part("items")
    positives = np.zeros(items.manifest.rows, np.int64)
    for batch in items.batches([ITEM_INDEX, ITEM_POSITIVES]):
        positives[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return positives


def popularity_groups(positives: np.ndarray) -> np.ndarray:
    """Returns each item's place in POPULARITY_GROUPS, (items,) uint8; ties of popularity in the items' order."""
    limits = np.ceil(len(positives) * np.array([0.01, 0.1, 0.5])).astype(np.int64)
    groups = np.empty(len(positives), np.uint8)
    order = np.argsort(-positives, kind="stable")
    groups[order] = np.searchsorted(limits, np.arange(len(positives)), side="right")
    groups[positives == 0] = len(POPULARITY_GROUPS) - 1
    return groups


def popularity(positives: np.ndarray) -> Popularity:
    """Describes the popularity curve.

    Args:
      positives: (items,), training positives of each.
    """
    groups, size = popularity_groups(positives), len(POPULARITY_GROUPS)
    descending = np.sort(positives)[::-1]
    reached = np.concatenate([[0], np.cumsum(descending)]) / max(descending.sum(), 1)
    clicked = int((positives > 0).sum())
    ranks = np.unique(np.geomspace(1, clicked, CURVE_POINTS).round().astype(np.int64)) if clicked else np.zeros(0, int)
    return Popularity(
        items=len(positives),
        never=len(positives) - clicked,
        half=int(np.searchsorted(reached, 0.5)) if clicked else 0,
        top_1_percent=float(reached[int(np.ceil(len(positives) * 0.01))]),
        top_10_percent=float(reached[int(np.ceil(len(positives) * 0.1))]),
        ranks=ranks.tolist(),
        counts=descending[ranks - 1].tolist(),
        items_by_group=np.bincount(groups, minlength=size).tolist(),
        positives_by_group=np.bincount(groups, positives, size).astype(np.int64).tolist(),
    )
