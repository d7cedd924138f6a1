"""Pooling: the feature's combiner, no weights of its own."""

from __future__ import annotations

from dssm.encoders import Pooling as PoolingSettings
from dssm.model.layers import Pooling


def build(settings: PoolingSettings, dim: int, name: str, combiner: str = "mean") -> Pooling:
    """Returns the layer. The combiner is the feature's: of all encoders, this one alone takes it.

    It computes in float32 under mixed precision as well: sums of long lists need the digits.
    """
    return Pooling(combiner, name=name, dtype="float32")
