"""A model's scorer, which orders what retrieval has found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dssm import storage
from dssm.model.export import LoadedScorer
from dssm.model.manifest import ModelManifest
from dssm.model.scorer import SCORER
from dssm.paths import RunPaths


class Rescorer:
    """Orders retrieved items by the scorer's probability.

    Attributes:
      objective: whose vectors it takes; None: the combined ones.
    """

    def __init__(self, scorer: LoadedScorer, model: ModelManifest) -> None:
        self.objective, self._divisor = model.scorer_takes
        self._scorer = scorer

    def ranked(self, user: np.ndarray, items: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places of the most probable items among these, and their probabilities: (≤ count,) each.

        Equal ones keep their order.

        Args:
          user: (dim,) as the tower gives it.
          items: (dim,) each, as published.
          count: how many at most.
        """
        of_items = np.reshape(np.asarray(items, np.float32), (len(items), len(user))) / np.float32(self._divisor)
        of_user = np.broadcast_to(np.float32(user) / np.float32(self._divisor), of_items.shape)
        probabilities = self._scorer.probabilities(of_user, of_items)
        order = np.argsort(-probabilities, kind="stable")[:count]
        return order, probabilities[order]


def rescorer_of(paths: RunPaths, model: ModelManifest) -> Rescorer | None:
    """Loads the run's scorer; None where its model has none."""
    folder = f"{paths.model}/{SCORER}"
    if not storage.exists(f"{folder}/saved_model.pb"):
        return None
    return Rescorer(LoadedScorer(folder), model)
