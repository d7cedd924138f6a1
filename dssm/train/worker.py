"""What each rank runs: read by the plan, step, measure, save."""

from __future__ import annotations

import dataclasses
import faulthandler
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import Side, embedded
from dssm.manifest import (
    EVENT_TIME,
    MANIFEST,
    ColumnSpec,
    Manifest,
    check_columns,
    read_manifest,
)
from dssm.model.card import make_card, write_card
from dssm.model.export import save_scorer, save_tower, weights_digest
from dssm.model.inputs import tower_columns
from dssm.model.manifest import ModelManifest
from dssm.model.raw.save import RawTower, save_raw_tower
from dssm.model.towers import TwoTowers, build_towers, frozen_tables
from dssm.model.two_tower import TwoTowerModel
from dssm.paths import RunPaths
from dssm.samples.lookups import load_vectors
from dssm.sections import Train
from dssm.stream.batches import Batch, as_dataset, rank_batches
from dssm.stream.plan import EpochPlan, plan_epoch
from dssm.train.catalogue import catalogue_batches
from dssm.train.checkpoint import save_state
from dssm.train.measure import make_predict, measure
from dssm.train.negatives import load_negatives, step_negative_columns
from dssm.train.progress import REPORT_TO, Report, reporter
from dssm.train.result import TrainResult
from dssm.train.shares import ITEM_ROW_PROBABILITY, Shares, catalogue_shares, recent_rows, with_shares
from dssm.train.step import CATALOGUE_COLUMNS, Losses, make_optimizer, make_step, step_columns
from dssm.train.watch import suspicious_columns

LOOK_EVERY = 10  # steps between looks at the loss: the same on all ranks, so that all stop at the same step


def train_worker(settings_json: str) -> str:
    """Trains as one of Horovod's ranks.

    Returns: a TrainResult as JSON. A fault of the user's is found by all ranks at the same step, and is returned:
      an exception would reach the launcher as the death of a rank.
    """
    settings = Settings.model_validate_json(settings_json)
    hvd.init()
    _use_device(settings)
    try:
        show = reporter(os.environ.get(REPORT_TO)) if hvd.rank() == 0 else _silent
        return TrainResult(model=_Trainer(settings).run(show)).model_dump_json()
    except UserError as error:
        return TrainResult(error=str(error)).model_dump_json()
    finally:
        faulthandler.cancel_dump_traceback_later()
        hvd.shutdown()


def train_here(settings: Settings, show: Callable[[Report], None]) -> ModelManifest:
    """Trains in this process, as the only rank."""
    hvd.init()
    _use_device(settings)
    return _Trainer(settings).run(show)


def _silent(_: Report) -> None:
    """Ranks other than 0 report nothing."""


def _use_device(settings: Settings) -> None:
    """Gives the rank its GPU, where there is one, and its share of the cores."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank() % len(gpus)], "GPU")
    cores = len(os.sched_getaffinity(0))
    threads = settings.train.threads or max(1, cores // hvd.local_size())
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(2)
    except RuntimeError:
        pass  # TensorFlow has run in this process already (a second date): its threads stay as they are


def _frozen_matrices(settings: Settings, paths: RunPaths) -> dict[str, np.ndarray]:
    """Loads the vectors that the towers hold themselves, (rows, width) each, from the run's samples.

    Raises: UserError where a table's width is not that of the settings.
    """
    matrices = {}
    for name in frozen_tables(settings.features, settings.vectors):
        path = f"{paths.part('vectors')}/{name}/vectors.parquet"
        matrix, width = load_vectors(path).matrix, settings.vectors[name].width
        if len(matrix) and matrix.shape[1] != width:
            raise UserError(
                f"vectors.{name}.width: {width}, but {path} holds vectors of {matrix.shape[1]} numbers; "
                "run build_samples again with these settings"
            )
        matrices[name] = matrix.reshape(-1, width)
    return matrices


@dataclass(frozen=True)
class _Pass:
    """One reading of rows.

    Attributes:
      number: of the epoch, from 0.
      rows: of all ranks.
      since: Unix ms; earlier rows are left out. None: none are.
      shares: of the items in it, where the samples' own are others.
    """

    number: int
    rows: int
    plan: EpochPlan
    since: int | None
    shares: Shares

    @property
    def steps(self) -> int:
        return self.plan.steps


def _use_precision(train: Train) -> None:
    """Sets what dense layers compute in; variables, losses and vectors stay float32."""
    # Not float16, whose range needs the loss to be scaled.
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if train.mixed_precision else "float32")


class _Trainer:
    """One rank's training of one run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.paths = RunPaths(settings.run_folder)
        self.train = read_manifest(self.paths.part("train"), "build_samples")
        self.test = read_manifest(self.paths.part("test"), "build_samples")
        self.user_columns, self.item_columns = (
            tower_columns(settings.features, side, settings.vectors) for side in ("user", "item")
        )
        columns = {**step_columns(settings), **self.user_columns, **self.item_columns}
        for part, manifest in (("train", self.train), ("test", self.test)):
            check_columns(manifest, columns, self.paths.part(part))
        drawn = step_negative_columns(settings, self.train, self.paths.part("train"))
        self.columns = {"train": {**columns, **drawn}, "test": columns}
        if self.train.rows == 0:
            raise UserError(f"{self.paths.part('train')}: no rows; expected positives in the training window")
        for feature in embedded(settings.features):
            if feature.vocabulary not in self.train.vocabularies:
                raise UserError(
                    f"{self.paths.part('train')}: no vocabulary '{feature.vocabulary}'; run build_samples again"
                )
        sizes = {name: spec.size for name, spec in self.train.vocabularies.items()}
        matrices = _frozen_matrices(settings, self.paths)
        negatives = load_negatives(settings, self.paths.part("items"), self.item_columns, self.train.build)
        self.passes = self._plan_passes()
        tf.keras.backend.clear_session()
        _use_precision(settings.train)
        tf.keras.utils.set_random_seed(settings.seed)
        towers = build_towers(settings.model, settings.features, sizes, settings.vectors, matrices)
        self.model = TwoTowerModel(settings.model, settings.train.loss, towers)
        tf.keras.utils.set_random_seed(settings.seed + 1 + hvd.rank())  # dropout differs between ranks
        self.optimizer = make_optimizer(settings.train, sum(a_pass.steps for a_pass in self.passes), self.model)
        self.catalogue, catalogue_size = self._open_catalogue()
        self.step = make_step(settings, self.model, self.optimizer, negatives, catalogue_size)
        self.predict = make_predict(self.model)

    @property
    def towers(self) -> TwoTowers:
        return self.model.towers

    def _plan_passes(self) -> list[_Pass]:
        """Returns the epochs over all rows, then those over the newest."""
        settings, train = self.settings, self.settings.train
        shares = {}
        if any((o.loss or train.loss).draws_all_rows for o in settings.model.all_objectives.values()):
            folder = self.paths.part("items")
            shares[ITEM_ROW_PROBABILITY] = catalogue_shares(folder, read_manifest(folder, "build_samples"))
        files = [file.rows for file in self.train.files]
        passes = [self._pass(number, files, None, shares) for number in range(train.epochs)]
        if train.recent is None:
            return passes
        recent = recent_rows(self.paths.part("train"), self.train, settings.day_start_ms(-train.recent.days))
        if not sum(recent.files):
            raise UserError(
                f"train.recent.days: {self.paths.part('train')} has no rows of the last {train.recent.days} days"
            )
        self.columns["train"] = {**self.columns["train"], EVENT_TIME: ColumnSpec(dtype="int64")}
        numbers = range(train.epochs, train.epochs + train.recent.epochs)
        return passes + [self._pass(number, recent.files, recent.since, recent.shares) for number in numbers]

    def _pass(self, number: int, files: list[int], since: int | None, shares: Shares) -> _Pass:
        train = self.settings.train
        plan = plan_epoch(files, self.settings.seed, number, hvd.size(), train.batch_size)
        return _Pass(number, sum(files), plan, since, shares)

    def _open_catalogue(self) -> tuple[Iterator[Batch], int]:
        """Returns the items that are drawn uniformly for each step, and how many there are to draw from."""
        items = self.model.catalogue_rows
        if not items:
            return itertools.repeat({}), 0
        folder = self.paths.part("items")
        manifest = read_manifest(folder, "build_samples")
        columns = {**CATALOGUE_COLUMNS, **self.item_columns}
        check_columns(manifest, columns, folder)
        if manifest.rows == 0:
            raise UserError(f"{folder}: no items; {self.settings.train.loss.kind} draws from the catalogue")
        seed, train = self.settings.seed, self.settings.train
        made = catalogue_batches(folder, manifest, columns, items, hvd.rank(), hvd.size(), seed)
        return iter(as_dataset(made, columns, items, train.prefetch)), manifest.rows

    def run(self, show: Callable[[Report], None]) -> ModelManifest:
        # The frozen tables are left out: each rank has read the same file.
        frozen = {id(layer.table) for layer in self.towers.frozen.values()}
        state = [variable for variable in self.model.variables if id(variable) not in frozen]
        hvd.broadcast_variables([*state, *self.optimizer.variables], root_rank=0)
        is_first = hvd.rank() == 0
        if is_first:
            storage.remove(self.paths.logs)  # an earlier training of the run would be drawn into the same curves
            storage.remove(self.paths.checkpoint)
        writer = tf.summary.create_file_writer(self.paths.logs) if is_first else tf.summary.create_noop_writer()
        done, seconds, losses, metrics = 0, 0.0, [], []
        for a_pass in self.passes:
            started = time.monotonic()
            last: Report | None = None
            with writer.as_default():
                for last, parts in self._steps_of(a_pass, started):
                    for name, value in parts.items():
                        tf.summary.scalar(name, value, step=done + last.step)
                    tf.summary.scalar("samples_per_s", last.rows_per_s, step=done + last.step)
                    if is_first and last.step < last.steps:
                        show(last)
                seconds += time.monotonic() - started
                assert last is not None
                done += last.steps
                losses.append(last.loss)
                metrics.append(self._test_metrics())
                for name, value in metrics[-1].items():
                    tf.summary.scalar(f"test_{name}", value, step=done)
            if is_first:
                faulthandler.cancel_dump_traceback_later()  # saving takes the time it takes
                save_state(self.model, self.optimizer, self.paths.checkpoint)
                show(dataclasses.replace(last, auc=metrics[-1]["auc"]))
        faulthandler.cancel_dump_traceback_later()
        for variable in self.towers.variables:  # equal on all ranks: all stop here, or none
            if not np.isfinite(variable.numpy()).all():
                raise UserError(
                    f"train: {variable.name} holds NaN or infinity after the last step; "
                    f"lower train.learning_rate ({self.settings.train.learning_rate})"
                )
        saved = self._save(done, seconds, losses, metrics).model_dump_json() if is_first else None
        # Nobody leaves before the model is saved.
        return ModelManifest.model_validate_json(hvd.broadcast_object(saved, root_rank=0))

    def _save(self, steps: int, seconds: float, losses: list[float], metrics: list[dict[str, float]]) -> ModelManifest:
        """Writes model/, the manifest last."""
        settings, model = self.settings, self.settings.model
        shares = {name: objective.share for name, objective in model.all_objectives.items()}
        tower = model.user_tower
        manifest = ModelManifest(
            model_version=weights_digest(self.towers.variables),
            date=settings.date.isoformat(),
            samples_build=self.train.build,
            vocabularies=self.train.vocabularies,
            frozen_vectors=list(self.towers.frozen),
            item_columns=self.item_columns,
            user_columns=self.user_columns,
            vector_dim=tower.width(model.vector_dim) * sum(share > 0 for share in shares.values()),
            vector_norm=(sum(shares.values()) * tower.unit_vectors()) ** 0.5 if model.similarity == "cosine" else None,
            objectives=shares,
            ranks=hvd.size(),
            epochs=len(self.passes),
            steps=steps,
            rows_per_epoch=self.train.rows,
            rows_per_s=sum(a_pass.rows for a_pass in self.passes) / seconds,
            loss=losses,
            auc=[_known(of_epoch["auc"]) for of_epoch in metrics],
            metrics=[{name: _known(value) for name, value in of_epoch.items()} for of_epoch in metrics],
        )
        with storage.committed_folder(self.paths.model) as folder, tempfile.TemporaryDirectory() as scratch:
            raw: dict[Side, RawTower] = {}
            for side, part in self._sides():
                save_tower(part, f"{scratch}/{side}_tower", shares)
                raw[side] = save_raw_tower(
                    part, side, settings, self.train, self.paths.samples, f"{scratch}/{side}_tower_raw"
                )
            if self.model.scorer is not None:
                save_scorer(self.model.scorer, f"{scratch}/scorer")
            for made in Path(scratch).iterdir():
                storage.put_folder(str(made), f"{folder}/{made.name}")
            save_state(self.model, self.optimizer, f"{folder}/checkpoint")
            write_card(folder, make_card(settings, manifest, raw))
            storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")
        storage.remove(self.paths.checkpoint)
        return manifest

    def _sides(self) -> tuple[tuple[Side, tf.keras.Model], ...]:
        return ("user", self.towers.user), ("item", self.towers.item)

    def _batches(
        self, part: str, manifest: Manifest, plan: EpochPlan, shuffle: int | None, since: int | None = None
    ) -> Iterator[Batch]:
        train, seed = self.settings.train, self.settings.seed
        made = rank_batches(
            self.paths.part(part), manifest, self.columns[part], plan, hvd.rank(), train.batch_size,
            None if shuffle is None else (seed, shuffle), train.reader_threads, since,
        )  # fmt: skip
        return iter(as_dataset(made, self.columns[part], train.batch_size, train.prefetch))

    def _steps_of(self, a_pass: _Pass, started: float) -> Iterator[tuple[Report, dict[str, float]]]:
        """Steps through a pass.

        Yields: a report now and then with the mean of the loss and of its parts since the last one, and one after
          the last step with the pass's mean loss.
        """
        batches = self._batches("train", self.train, a_pass.plan, a_pass.number, a_pass.since)
        pending: list[tuple[Batch, Losses]] = []
        losses: list[float] = []
        for number, batch in enumerate(batches, start=1):
            given = with_shares(batch, a_pass.shares)
            pending.append((given, self.step(given, with_shares(next(self.catalogue), a_pass.shares))))
            self._expect_progress()
            if number % LOOK_EVERY and number < a_pass.steps:
                continue
            fresh = [float(made["loss"]) for _, made in pending]
            if not np.isfinite(fresh).all():
                place = int(np.argmin(np.isfinite(fresh)))
                self._stop(fresh[place], a_pass, number - len(fresh) + 1 + place, pending[place][0])
            parts = {name: float(np.mean([float(made[name]) for _, made in pending])) for name in pending[0][1]}
            pending.clear()
            losses += fresh
            mean = float(np.mean(losses)) if number == a_pass.steps else parts["loss"]
            seconds = time.monotonic() - started
            speed = a_pass.rows * number / a_pass.steps / seconds
            yield Report(a_pass.number + 1, len(self.passes), number, a_pass.steps, speed, mean, seconds), parts

    def _stop(self, loss: float, a_pass: _Pass, step: int, batch: Batch) -> None:
        """Raises: UserError with the step, what stood in its batches, and where the last good state is."""
        own = suspicious_columns({name: values.numpy() for name, values in batch.items()})
        of_ranks = hvd.allgather_object(own, name="suspicious")
        shown = [f"  rank {rank}: {column}" for rank, columns in enumerate(of_ranks) for column in columns]
        saved = self.paths.checkpoint if a_pass.number else "none yet: it is written after each epoch"
        raise UserError(
            f"train: the loss is {loss} at step {step} of epoch {a_pass.number + 1}; expected a finite number: lower "
            f"train.learning_rate ({self.settings.train.learning_rate}), set train.clip, or mend the feature\n"
            + "\n".join(["in that step's batch:", *shown, f"last good checkpoint: {saved}"])
        )

    def _expect_progress(self) -> None:
        """Ends this rank, and so the job, unless it is called again in time: another rank may have fallen silent.

        Horovod's stall inspector is there for this, but in 0.28.1 under Gloo it does not end the job (measured).
        """
        if hvd.size() > 1:
            faulthandler.dump_traceback_later(self.settings.train.stall_shutdown_s, exit=True)

    def _test_metrics(self) -> dict[str, float]:
        """Measures the test samples of all ranks, as one process does: see `measure`."""
        files, train = [file.rows for file in self.test.files], self.settings.train
        if not self.test.rows:
            return measure(self.model, self.predict, iter(()))
        plan = plan_epoch(files, self.settings.seed, 0, hvd.size(), train.batch_size)
        return measure(self.model, self.predict, self._watched(self._batches("test", self.test, plan, None)))

    def _watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch
            self._expect_progress()


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


if __name__ == "__main__":  # started by horovodrun: the settings' file, then the file for rank 0's result
    result = train_worker(storage.read_text(sys.argv[1]))
    if os.environ.get("HOROVOD_RANK", "0") == "0":
        storage.write_text(sys.argv[2], result)
