"""Sampled negatives over the catalogue of tests/datasets.py."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.config import Settings
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch
from dssm.train.negatives import SampledNegatives
from dssm.train.scores import Encoded
from dssm.train.step import loss_shares, total_loss
from tests.datasets import ITEMS, make_catalogue
from tests.model.tiny import make_towers

FIXED_COLUMNS = ("item_id", "topic_id", "image")  # of the item tower's; days changes with the event's time


def make_negatives(settings: Settings) -> SampledNegatives | None:
    kinds = settings.samples.negatives.values()
    if not kinds:
        return None
    catalogue = make_catalogue(settings)
    counts = [(kind.count, kind.weight) for kind in kinds]
    return SampledNegatives({name: catalogue[name] for name in FIXED_COLUMNS}, ["days"], counts)


def make_model(settings: Settings, seed: int = 1) -> TwoTowerModel:
    """Builds what is trained, with weights that depend on the seed alone."""
    return TwoTowerModel(settings.model, settings.train.loss, make_towers(settings, seed))


def mean_loss(
    settings: Settings,
    batch: Batch,
    users: Any,
    items: Any,
    model: TwoTowerModel | None = None,
    catalogue: Batch | None = None,
    uniform: Any = None,
) -> tf.Tensor:
    """Returns the loss of a batch whose towers gave these vectors, each (batch, width), for the only objective.

    Args: uniform: (M, width), the vectors of the catalogue's items that were drawn.
    """
    model = make_model(settings) if model is None else model
    (name,) = model.losses
    drawn = {} if uniform is None else {name: tf.convert_to_tensor(uniform)}
    encoded = Encoded({name: tf.convert_to_tensor(users)}, {name: tf.convert_to_tensor(items)}, {}, drawn, None)
    return total_loss(model, *loss_shares(model, batch, catalogue or {}, encoded, ITEMS))
