"""What each rank runs: read by the plan, step, measure, save."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import embedded
from dssm.manifest import (
    LABEL,
    MANIFEST,
    WEIGHT,
    Manifest,
    check_columns,
    read_manifest,
)
from dssm.metrics import auc
from dssm.model.export import save_tower, weights_digest
from dssm.model.manifest import ModelManifest
from dssm.model.towers import TwoTowers, build_towers, frozen_tables, tower_columns
from dssm.paths import RunPaths
from dssm.samples.lookups import load_vectors
from dssm.stream.batches import Batch, as_dataset, rank_batches
from dssm.stream.plan import plan_epoch
from dssm.train.negatives import load_negatives, step_negative_columns
from dssm.train.progress import REPORT_TO, Report, reporter
from dssm.train.result import TrainResult
from dssm.train.step import STEP_COLUMNS, make_optimizer, make_step, tower_vectors

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
        columns = {**STEP_COLUMNS, **self.user_columns, **self.item_columns}
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
        tf.keras.backend.clear_session()
        tf.keras.utils.set_random_seed(settings.seed)
        self.towers: TwoTowers = build_towers(settings.model, settings.features, sizes, settings.vectors, matrices)
        tf.keras.utils.set_random_seed(settings.seed + 1 + hvd.rank())  # dropout differs between ranks
        self.optimizer = make_optimizer(settings.train)
        self.step = make_step(settings.model, settings.train, self.towers, self.optimizer, negatives)

    def run(self, show: Callable[[Report], None]) -> ModelManifest:
        train = self.settings.train
        # The frozen tables are left out: each rank has read the same file.
        hvd.broadcast_variables([*self.towers.trained_variables, *self.optimizer.variables], root_rank=0)
        is_first = hvd.rank() == 0
        if is_first:
            storage.remove(self.paths.logs)  # an earlier training of the run would be drawn into the same curves
        writer = tf.summary.create_file_writer(self.paths.logs) if is_first else tf.summary.create_noop_writer()
        losses, aucs, seconds, done = [], [], 0.0, 0
        for epoch in range(train.epochs):
            started = time.monotonic()
            last: Report | None = None
            with writer.as_default():
                for last in self._epoch(epoch, started):
                    tf.summary.scalar("loss", last.loss, step=done + last.step)
                    tf.summary.scalar("samples_per_s", last.rows_per_s, step=done + last.step)
                    if is_first and last.step < last.steps:
                        show(last)
                seconds += time.monotonic() - started
                assert last is not None
                done += last.steps
                losses.append(last.loss)
                aucs.append(self._test_auc())
                tf.summary.scalar("test_auc", aucs[-1], step=done)
            if is_first:
                show(Report(**{**last.__dict__, "auc": aucs[-1]}))
        faulthandler.cancel_dump_traceback_later()  # saving takes the time it takes
        for variable in self.towers.variables:  # equal on all ranks: all stop here, or none
            if not np.isfinite(variable.numpy()).all():
                raise UserError(
                    f"train: {variable.name} holds NaN or infinity after the last step; "
                    f"lower train.learning_rate ({self.settings.train.learning_rate})"
                )
        saved = self._save(done, seconds, losses, aucs).model_dump_json() if is_first else None
        # Nobody leaves before the model is saved.
        return ModelManifest.model_validate_json(hvd.broadcast_object(saved, root_rank=0))

    def _save(self, steps: int, seconds: float, losses: list[float], aucs: list[float]) -> ModelManifest:
        """Writes model/, the manifest last."""
        settings = self.settings
        manifest = ModelManifest(
            model_version=weights_digest(self.towers.variables),
            date=settings.date.isoformat(),
            samples_build=self.train.build,
            vocabularies=self.train.vocabularies,
            frozen_vectors=list(self.towers.frozen),
            item_columns=self.item_columns,
            user_columns=self.user_columns,
            vector_dim=settings.model.vector_dim,
            ranks=hvd.size(),
            epochs=settings.train.epochs,
            steps=steps,
            rows_per_epoch=self.train.rows,
            rows_per_s=settings.train.epochs * self.train.rows / seconds,
            loss=losses,
            auc=[None if np.isnan(value) else value for value in aucs],
        )
        with storage.committed_folder(self.paths.model) as folder, tempfile.TemporaryDirectory() as scratch:
            for name, tower in (("user_tower", self.towers.user), ("item_tower", self.towers.item)):
                save_tower(tower, f"{scratch}/{name}")
                storage.put_folder(f"{scratch}/{name}", f"{folder}/{name}")
            storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")
        return manifest

    def _batches(self, part: str, manifest: Manifest, epoch: int, shuffle: bool) -> tuple[int, Iterator[Batch]]:
        train, seed = self.settings.train, self.settings.seed
        plan = plan_epoch([file.rows for file in manifest.files], seed, epoch, hvd.size(), train.batch_size)
        made = rank_batches(
            self.paths.part(part), manifest, self.columns[part], plan, hvd.rank(), train.batch_size,
            (seed, epoch) if shuffle else None, train.reader_threads,
        )  # fmt: skip
        return plan.steps, iter(as_dataset(made, self.columns[part], train.batch_size, train.prefetch))

    def _epoch(self, epoch: int, started: float) -> Iterator[Report]:
        """Steps through an epoch.

        Yields: a report now and then, and one after the last step with the epoch's mean loss.
        """
        steps, batches = self._batches("train", self.train, epoch, shuffle=True)
        pending: list[tf.Tensor] = []
        losses: list[float] = []
        for number, batch in enumerate(batches, start=1):
            pending.append(self.step(batch))
            self._expect_progress()
            if number % LOOK_EVERY and number < steps:
                continue
            fresh = [float(loss) for loss in pending]
            pending.clear()
            if not np.isfinite(fresh).all():
                step = number - len(fresh) + 1 + int(np.argmin(np.isfinite(fresh)))
                raise UserError(
                    f"train: the loss is {fresh[step - number - 1]} at step {step} of epoch {epoch + 1}; "
                    f"expected a finite number: lower train.learning_rate ({self.settings.train.learning_rate})"
                )
            losses += fresh
            mean = float(np.mean(losses if number == steps else fresh))
            seconds = time.monotonic() - started
            speed = self.train.rows * number / steps / seconds
            yield Report(epoch + 1, self.settings.train.epochs, number, steps, speed, mean, seconds)

    def _expect_progress(self) -> None:
        """Ends this rank, and so the job, unless it is called again in time: another rank may have fallen silent.

        Horovod's stall inspector is there for this, but in 0.28.1 under Gloo it does not end the job (measured).
        """
        if hvd.size() > 1:
            faulthandler.dump_traceback_later(self.settings.train.stall_shutdown_s, exit=True)

    def _test_auc(self) -> float:
        """AUC of the test samples of all ranks, as one process computes it; NaN where there are none."""
        if self.test.rows == 0:
            return float("nan")
        _, batches = self._batches("test", self.test, epoch=0, shuffle=False)
        scores, labels = [], []
        for batch in batches:
            users, items = self._score(batch)
            self._expect_progress()
            real = batch[WEIGHT].numpy() > 0
            scores.append(tf.reduce_sum(users * items, axis=1).numpy()[real])
            labels.append(batch[LABEL].numpy()[real])
        joined = np.stack([np.concatenate(scores), np.concatenate(labels)], axis=1)
        if hvd.size() > 1:
            joined = hvd.allgather(tf.constant(joined, tf.float32), name="test_scores").numpy()
        return auc(joined[:, 1], joined[:, 0])

    @tf.function
    def _score(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        return tower_vectors(self.towers, batch, training=False)


if __name__ == "__main__":  # started by horovodrun: the settings' file, then the file for rank 0's result
    result = train_worker(storage.read_text(sys.argv[1]))
    if os.environ.get("HOROVOD_RANK", "0") == "0":
        storage.write_text(sys.argv[2], result)
