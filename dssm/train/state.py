"""What must be kept to go on with a training, and its way to the ranks."""

from __future__ import annotations

import secrets
import sys
import time

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.model.two_tower import TwoTowerModel
from dssm.train.checkpoint import (
    Arrays,
    CheckpointFile,
    CheckpointManifest,
    CheckpointWriter,
    DamagedCheckpointError,
    arrays_of,
    checkpoints_in,
    file_name,
    latest,
    read_checkpoint,
    remove_unfinished,
    training_digest,
    unique_names,
    write_checkpoint,
)
from dssm.train.place import Place


def state_variables(model: TwoTowerModel, optimizer: tf.keras.optimizers.Optimizer) -> dict[str, tf.Variable]:
    """Returns by name all that a training changes: weights, optimizer, what the losses learn."""
    # The frozen tables are left out: each rank reads the same file.
    frozen = {id(layer.table) for layer in model.towers.frozen.values()}
    variables = [variable for variable in model.variables if id(variable) not in frozen]
    variables += list(optimizer.variables)
    return dict(zip(unique_names([variable.name for variable in variables]), variables, strict=True))


class TakenOverError(Exception):
    """Another process has become the one that writes a training's checkpoints."""


class TrainingState:
    """The variables of a training, and its checkpoints. Every rank has one; rank 0 writes.

    Args:
      settings: of the run.
      samples_build: of the samples that are trained on.
      folder: of the checkpoints.
    """

    def __init__(
        self,
        settings: Settings,
        samples_build: str,
        folder: str,
        model: TwoTowerModel,
        optimizer: tf.keras.optimizers.Optimizer,
    ) -> None:
        self.folder = folder
        self._chosen = settings.train.checkpoint
        self._digest, self._build = training_digest(settings), samples_build
        self._variables = state_variables(model, optimizer)
        self._optimizer = optimizer
        self._writer = CheckpointWriter(folder, self._chosen.keep)
        self._written = time.monotonic()
        self._owner_file, self._token = f"{folder}/owner", secrets.token_hex(8)

    @property
    def last(self) -> str | None:
        """The newest checkpoint, None before the first."""
        self._writer.wait()
        return next(iter(checkpoints_in(self.folder)), None)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """All that the training changes, by name."""
        return self._variables

    @property
    def of_optimizer(self) -> set[str]:
        """Names of the variables that are the optimizer's."""
        own = {id(variable) for variable in self._optimizer.variables}
        return {name for name, variable in self._variables.items() if id(variable) in own}

    def begin(self, resume: bool) -> Place:
        """Reads on rank 0 the newest checkpoint that is whole, where there is one. The ranks `share` it afterwards.

        What is passed over is said and, with all that is left of other trainings, removed.
        """
        if hvd.rank():
            return Place()
        found, passed = latest(self.folder, self._build, self._digest) if resume else (None, [])
        for line in passed:
            print(f"train: {line}", file=sys.stderr, flush=True)
        if found is None:
            storage.remove(self.folder)
            return Place()
        remove_unfinished(self.folder)
        place = self._load(found)
        print(f"train: resumed from {found}, {place.steps:,} steps done", file=sys.stderr, flush=True)
        return place

    def share(self, place: Place) -> Place:
        """Gives all ranks the variables and the place of rank 0, which now owns the checkpoints. Returns: the place."""
        if hvd.rank() == 0:
            storage.write_text(self._owner_file, self._token)
        shared: Place = hvd.broadcast_object(place, root_rank=0, name="place")
        hvd.broadcast_variables(list(self._variables.values()), root_rank=0)
        return shared

    def copied(self) -> Arrays:
        return arrays_of(self._variables)

    def assign(self, arrays: Arrays) -> None:
        """Takes up what `copied` gave, of some variables or of all."""
        for name, values in arrays.items():
            self._variables[name].assign(values)

    def _load(self, folder: str) -> Place:
        manifest, parts = read_checkpoint(folder)
        self._assign_all({name: values for part in parts for name, values in part.items()}, folder)
        return manifest.place

    def _assign_all(self, arrays: Arrays, folder: str) -> None:
        missing, spare = self._variables.keys() - arrays.keys(), arrays.keys() - self._variables.keys()
        if missing or spare:
            raise DamagedCheckpointError(f"{folder} lacks {sorted(missing)} and has {sorted(spare)} too many")
        self.assign(arrays)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this step. Only of rank 0's interest."""
        if hvd.rank():
            return False
        if self._chosen.every_steps and step % self._chosen.every_steps == 0:
            return True
        minutes = self._chosen.every_minutes
        return minutes is not None and time.monotonic() - self._written > 60 * minutes and not self._writer.busy

    def write(self, place: Place) -> None:
        """Copies the state, and writes it while the training goes on. Raises: as `check_owner`."""
        if hvd.rank():
            return
        self.check_owner()
        self._writer.write(self.copied, self._manifest(place))
        self._written = time.monotonic()

    def check_owner(self) -> None:
        """Raises: TakenOverError where the training was started again: two would spoil each other's files.

        It happens when a launcher is killed, and its ranks live on for a while.
        """
        if not storage.exists(self._owner_file) or storage.read_text(self._owner_file) != self._token:
            raise TakenOverError(f"{self.folder}: another start of this training has taken over; this one ends")

    def write_best(self, place: Place) -> None:
        """Writes the state of the best epoch so far, in the place of the one before."""
        if hvd.rank() == 0:
            write_checkpoint(f"{self.folder}/best", self.copied(), self._manifest(place))

    def take_best(self) -> None:
        """Gives all ranks the weights of the best epoch, with its optimizer."""
        if hvd.rank() == 0:
            self._load(f"{self.folder}/best")
        hvd.broadcast_variables(list(self._variables.values()), root_rank=0)

    def write_final(self, folder: str, place: Place) -> None:
        """Writes the state into `folder`, as a later training takes it up."""
        write_checkpoint(folder, self.copied(), self._manifest(place))

    def end(self) -> None:
        """Waits for what is being written."""
        self._writer.wait()

    def _manifest(self, place: Place) -> CheckpointManifest:
        name = file_name(0, 1)
        return CheckpointManifest(
            settings=self._digest,
            samples_build=self._build,
            ranks=hvd.size(),
            iterations=int(self._optimizer.iterations),
            place=place,
            files=[CheckpointFile(name=name, bytes=0, sha256="")],
        )

    def not_finite(self) -> str | None:
        """Returns the name of a variable that holds NaN or infinity; None where there is none."""
        for name, variable in self._variables.items():
            values = variable.numpy()
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                return name
        return None
