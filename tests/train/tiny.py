"""Sampled negatives over the catalogue of tests/datasets.py."""

from __future__ import annotations

from dssm.config import Settings
from dssm.train.negatives import SampledNegatives
from tests.datasets import make_catalogue

FIXED_COLUMNS = ("item_id", "topic_id", "image")  # of the item tower's; days changes with the event's time


def make_negatives(settings: Settings) -> SampledNegatives | None:
    kinds = settings.samples.negatives.values()
    if not kinds:
        return None
    catalogue = make_catalogue(settings)
    weights = [kind.weight for kind in kinds for _ in range(kind.count)]
    return SampledNegatives({name: catalogue[name] for name in FIXED_COLUMNS}, ["days"], weights)
