"""The tower and the encoder that docs/models.md shows: one file each and a config, and no change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from dssm.config import Settings
from dssm.encoders import EncoderKind
from dssm.model.export import LoadedTower, save_tower
from dssm.sections import Model, TowerKind
from tests.datasets import make_rows, make_settings
from tests.documents import PROJECT, fences
from tests.model.tiny import make_towers, values_by_name, vectors_of

SHOWN = [fence.text for fence in fences(PROJECT / "docs" / "models.md")]
MODULES = ("my_tower", "my_encoder")
(CONFIG,) = (yaml.safe_load(text) for text in SHOWN if text.startswith("plugins: [my_tower, my_encoder]\n"))


@pytest.fixture(autouse=True)
def _files_are_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in MODULES:
        (text,) = (text for text in SHOWN if text.startswith(f"# {name}.py\n"))
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
    for family, kind in ((TowerKind, "maximum"), (EncoderKind, "decaying")):
        family.choices.pop(kind, None)  # the suite's other tests list the project's own kinds


@pytest.fixture
def settings() -> Settings:
    """Of the page's config: a tower over two features, one with the encoder."""
    written: dict[str, Any] = make_settings("unused").model_dump(mode="json")
    written["plugins"] = CONFIG["plugins"]
    written["model"] |= CONFIG["model"]
    written["features"]["clicked"]["encoder"] = CONFIG["features"]["click_history"]["encoder"]
    for name in ("age", "liked", "images"):
        del written["features"][name]
    return Settings.model_validate(written)


def test_the_settings_have_the_new_kinds(settings: Settings):
    assert settings.model.user_tower.model_dump() == {"kind": "maximum", "l2": 1e-4}
    assert settings.features["clicked"].encoder.model_dump() == {"kind": "decaying", "decay": 0.8}
    chosen = (settings.model.user_tower, settings.features["clicked"].encoder)
    assert tuple(type(of_file).__module__ for of_file in chosen) == MODULES
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.usefixtures("settings")
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
        np.average(w["embedding_item_id/embeddings"][ids], axis=0, weights=0.8 ** np.arange(len(ids)))
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
        ("user.user_id/kernel:0", 1e-4),
        ("user.clicked/kernel:0", 1e-4),
    ]
    save_tower(towers.user, f"{tmp_path}/tower")
    np.testing.assert_allclose(LoadedTower(f"{tmp_path}/tower").vectors(rows), expected, rtol=1e-4, atol=1e-5)
