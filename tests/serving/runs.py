"""A small finished run with its towers and its tables, as a service finds it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dssm import published, storage
from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_POSITIVES,
    ITEM_ROWS,
    ITEM_TITLE,
    LAST_TIME,
    MANIFEST,
    POSITIVE,
    SEEN,
    USER_ID,
    WARM,
    ColumnSpec,
    Manifest,
    read_manifest,
    write_manifest,
    write_settings,
)
from dssm.model.card import make_card, write_card
from dssm.model.export import LoadedTower, save_scorer, save_tower, weights_digest
from dssm.model.kept import new_model
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.model.raw.save import save_raw_tower
from dssm.model.scorer import SCORER, build_scorer
from dssm.model.towers import tower_columns
from dssm.paths import RunPaths
from dssm.storage import write_text
from tests.datasets import (
    ITEMS,
    VOCABULARIES,
    Rows,
    draw_features,
    feature_columns,
    item_columns_of,
    make_catalogue,
    make_settings,
    write_dataset,
    write_tokens,
    write_vectors,
)
from tests.model.tiny import make_towers, redraw
from tests.serving.tables import write_published

USERS = [f"user{number}" for number in range(6)]
ONLY_SEEN = "visitor"  # has a history, but no encoded features
TEXT, LIST = ColumnSpec(dtype="string", encoding="text"), ColumnSpec(dtype="int32", encoding="list")
DAY_MS = 86_400_000


def write_served_run(root: Path, **model: Any) -> RunPaths:
    """Writes a run with users, titled items, towers and a published item table of version v1.

    User `n` has seen the items n, n + 1 and n + 2, of which the first and the newest was a positive.

    Args:
      model: goes over the section of that name.
    """
    settings = make_settings(root, model=model)
    paths = RunPaths(settings.run_folder)
    write_vectors(settings)
    write_tokens(settings)
    _write_items(settings, paths)
    write_user_rows(settings, paths, "users", USERS)
    _write_interactions(settings, paths)
    for folder, kind in ((paths.samples, "all"), (paths.part("train"), "train")):
        date = settings.date.isoformat()
        manifest = Manifest(kind=kind, date=date, build="tiny", seed=0, vocabularies=VOCABULARIES)
        write_manifest(folder, manifest)
    write_settings(paths.samples, settings)
    write_towers(settings, paths)
    publish_all(settings, paths, "v1")
    return paths


def write_towers(settings: Settings, paths: RunPaths, seed: int = 1) -> ModelManifest:
    """Writes the run's model/ as train does: one that stands there is set aside."""
    towers = make_towers(settings, seed)
    shares = {name: objective.share for name, objective in settings.model.all_objectives.items()}
    user_columns, item_columns = (tower_columns(settings.features, side, settings.vectors) for side in ("user", "item"))
    manifest = ModelManifest(
        model_version=weights_digest(towers.variables), date=settings.date.isoformat(), samples_build="tiny",
        vocabularies=VOCABULARIES, user_columns=user_columns, item_columns=item_columns,
        vector_dim=len(shares) * settings.model.vector_dim, vector_norm=1.0, objectives=shares,
        ranks=1, epochs=1, steps=1, rows_per_epoch=1, rows_per_s=1.0, loss=[1.0], auc=[None],
    )  # fmt: skip
    users = read_manifest(paths.part("users"), "")
    with new_model(paths) as folder:
        for name, tower in (("user_tower", towers.user), ("item_tower", towers.item)):
            save_tower(tower, f"{folder}/{name}", shares)
        raw = save_raw_tower(towers.user, "user", settings, users, paths.samples, f"{folder}/user_tower_raw")
        if settings.model.scorer is not None:
            scorer = build_scorer(settings.model.scorer, settings.model.vector_dim)
            redraw(scorer.variables)
            save_scorer(scorer, f"{folder}/{SCORER}")
        write_card(folder, make_card(settings, manifest, {"user": raw}))
        write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json())
    return manifest


def publish_all(settings: Settings, paths: RunPaths, version: str) -> None:
    """Publishes the whole catalogue, by the run's newest model."""
    catalogue, model = make_catalogue(settings), read_model_manifest(paths.model)
    tower = LoadedTower(f"{paths.model}/item_tower")
    vectors = tower.all_vectors({name: catalogue[name] for name in tower.inputs})
    combined, date = vectors.pop("vector"), settings.date.isoformat()
    objectives = {name.removeprefix("vector_"): own for name, own in vectors.items()}
    ids = catalogue[ITEM_ID].tolist()
    write_published(settings.table_location, date, version, "item", ids, combined, model.model_version, objectives)
    published.write_run_tables(paths.folder, {"items": settings.table_location})


def publish_fewer(paths: RunPaths, version: str, items: int) -> None:
    """Publishes the first items of v1 as another version."""
    publish_day(paths, Path(paths.folder).name, version, items)


def publish_day(paths: RunPaths, date: str, version: str, items: int) -> None:
    """Publishes the first items of v1 as a version of a date, whose run is a copy of this one where there is none."""
    location, run = published.run_table(paths.folder, "items"), Path(paths.folder).with_name(date)
    if not run.exists():
        shutil.copytree(paths.folder, run)
    first = published.versions(location, Path(paths.folder).name)[0]
    ids, vectors = published.load(first)
    kept = ids.to_pylist()[:items]
    write_published(location, date, version, "item", kept, vectors[:items], first.manifest.model_version)


def _write_items(settings: Settings, paths: RunPaths) -> None:
    catalogue = make_catalogue(settings)
    catalogue[ITEM_POSITIVES] = catalogue[ITEM_ROWS]
    catalogue[ITEM_TITLE] = np.array([f"Title {number} [b]" for number in range(ITEMS)])
    columns = item_columns_of(settings) | {ITEM_POSITIVES: ColumnSpec(dtype="int64"), ITEM_TITLE: TEXT}
    order = np.random.default_rng(4).permutation(ITEMS)
    files = [{name: values[part] for name, values in catalogue.items()} for part in (order[:6], order[6:])]
    write_dataset(paths.part("items"), settings, files, "items", columns)


def write_user_rows(settings: Settings, paths: RunPaths, part: str, users: Sequence[str]) -> None:
    """Writes `users`, or `train` with a row a user and an item drawn for it, in the place of what is there."""
    of_users, count = of_side(settings.features, "user"), len(users)
    features = of_users if part == "users" else list(settings.features.values())
    rows: dict[str, Any] = dict(draw_features(settings, features, count, np.random.default_rng(8)))
    rows |= {USER_ID: np.array(users), EVENT_TIME: np.zeros(count, np.int64), WARM: np.ones(count, np.int32)}
    rows[CLICKED] = [[0]] * count
    own = (
        {WARM: ColumnSpec(dtype="int32"), CLICKED: LIST} if part == "users" else {EVENT_TIME: ColumnSpec(dtype="int64")}
    )
    columns = {USER_ID: TEXT, **own, **feature_columns(settings, features)}
    storage.remove(paths.part(part))
    write_dataset(paths.part(part), settings, [rows], part, columns)


def _write_interactions(settings: Settings, paths: RunPaths) -> None:
    start = settings.day_start_ms(0)
    known = [*USERS, ONLY_SEEN]
    seen: Rows = {
        USER_ID: np.array(known),
        SEEN: np.array([[n, n + 1, n + 2] for n in range(len(known))]),
        POSITIVE: np.array([[1, 0, 1]] * len(known)),
        LAST_TIME: np.array([[start - 3 * DAY_MS, start - 2 * DAY_MS, start - DAY_MS]] * len(known)),
    }
    lists = {name: [row.tolist() for row in values] for name, values in seen.items() if name != USER_ID}
    columns = {USER_ID: TEXT, SEEN: LIST, POSITIVE: LIST, LAST_TIME: ColumnSpec(dtype="int64", encoding="list")}
    write_dataset(paths.part("interactions"), settings, [{USER_ID: seen[USER_ID], **lists}], "interactions", columns)
