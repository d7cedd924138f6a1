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
from dssm.model.shards import Shard
from dssm.model.two_tower import TwoTowerModel
from dssm.train.checkpoint import (
    Arrays,
    CheckpointFile,
    CheckpointManifest,
    CheckpointWriter,
    DamagedCheckpointError,
    TakenOverError,
    arrays_of,
    checkpoints_in,
    file_name,
    latest,
    manifest_of,
    opened_checkpoint,
    remove_unfinished,
    training_digest,
    unique_names,
    write_checkpoint,
)
from dssm.train.collectives import broadcast_variables
from dssm.train.place import Best, Place
from dssm.train.sharding import shard_states, shared_variables

BEST = "best-"


class TrainingState:
    """The variables of a training, and its checkpoints. Every rank has one.

    Rank 0 writes what all ranks share; where tables are spread over the ranks each writes its shard, and `write`,
    `begin_pending`, `write_best`, `take_best`, `end` and `write_final` are called by all ranks at the same step; so are
    `is_due`, `is_due_at_end` and `not_finite`, which ask the other ranks.

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
        self._optimizer = optimizer
        shared = shared_variables(model, optimizer)
        self._shards = {state.name: state for state in shard_states(model, optimizer)}
        own = {id(state.variable) for state in self._shards.values()}
        names = unique_names([variable.name for variable in shared])
        self._shared = {name: v for name, v in zip(names, shared, strict=True) if id(v) not in own}
        self._is_spread = any(state.shard.ranks > 1 for state in self._shards.values())
        self._found: str | None = None
        limit_s = settings.train.stall_shutdown_s / 2  # for a file that another rank's store may have refused
        self._writer = CheckpointWriter(folder, self._chosen.keep, limit_s, not self._is_spread, self._check_token)
        self._written = time.monotonic()
        self._owner_file, self._token = f"{folder}/owner", secrets.token_hex(8)

    @property
    def last_good(self) -> str | None:
        """The newest whole checkpoint without NaN and infinity, after `end`; None where there is none.

        An update may spoil the weights though its loss was finite: a checkpoint of them is there before the next loss.
        """
        return next((found for found in checkpoints_in(self.folder) if _holds_finite(found)), None)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """All that the training changes, by name; of a table that is spread over ranks this one's rows."""
        return {**self._shared, **{name: state.variable for name, state in self._shards.items()}}

    def shard_of(self, name: str) -> Shard | None:
        """Returns which part of a table a variable is; None for one that is no sharded table's."""
        return self._shards[name].shard if name in self._shards else None

    @property
    def of_optimizer(self) -> set[str]:
        """Names of the variables that are the optimizer's."""
        own = {id(variable) for variable in self._optimizer.variables}
        return {name for name, variable in self.variables.items() if id(variable) in own}

    def begin(self, resume: bool) -> Place:
        """Reads on rank 0 the newest checkpoint that is whole, where there is one. The ranks `share` it afterwards.

        What is passed over is said and, with all that is left of other trainings, removed.
        """
        if hvd.rank():
            return Place()
        found, passed = latest(self.folder, self._build, self._digest) if resume else (None, {})
        for folder, reason in passed.items():
            print(f"train: {folder} {reason}", file=sys.stderr, flush=True)
            storage.remove(folder)
        if found is None:
            storage.remove(self.folder)
            return Place()
        remove_unfinished(self.folder)
        self._found = found
        place = manifest_of(found).place  # its files were checked just now
        print(f"train: resumed from {found}, {place.steps:,} steps done", file=sys.stderr, flush=True)
        return place

    def share(self, place: Place) -> Place:
        """Gives all ranks the variables and the place of rank 0. Returns: that place."""
        shared: Place
        shared, found = hvd.broadcast_object((place, self._found), root_rank=0, name="place")
        self._found = None
        self._load(found)
        return shared

    def claim(self) -> None:
        """Makes this start of the training the one that writes its checkpoints."""
        self._writer.forget()  # of before ranks were lost; this one's number may be another now
        if hvd.rank() == 0:
            storage.write_text(self._owner_file, self._token)

    def _load(self, found: str | None, check: bool = False) -> None:
        """Gives all ranks what a checkpoint holds; None: what rank 0 has, but for shards."""
        if found is not None and (hvd.rank() == 0 or self._is_spread):
            with opened_checkpoint(found, check) as opened:
                missing, spare = self.variables.keys() - opened.names, opened.names - self.variables.keys()
                if missing or spare:
                    raise RuntimeError(f"{found} lacks {sorted(missing)} and has {sorted(spare)} too many")
                self.assign({name: opened.array(name) for name in self._shared if hvd.rank() == 0})
                for name, state in self._shards.items():
                    state.variable.assign(opened.shard(name, state.shard))
        whole = [] if self._is_spread else [state.variable for state in self._shards.values()]
        broadcast_variables([*self._shared.values(), *whole])

    def copied(self) -> Arrays:
        """Copies what this rank has: all that the ranks share, and its shards."""
        return arrays_of(self.variables)

    def assign(self, arrays: Arrays) -> None:
        """Takes up what `copied` gave, of some variables or of all."""
        variables = self.variables
        for name, values in arrays.items():
            variables[name].assign(values)

    def _written_here(self) -> Arrays:
        """Copies what this rank writes: its shards and, on rank 0, what all ranks share."""
        shards = arrays_of({name: state.variable for name, state in self._shards.items()})
        return {**arrays_of(self._shared), **shards} if hvd.rank() == 0 else shards

    @property
    def _writes(self) -> bool:
        return hvd.rank() == 0 or self._is_spread

    def is_due(self, step: int, is_look: bool) -> bool:
        """Whether a checkpoint is due after this step; `write` knows which ranks write it.

        Args: is_look: whether all ranks look at the state after it: where all write, they agree on the time there.
        """
        if self._chosen.every_steps and step % self._chosen.every_steps == 0:
            return True  # on all ranks, which then look at the loss together
        minutes = self._chosen.every_minutes
        return minutes is not None and is_look and self._is_time(minutes)

    def is_due_at_end(self) -> bool:
        """Whether the end of an epoch is written."""
        return self._is_time(self._chosen.epoch_minutes)

    def _is_time(self, minutes: float) -> bool:
        """Whether the last write is so long ago: of the ranks that write, all know the same."""
        if not self._writes:
            return False
        due = minutes == 0 or (time.monotonic() - self._written > 60 * minutes and not self._writer.unfinished)
        if not self._is_spread:
            return due
        return bool(hvd.broadcast(tf.constant(due), root_rank=0, name="checkpoint_is_due").numpy())

    def write(self, place: Place) -> None:
        """Copies the state, and writes it while the training goes on. Raises: as `begin_pending`."""
        if not self._writes:
            return
        self._writer.copy(self._written_here, self._manifest(place), hvd.rank())
        self._written = time.monotonic()
        self.begin_pending()

    def begin_pending(self) -> None:
        """Begins to write the newest copy, where no rank is writing any more.

        Ranks that write together decide it together: which copies are pending, and which are begun, is the same on
        all of them, and a checkpoint that one of them writes is written by each.

        Raises: TakenOverError where another start of the training owns the folder, as the last write has found.
        """
        if not self._writes or (self._is_spread and (not self._writer.has_pending or self._is_any_writing())):
            return
        self._writer.begin()

    def _is_any_writing(self) -> bool:
        writing = tf.constant(int(self._writer.is_writing))
        return bool(hvd.allreduce(writing, op=hvd.Sum, name="is_checkpoint_being_written").numpy())

    def check_owner(self) -> None:
        """Raises: TakenOverError where the training was started again: two would spoil each other's files.

        It happens when a launcher is killed, and its ranks live on for a while.
        """
        if hvd.rank() == 0:
            self._check_token()

    def _check_token(self) -> None:
        if not storage.exists(self._owner_file) or storage.read_text(self._owner_file) != self._token:
            raise TakenOverError(f"{self.folder}: another start of this training has taken over; this one ends")

    def write_best(self, place: Place) -> None:
        """Writes the state of the best epoch so far. Those that a checkpoint names stay.

        The training waits for it, once an epoch at most, between two passes: each checkpoint from here on names it, and
        one that is whole while the best is not could not be resumed from.
        """
        assert place.best is not None
        self._write_now(self._best(place.best), place)
        if hvd.size() > 1 and not self._is_spread:  # else the others would wait in a step, whose limit is shorter
            hvd.broadcast_object(None, root_rank=0, name="best_is_written")
        if hvd.rank() == 0 and (named := self._named()) is not None:
            kept = {self._best(best) for best in [*named, place.best]}
            bests = [f"{self.folder}/{name}" for name in storage.folder_names(self.folder) if name.startswith(BEST)]
            for folder in set(bests) - kept:
                storage.remove(folder)

    def _named(self) -> list[Best] | None:
        """Returns the bests that checkpoints name: those being written, and then those that are whole.

        None where one can't be read, which may be its store's fault: what it names is not known.
        """
        found = [manifest.place.best for manifest in self._writer.unfinished]
        for folder in checkpoints_in(self.folder):
            try:
                found.append(manifest_of(folder).place.best)
            except DamagedCheckpointError:
                if storage.exists(folder):  # it was not just removed
                    return None
        return [best for best in found if best is not None]

    def take_best(self, best: Best) -> None:
        """Gives all ranks the weights of the best epoch, with its optimizer."""
        self._load(self._best(best), check=True)

    def _best(self, best: Best) -> str:
        return f"{self.folder}/{BEST}{best.epoch:06d}"

    def write_final(self, place: Place) -> str:
        """Writes the state as a later training takes it up. Returns: its folder."""
        self._write_now(f"{self.folder}/final", place)
        return f"{self.folder}/final"

    def _write_now(self, folder: str, place: Place) -> None:
        self.check_owner()
        if self._writes:
            write_checkpoint(folder, self._written_here(), self._manifest(place), hvd.rank())
        if self._is_spread:  # nobody reads it, or writes the next, before rank 0 has committed it
            hvd.broadcast_object(None, root_rank=0, name="checkpoint_is_written")

    def end(self) -> None:
        """Waits until all copies are written."""
        if self._writes:
            self._writer.finish()

    def _manifest(self, place: Place) -> CheckpointManifest:
        ranks = hvd.size() if self._is_spread else 1
        names = [file_name(rank, ranks) for rank in range(ranks)]
        return CheckpointManifest(
            settings=self._digest,
            samples_build=self._build,
            ranks=hvd.size(),
            iterations=int(self._optimizer.iterations),
            place=place,
            tables={name: state.rows for name, state in self._shards.items()},
            files=[CheckpointFile(name=name, bytes=0, sha256="") for name in names],
        )

    def not_finite(self) -> str | None:
        """Returns the name of a variable that holds NaN or infinity on any rank; None where there is none."""
        own = next((name for name, variable in self.variables.items() if not _is_finite(variable.numpy())), None)
        return next((name for name in hvd.allgather_object(own, name="not_finite") if name is not None), None)


def _holds_finite(checkpoint: str) -> bool:
    try:
        with opened_checkpoint(checkpoint) as opened:
            return all(_is_finite(part) for name in opened.names for part in opened.parts(name))
    except DamagedCheckpointError:
        return False


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
