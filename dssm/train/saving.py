"""The model's folder: towers with encoded and with raw inputs, scorer, checkpoint, card; the manifest last."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from dssm import storage
from dssm.features import Side
from dssm.manifest import MANIFEST
from dssm.model.card import make_card, write_card
from dssm.model.export import save_scorer, save_tower, weights_digest
from dssm.model.kept import new_model
from dssm.model.manifest import ModelManifest
from dssm.model.raw.save import RawTower, save_raw_tower
from dssm.model.scorer import SCORER
from dssm.model.towers import TwoTowers
from dssm.report.card_parts import PredictionCard
from dssm.train.clock import Clock
from dssm.train.inputs import Inputs
from dssm.train.place import Place


def model_manifest(
    inputs: Inputs,
    towers: TwoTowers,
    predictions: Mapping[str, PredictionCard],
    place: Place,
    clock: Clock,
    ranks: int,
    expected_bytes: float,
) -> ModelManifest:
    """Returns what is known of a trained model.

    Args:
      towers: with whole tables.
      predictions: of each objective.
      expected_bytes: that a rank receives a step, by the plan of the exchange.
    """
    settings, model = inputs.settings, inputs.settings.model
    shares = {name: objective.share for name, objective in model.all_objectives.items()}
    tower = model.user_tower
    return ModelManifest(
        model_version=model_version(towers, model.similarity, shares),
        date=settings.date.isoformat(),
        samples_build=inputs.train.build,
        vocabularies=inputs.train.vocabularies,
        frozen_vectors=list(towers.frozen),
        item_columns=inputs.item_columns,
        user_columns=inputs.user_columns,
        vector_dim=tower.width(model.vector_dim) * sum(share > 0 for share in shares.values()),
        vector_norm=(sum(shares.values()) * tower.unit_vectors()) ** 0.5 if model.similarity == "cosine" else None,
        objectives=shares,
        predictions=dict(predictions),
        ranks=ranks,
        epochs=len(place.losses),
        best_epoch=None if place.best is None else place.best.epoch + 1,
        steps=place.steps,
        rows_per_epoch=inputs.passes.epochs[0].rows,
        rows_per_s=clock.rows_per_s,
        input_wait=clock.waited,
        bytes_per_step=clock.bytes_per_step,
        expected_bytes_per_step=expected_bytes if ranks > 1 else None,
        loss=list(place.losses),
        auc=[of_epoch["auc"] for of_epoch in place.metrics],
        metrics=list(place.metrics),
        validation=list(place.validation),
    )


def model_version(towers: TwoTowers, similarity: str, shares: dict[str, float]) -> str:
    """Returns a digest of all that the vectors depend on: the weights, their norm, the shares of the combined one."""
    return storage.digest(weights_digest(towers.variables), json.dumps([similarity, shares]))


def save_model(
    inputs: Inputs,
    towers: TwoTowers,
    scorer: tf.keras.Model | None,
    manifest: ModelManifest,
    checkpoint: str,
    check_owner: Callable[[], None],
) -> None:
    """Writes model/, committed by one rename. Another model that stands there is set aside; see `dssm.model.kept`.

    Args:
      towers: with whole tables.
      checkpoint: that goes with them; it moves there.
      check_owner: raises where another start of this training has taken the folder over.
    """
    settings, paths = inputs.settings, inputs.paths
    check_owner()
    with new_model(paths) as folder, tempfile.TemporaryDirectory() as scratch:
        raw: dict[Side, RawTower] = {}
        sides: tuple[tuple[Side, tf.keras.Model], ...] = (("user", towers.user), ("item", towers.item))
        for side, part in sides:
            save_tower(part, f"{scratch}/{side}_tower", manifest.objectives)
            raw[side] = save_raw_tower(part, side, settings, inputs.train, paths.samples, f"{scratch}/{side}_tower_raw")
        pair: dict[Side, list[float]] | None = None
        if scorer is not None:
            save_scorer(scorer, f"{scratch}/{SCORER}")
            first = next(iter(manifest.objectives))
            pair = {side: _example_vector(part, raw[side], first) for side, part in sides}
        for made in Path(scratch).iterdir():
            storage.put_folder(str(made), f"{folder}/{made.name}")
        storage.rename(checkpoint, f"{folder}/checkpoint")
        write_card(folder, make_card(settings, manifest, raw, pair))
        storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")
    storage.remove(paths.checkpoints)


def _example_vector(tower: tf.keras.Model, made: RawTower, objective: str) -> list[float]:
    """Returns the vector of a tower's own example for an objective, rounded for reading."""
    columns = {name: tf.constant([made.encoded[name]], given.dtype) for name, given in tower.input.items()}
    return [round(number, 4) for number in tower(columns, training=False)[objective][0].numpy().tolist()]
