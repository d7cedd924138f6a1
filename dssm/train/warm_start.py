"""Training further: an earlier run's towers, with its vocabularies grown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import Manifest, VocabularySpec
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.train.checkpoint import Arrays, DamagedCheckpointError, checked_manifest, read_checkpoint

RATE = "learning_rate"  # Keras' variable of a rate that is always the same: the settings' own holds


def earlier_model(settings: Settings) -> str:
    """Returns the folder of the model that is trained further: of a run's folder, or of NAME/DATE below root."""
    assert settings.train.warm_start is not None
    run = settings.train.warm_start.run
    inside = f"{settings.root}/{run}"
    return RunPaths(inside if storage.exists(f"{inside}/model") else run).model


def check_vocabularies(settings: Settings, samples: Manifest) -> None:
    """Raises: UserError where the samples number a token otherwise than the earlier model's did."""
    folder = earlier_model(settings)
    earlier = read_model_manifest(folder)
    for name, ours in samples.vocabularies.items():
        theirs = earlier.vocabularies.get(name)
        if theirs is None:
            raise UserError(
                f"train.warm_start: {folder} has no vocabulary '{name}'; expected a model of the same features"
            )
        grown = samples.vocabularies_of == earlier.samples_build and ours.size >= theirs.size
        if ours.digest != theirs.digest and not grown:
            raise UserError(
                f"train.warm_start: vocabulary '{name}' is not that of {folder} ({theirs.size} ids, here {ours.size}); "
                "build the samples with --vocabularies of the run that is trained further, and --grow"
            )


def iterations_before(settings: Settings) -> int:
    """Returns the optimizer's steps before this training, where its state is kept: schedules count from there."""
    chosen = settings.train.warm_start
    if chosen is None or chosen.optimizer == "reset":
        return 0
    return _manifest_iterations(settings)


def _manifest_iterations(settings: Settings) -> int:
    folder = f"{earlier_model(settings)}/checkpoint"
    try:
        return checked_manifest(folder).iterations
    except DamagedCheckpointError as error:
        raise UserError(f"train.warm_start: {folder}: {error}; train that run again") from error


def warm_arrays(
    settings: Settings,
    own: Mapping[str, tf.Variable],
    optimizer: set[str],
    sizes: Mapping[str, VocabularySpec],
) -> Arrays:
    """Returns what the variables begin with: the earlier run's numbers, and in new rows of tables their own.

    Args:
      own: the variables of this training, by name, with their first numbers.
      optimizer: names of those that are the optimizer's.
      sizes: the samples' vocabularies.
    Raises: UserError where the earlier model is another one.
    """
    assert settings.train.warm_start is not None
    keeps = settings.train.warm_start.optimizer == "keep"
    folder = earlier_model(settings)
    try:
        _, parts = read_checkpoint(f"{folder}/checkpoint")
    except DamagedCheckpointError as error:
        raise UserError(f"train.warm_start: {folder}/checkpoint: {error}; train that run again") from error
    earlier = {name: values for part in parts for name, values in part.items()}
    before = read_model_manifest(folder).vocabularies
    growths = {(before[name].size, spec.size) for name, spec in sizes.items() if name in before}
    made = {}
    for name, variable in own.items():
        if name in optimizer and (not keeps or name.startswith(RATE)):
            continue
        if name not in earlier:
            hint = "set train.warm_start.optimizer: reset" if name in optimizer else "keep the model's settings"
            raise UserError(f"train.warm_start: {folder} has no {name}; {hint}")
        made[name] = _grown(name, earlier[name], variable.numpy(), growths, folder)
    return made


def _grown(name: str, earlier: np.ndarray, own: np.ndarray, growths: set[tuple[int, int]], folder: str) -> np.ndarray:
    if earlier.shape == own.shape:
        return earlier
    same_width = earlier.ndim == own.ndim > 0 and earlier.shape[1:] == own.shape[1:]
    if same_width and (len(earlier), len(own)) in growths:
        return np.concatenate([earlier, own[len(earlier) :]])
    raise UserError(
        f"train.warm_start: {name} is {earlier.shape} in {folder}, here {own.shape}; expected the same model settings, "
        "and vocabularies that have grown at most"
    )
