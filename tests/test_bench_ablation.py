"""The variants of the ablation are settings that can be trained, and change what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ablation import VARIANTS, _columns, _feature_groups
from dssm.config import load_settings

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "conf" / "kuairand.yaml")
BASE = load_settings(CONFIG)
ALL = {
    f"{group}: {name}": changes
    for group, variants in {**VARIANTS, "features": _feature_groups(BASE)}.items()
    for name, changes in variants.items()
}


@pytest.mark.parametrize("variant", ALL)
def test_a_variant_is_another_training(variant: str):
    settings = load_settings(CONFIG, ALL[variant])
    changed = (settings.model, settings.train, settings.features) != (BASE.model, BASE.train, BASE.features)
    assert changed == bool(ALL[variant])


def test_feature_groups_leave_out_what_they_say():
    groups = _feature_groups(BASE)
    without = load_settings(CONFIG, groups["no histories"])
    assert not any(feature.source_column in BASE.histories for feature in without.features.values())
    assert not any(
        getattr(f, "pre_embed", None) for f in load_settings(CONFIG, groups["no pretrained vectors"]).features.values()
    )
    items = [f.name for f in load_settings(CONFIG, groups["item id alone"]).features.values() if f.side == "item"]
    assert items[:1] == ["video_id"]
    assert set(items) <= {"video_id", "tag"}  # whose table a user's feature shares


def test_columns_are_means_and_deviations_over_seeds():
    found = [{"kept@50": 0.1, "kept@100": 0.2, "filtered@50": 0.3, "filtered@100": 0.4}] * 2
    found[1] = {name: value + 0.02 for name, value in found[1].items()}
    assert _columns(found) == ["0.1100 ± 0.0100", "0.2100 ± 0.0100", "0.3100 ± 0.0100", "0.4100 ± 0.0100"]
