"""A run that is ready to be scored, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import USER_ID, ColumnSpec
from dssm.paths import RunPaths
from tests.datasets import draw_features, feature_columns, make_settings, write_dataset, write_items
from tests.model.tiny import write_model

USERS = 9


def settings_at(root: Path, name: str, **table: Any) -> Settings:
    settings = make_settings(root, model={"similarity": "cosine"})
    return settings.model_copy(
        update={
            "item_table": settings.item_table.model_copy(update={"name": f"{name}_items", **table}),
            "user_table": settings.user_table.model_copy(update={"name": f"{name}_users", **table}),
        }
    )


def write_run(settings: Settings, build: str = "tiny", recall: float = 0.4, seed: int = 1) -> str:
    """Writes the items, the users, the model and its evaluation. Returns: the model's version."""
    paths = RunPaths(settings.run_folder)
    write_items(settings, build)
    features = of_side(settings.features, "user")
    columns = {USER_ID: ColumnSpec(dtype="string", encoding="text"), **feature_columns(settings, features)}
    drawn = draw_features(settings, features, USERS, np.random.default_rng(8))
    users = {USER_ID: np.array([f"u{number}" for number in range(USERS)]), **drawn}
    write_dataset(paths.part("users"), settings, [users], "users", columns, build)
    model = write_model(settings, seed=seed)
    evaluation = {
        "model_version": model.model_version,
        "samples_build": build,
        "seen_kept": {"model": {"recall@50": recall}, "popularity": {"recall@50": 0.1}},
    }
    Path(paths.evaluation).write_text(json.dumps(evaluation))
    return model.model_version
