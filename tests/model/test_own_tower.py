"""How to add a tower and an encoder: one file with the settings of each and its builder, and no change elsewhere.

The file is imported before the settings are read; from then on its kinds are choices as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import tensorflow as tf
from pydantic import Field, ValidationError

from dssm.config import Settings
from dssm.encoders import EncoderKind
from dssm.model.encoders.entries import real_entries, scaled_entries
from dssm.model.export import LoadedTower, save_tower
from dssm.model.inputs import FeatureBlock
from dssm.model.towers import TowerContext, Vectors
from dssm.model.towers.dnn import dense, scaled
from dssm.sections import Model, TowerKind
from tests.datasets import make_rows, make_settings
from tests.model.tiny import make_towers, values_by_name, vectors_of


class Decaying(EncoderKind):
    """A mean in which an entry counts `decay` times as much as the one before it."""

    kind: Literal["decaying"] = "decaying"
    builder: ClassVar[str] = f"{__name__}:build_decaying"
    decay: float = Field(0.5, gt=0, le=1, description="Factor from an entry to the next.")


def build_decaying(settings: Decaying, dim: int, name: str) -> tf.keras.layers.Layer:
    return DecayingMean(settings.decay, name=name)


class DecayingMean(tf.keras.layers.Layer):
    """Σ decayⁱ w e / Σ decayⁱ over a list's real entries, i their places among them."""

    def __init__(self, decay: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decay = decay

    def call(self, embeddings: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Args: embeddings (batch, entries, dim); ids, weights (batch, entries). Returns: (batch, dim)."""
        real = tf.cast(real_entries(ids), tf.float32)
        factors = real * self.decay ** (tf.cumsum(real, axis=1) - 1)
        total = tf.einsum("be,bed->bd", factors, scaled_entries(embeddings, ids, weights))
        return tf.math.divide_no_nan(total, tf.reduce_sum(factors, axis=1, keepdims=True))


class Maximum(TowerKind):
    """A dense layer for each feature, and the largest of their outputs in each dimension."""

    kind: Literal["maximum"] = "maximum"
    builder: ClassVar[str] = f"{__name__}:build_maximum"
    l2: float = Field(0.0, ge=0, description="λ of λ‖W‖², on each kernel.")


def build_maximum(settings: Maximum, features: Sequence[FeatureBlock], context: TowerContext) -> Vectors:
    outputs = [dense(block.vector, context.vector_dim, block.name, context, settings.l2) for block in features]
    largest = tf.keras.layers.Maximum(name=f"{context.name}_maximum")(outputs)
    return dict.fromkeys(context.objectives, scaled(largest, context))


# The classes were registered when they were defined. The suite's other tests list the project's own kinds.
REGISTERED = {family: family.choices.pop(kind) for family, kind in ((EncoderKind, "decaying"), (TowerKind, "maximum"))}


@pytest.fixture(autouse=True)
def _both_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, settings in REGISTERED.items():
        monkeypatch.setitem(family.choices, settings.model_fields["kind"].default, settings)


@pytest.fixture
def settings() -> Settings:
    """What a user writes in YAML: a tower over two features, one with the encoder."""
    written = make_settings("unused").model_dump(mode="json")
    written["model"]["user_tower"] = {"kind": "maximum", "l2": 0.5}
    written["features"]["clicked"]["encoder"] = {"kind": "decaying", "decay": 0.25}
    for name in ("age", "liked", "images"):
        del written["features"][name]
    return Settings.model_validate(written)


def test_the_settings_have_the_new_kinds(settings: Settings):
    assert settings.model.user_tower == Maximum(l2=0.5)
    assert settings.features["clicked"].encoder == Decaying(decay=0.25)
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_their_options_are_checked_as_any_other():
    with pytest.raises(ValidationError, match=r"unknown key 'ltwo' \(known: kind, l2\)"):
        Model.model_validate({"user_tower": {"kind": "maximum", "ltwo": 0.5}})
    with pytest.raises(ValidationError, match="did you mean 'maximum'"):
        Model.model_validate({"user_tower": {"kind": "maximun"}})


def test_the_new_tower_over_the_new_encoder_gives_the_vectors_of_its_formula(settings: Settings, tmp_path: Path):
    towers, rows = make_towers(settings), make_rows(settings, 6)
    rows["clicked"][:3] = [[0, 4, 0, 6, 5], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]]
    w = values_by_name(towers.user.variables)
    lists = [ids[ids > 0] for ids in rows["clicked"]]
    means = [
        np.average(w["embedding_item_id/embeddings"][ids], axis=0, weights=0.25 ** np.arange(len(ids)))
        if len(ids)
        else np.zeros(4)
        for ids in lists
    ]
    features = {"user_id": w["embedding_user_id/embeddings"][rows["user_id"]], "clicked": np.array(means)}
    outputs = [values @ w[f"user.{name}/kernel"] + w[f"user.{name}/bias"] for name, values in features.items()]
    largest = np.max(outputs, axis=0)
    expected = largest / np.linalg.norm(largest, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_of(towers.user, rows), expected, rtol=1e-4, atol=1e-5)
    assert [(variable.name, strength) for variable, strength in towers.penalties] == [
        ("user.user_id/kernel:0", 0.5),
        ("user.clicked/kernel:0", 0.5),
    ]
    save_tower(towers.user, f"{tmp_path}/tower")
    np.testing.assert_allclose(LoadedTower(f"{tmp_path}/tower").vectors(rows), expected, rtol=1e-4, atol=1e-5)
