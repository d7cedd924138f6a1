"""Training further: an earlier run's towers, with its vocabularies grown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import Manifest, VocabularySpec
from dssm.model.manifest import read_model_manifest
from dssm.paths import earlier_run
from dssm.train.checkpoint import Arrays, DamagedCheckpointError, manifest_of, opened_checkpoint
from dssm.train.state import TrainingState

RATE = "learning_rate"  # Keras' variable of a rate that is always the same: the settings' own holds


def earlier_model(settings: Settings) -> str:
    """Returns the folder of the model that is trained further."""
    assert settings.train.warm_start is not None
    return earlier_run(settings.root, settings.train.warm_start.run).model


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
        # Only tokens keep their ids where more come: in more buckets every id is another one.
        may_grow = ours.rule == theirs.rule == "tokens" and samples.vocabularies_of == earlier.samples_build
        if ours.digest != theirs.digest and not (may_grow and ours.size >= theirs.size):
            fix = "build the samples with --vocabularies of the run that is trained further, and --grow"
            if ours.rule != "tokens" or theirs.rule != "tokens":
                fix = f"expected {theirs.in_words}, and {ours.in_words} are here: describe the feature as there"
            raise UserError(
                f"train.warm_start: vocabulary '{name}' is not that of {folder} ({theirs.size} ids, here {ours.size}); "
                + fix
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
        return manifest_of(folder).iterations
    except DamagedCheckpointError as error:
        raise UserError(f"train.warm_start: {folder}: {error}; train that run again") from error


def warm_arrays(settings: Settings, state: TrainingState, sizes: Mapping[str, VocabularySpec]) -> Arrays:
    """Returns what this rank's variables begin with: the earlier run's numbers, and in new rows of tables their own.

    Args: state: of this training, with its first numbers; sizes: the samples' vocabularies.
    Raises: UserError where the earlier model is another one.
    """
    assert settings.train.warm_start is not None
    keeps, of_optimizer = settings.train.warm_start.optimizer == "keep", state.of_optimizer
    folder = earlier_model(settings)
    before = read_model_manifest(folder).vocabularies
    growths = {(before[name].size, spec.size) for name, spec in sizes.items() if name in before}
    made = {}
    try:
        with opened_checkpoint(f"{folder}/checkpoint") as earlier:
            for name, variable in state.variables.items():
                if name in of_optimizer and (not keeps or name.startswith(RATE)):
                    continue
                if name not in earlier.names:
                    hint = (
                        "set train.warm_start.optimizer: reset" if name in of_optimizer else "keep the settings of both"
                    )
                    raise UserError(f"train.warm_start: {folder} has no {name}; {hint}")
                shard = state.shard_of(name)
                theirs = earlier.array(name) if shard is None else earlier.shard(name, shard)
                pairs = growths if shard is None else {(shard.rows(old), shard.rows(new)) for old, new in growths}
                made[name] = _grown(name, theirs, variable.numpy(), pairs, folder)
    except DamagedCheckpointError as error:
        raise UserError(f"train.warm_start: {folder}/checkpoint: {error}; train that run again") from error
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
