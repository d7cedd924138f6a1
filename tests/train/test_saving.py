from __future__ import annotations

from dssm.train.saving import model_version
from tests.datasets import make_settings
from tests.model.tiny import make_towers


def test_a_models_version_is_of_all_that_its_vectors_depend_on() -> None:
    """Other shares of the objectives give other combined vectors of the same weights."""
    settings = make_settings("unused")
    towers, same = make_towers(settings), make_towers(settings)
    version = model_version(towers, "cosine", {"click": 1.0, "like": 0.5})
    assert model_version(same, "cosine", {"click": 1.0, "like": 0.5}) == version
    assert model_version(towers, "cosine", {"click": 1.0, "like": 0.25}) != version
    assert model_version(towers, "inner_product", {"click": 1.0, "like": 0.5}) != version
    towers.variables[0].assign_add(towers.variables[0] * 0 + 1)
    assert model_version(towers, "cosine", {"click": 1.0, "like": 0.5}) != version
