"""What each rank runs: read by the plan, step, measure, save."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import WEIGHT
from dssm.model.autograph import without_autograph
from dssm.model.manifest import ModelManifest
from dssm.model.shards import Shard
from dssm.model.towers import TwoTowers, build_towers
from dssm.model.two_tower import TwoTowerModel
from dssm.paths import RunPaths
from dssm.sections import Train
from dssm.stream.batches import Batch
from dssm.stream.plan import Leg
from dssm.train.clock import Clock
from dssm.train.collectives import lost_rank_in
from dssm.train.curves import Board, Curves, draw, embedding_norms, speeds_of_ranks
from dssm.train.devices import use_device
from dssm.train.elastic import ElasticState, run_elastic
from dssm.train.exchange import exchange_of
from dssm.train.inputs import frozen_matrices, read_inputs
from dssm.train.own_name import warn_of_own_name
from dssm.train.pass_measures import Measures
from dssm.train.passes import Pass
from dssm.train.place import Best, Place
from dssm.train.profiling import FIRST, StepProfile
from dssm.train.progress import REPORT_TO, Note, Report, Show, as_text, reporter
from dssm.train.rank_watchdog import expect_nothing, expect_pause, expect_progress
from dssm.train.result import FAULTS_TO, TrainResult, leave_fault
from dssm.train.saving import model_manifest, save_model
from dssm.train.sharding import whole_towers
from dssm.train.shares import with_shares
from dssm.train.state import TrainingState
from dssm.train.step import EXCHANGE_S, RECEIVED_BYTES, Losses, make_optimizer, make_step, planned_rate
from dssm.train.warm_start import iterations_before, warm_arrays
from dssm.train.watch import told_of_batches

LOOK_EVERY = 10  # steps between looks at the loss: the same on all ranks, so that all stop at the same step


def train_worker(settings_json: str, result_to: str | None = None) -> str:
    """Trains as one of Horovod's ranks.

    Args: result_to: a file that rank 0 writes the result to.

    Returns: a TrainResult as JSON. A fault of the user's is returned: an exception would reach the launcher as the
      death of a rank. Most are found by all ranks at the same place; a damaged file by the rank that reads it, which
      ends the others, so that the launcher reads what that rank left (`result.leave_fault`).
    Raises: SystemExit where another rank was lost: the launcher says so, and a traceback of each would bury it.
    """
    settings = Settings.model_validate_json(settings_json)
    warn_of_own_name(os.environ)
    hvd.init()
    expect_pause(settings)
    try:
        result = _result(settings)
        if result_to is not None and hvd.rank() == 0:
            storage.write_text(result_to, result)
        return result
    finally:
        expect_nothing()
        hvd.shutdown()


def _result(settings: Settings) -> str:
    try:
        use_device(settings)
        return TrainResult(model=_Trainer(settings).run(_Reports(os.environ.get(REPORT_TO)))).model_dump_json()
    except UserError as error:
        if hvd.size() > 1:  # where one rank alone finds it, the launch fails before its result is read
            leave_fault(os.environ.get(FAULTS_TO), f"rank {hvd.rank()}", error)
        return TrainResult(error=str(error)).model_dump_json()
    except tf.errors.OpError as error:
        told = lost_rank_in(error)
        if told is None:
            raise
        print(f"a rank's collective ended, for another rank did or can't be reached: {told}", file=sys.stderr)
        raise SystemExit(1) from None


def train_here(settings: Settings, show: Show) -> ModelManifest:
    """Trains in this process, as the only rank."""
    hvd.init()
    use_device(settings)
    return _Trainer(settings).run(show)


class _Reports:
    """Reports to the launcher from rank 0, which may be another process after ranks were lost."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._show: Show | None = None

    def __call__(self, report: Report | Note) -> None:
        self._show = self._show or reporter(self._address)
        self._show(report)


def _use_precision(train: Train) -> None:
    """Sets what dense layers compute in; variables, losses and vectors stay float32."""
    # Not float16, whose range needs the loss to be scaled.
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if train.mixed_precision else "float32")


class _Trainer:
    """One rank's training of one run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.paths = RunPaths(settings.run_folder)
        self.inputs = inputs = read_inputs(settings)
        self.passes = inputs.passes
        tf.keras.backend.clear_session()
        _use_precision(settings.train)
        tf.keras.utils.set_random_seed(settings.seed)
        shard = Shard(hvd.rank(), hvd.size())
        towers = build_towers(
            settings.model, settings.features, inputs.vocabulary_sizes, settings.vectors,
            frozen_matrices(settings, self.paths), shard, settings.seed,
        )  # fmt: skip
        self.model = TwoTowerModel(settings.model, settings.train.loss, towers)
        self.optimizer = make_optimizer(
            settings.train, self._steps_left(Place()), self.model, iterations_before(settings)
        )
        self.items = inputs.items(self.model.catalogue_rows)
        self.elastic: ElasticState | None = None
        self.board = Board(self.paths.logs)
        self.profile = StepProfile(self.board.local_folder if settings.train.profile and hvd.rank() == 0 else None)
        self._compile()
        self.state = TrainingState(settings, inputs.train.build, self.paths.checkpoints, self.model, self.optimizer)
        if settings.train.warm_start is not None:  # on each rank: a fault is found by all
            self.state.assign(warm_arrays(settings, self.state, inputs.train.vocabularies))

    @property
    def towers(self) -> TwoTowers:
        return self.model.towers

    def _compile(self) -> None:
        """Makes the functions that are traced with the number of ranks, which an elastic training changes."""
        items = self.items.rows if self.items else 0
        self._traced: set[frozenset[str]] = set()  # columns beside the samples' own, of steps that were taken
        self.exchange = exchange_of(self.settings, self.model, hvd.size())
        negatives = self.inputs.negatives
        self.step = make_step(self.settings, self.model, self.optimizer, negatives, items, self.exchange)
        self.measures = Measures.of(self.inputs, self.model)

    def _steps_left(self, place: Place) -> int:
        """Returns the steps of these ranks from a place to the end, if nothing interrupts them."""
        ranks, batch_size = hvd.size(), self.settings.train.batch_size
        passes = self.passes.recent if place.stopped and not place.took_best else self.passes.all[place.epoch :]
        left = 0
        for a_pass in passes:
            begun = (
                place.on_leg(ranks, batch_size).legs if a_pass.number == place.epoch else (Leg(ranks, batch_size, 0),)
            )
            reading = a_pass.reading(self.settings.seed, begun)
            left += reading.plan.steps - reading.steps_done
        return left

    @without_autograph
    def run(self, show: Show) -> ModelManifest:
        """Trains from the run's last checkpoint, or from the start, and saves the model.

        Args: show: is called on rank 0 alone.
        """
        place = self.state.begin(self.settings.train.resume)
        if self.settings.train.elasticity is None:
            return self._run_from(self.state.share(place), show)
        self.elastic = ElasticState(self.state, place)
        return run_elastic(self.elastic, lambda synced: self._run_from(synced, show))

    def _run_from(self, place: Place, show: Show) -> ModelManifest:
        train, is_first = self.settings.train, hvd.rank() == 0
        if self.elastic is not None:
            self._compile()
        self.state.claim()
        self._plan_rate(place)
        if is_first and hvd.size() > 1:
            show(Note(f"{self.exchange.arithmetic}\n{as_text(self.exchange.rows())}"))
        clock = Clock()
        with self.board.open(anew=not place.steps, writes=is_first):
            while True:
                if self.passes.validation and self._epochs_are_over(place) and not place.took_best:
                    place = self._after_epochs(place)
                if place.epoch == len(self.passes.all):
                    break
                place = self._train_pass(place, clock, show)
        expect_pause(self.settings)
        self.profile.stop()
        self.board.copy()  # the profile
        if self.profile.is_missing:
            show(Note(f"  no TensorFlow profile: it begins after {FIRST} steps of a process, and this had no more"))
        if is_first and clock.bytes_per_step is not None:
            show(Note(self.exchange.beside(clock.bytes_per_step)))
        if (broken := self.state.not_finite()) is not None:  # equal on all ranks: all stop here, or none
            raise UserError(
                f"train: {broken} holds NaN or infinity after the last step; "
                f"lower train.learning_rate ({train.learning_rate})"
            )
        self.state.end()
        whole, final = whole_towers(self.settings, self.towers), self.state.write_final(place)
        saved = None if whole is None else self._save(whole, place, clock, final)
        # Nobody leaves before the model is saved.
        return ModelManifest.model_validate_json(hvd.broadcast_object(saved, root_rank=0))

    def _plan_rate(self, place: Place) -> None:
        """Lets the schedule end with the last step that these ranks will take from a place, as all of them know."""
        train, steps = self.settings.train, place.steps + self._steps_left(place)
        # A training that ends early may never have grown to its peak.
        rate = planned_rate(train, max(steps, train.schedule.warmup_steps + 1), iterations_before(self.settings))
        if callable(rate):
            self.optimizer.learning_rate = rate
            self._compile()

    def _train_pass(self, place: Place, clock: Clock, show: Show) -> Place:
        """Trains from a place to the end of its pass, and measures. Returns: the start of the next pass."""
        a_pass = self.passes.all[place.epoch]
        last: Report | None = None
        start = place.on_leg(hvd.size(), self.settings.train.batch_size)
        for last, reached, scalars in self._steps_of(a_pass, start, clock):
            place = reached
            draw(scalars, place.steps)
            self.board.copy_now_and_then()
            if hvd.rank() == 0 and last.step < last.steps:
                show(last)
        metrics = self.measures.test()
        validation = self.measures.validation() if a_pass in self.passes.epochs else None
        draw(metrics, place.steps, "test_")
        draw(validation or {}, place.steps, "validation_")
        draw({**embedding_norms(self.towers), "temperature": self.settings.model.tau}, place.steps)
        expect_pause(self.settings)
        place = place.after_pass(_known_of(metrics), None if validation is None else _known_of(validation))
        if validation is not None:
            place = self._judge(place, validation)
        if self.state.is_due_at_end():
            self.state.write(place)
        if self.elastic is not None:
            self.elastic.commit_at(place)
        if hvd.rank() == 0 and last is not None:
            show(
                dataclasses.replace(
                    last, loss=place.losses[-1], auc=metrics["auc"], validation=self.measures.shown(validation)
                )
            )
        return place

    def _epochs_are_over(self, place: Place) -> bool:
        return place.stopped or place.epoch >= len(self.passes.epochs)

    def _after_epochs(self, place: Place) -> Place:
        """Takes up the best epoch's weights, where one was looked for. Returns: the start of the last pass."""
        if place.best is not None:
            self.state.take_best(place.best)
            # The schedule goes on from the steps taken, and not from the best epoch's end: it must come to its own.
            self.optimizer.iterations.assign(iterations_before(self.settings) + place.steps)
        place = place.model_copy(update={"epoch": len(self.passes.epochs), "took_best": True})
        if place.stopped:
            self._plan_rate(place)  # fewer steps than were planned are left
        self.state.write(place)
        return place

    def _judge(self, place: Place, measured: dict[str, float]) -> Place:
        """Keeps the weights where they are the best so far. Returns: the place, stopped after epochs without a gain."""
        chosen = self.settings.train.validation
        assert chosen is not None
        value = place.losses[-1] if chosen.metric == "loss" else measured[chosen.metric]
        if np.isfinite(value) and chosen.improves(value, None if place.best is None else place.best.value):
            place = place.model_copy(update={"best": Best(epoch=place.epoch - 1, value=value)})
            self.state.write_best(place)
        elif chosen.patience is not None:
            last = -1 if place.best is None else place.best.epoch
            return place.model_copy(update={"stopped": place.epoch - 1 - last >= chosen.patience})
        return place

    def _save(self, whole: TwoTowers, place: Place, clock: Clock, final: str) -> str:
        """Args: whole: the towers with whole tables; final: the checkpoint that goes with them."""
        expected = self.exchange.expected_bytes
        manifest = model_manifest(self.inputs, whole, self.model.predictions, place, clock, hvd.size(), expected)
        save_model(self.inputs, whole, self.model.scorer, manifest, final, self.state.check_owner)
        return manifest.model_dump_json()

    def _steps_of(self, a_pass: Pass, place: Place, clock: Clock) -> Iterator[tuple[Report, Place, Curves]]:
        """Steps through what is left of a pass, and writes checkpoints when they are due.

        Yields: now and then, and after the last step, a report, the place, and what is drawn of the time since.
        """
        reading = a_pass.reading(self.settings.seed, place.legs)
        earlier = place.steps_of_pass - place.legs[-1].steps
        steps = earlier + reading.plan.steps
        with (
            contextlib.closing(self.inputs.batches("train", reading)) as batches,
            contextlib.closing(self.inputs.drawn_items(place, self.items, self.model.catalogue_rows)) as drawn,
        ):
            pending: list[tuple[Batch, Losses]] = []
            before: Batch = {}  # of the step before the pending ones
            clock.start(a_pass.rows / max(steps, 1))
            # The first step over these columns is traced.
            is_traced = (columns := frozenset(a_pass.shares)) in self._traced
            expect_progress(self.settings, 0 if is_traced else self.settings.train.start_timeout_s)
            for number in range(place.steps_of_pass + 1, steps + 1):
                self.profile.before_step()
                given, items = (with_shares(clock.waited_for(read), a_pass.shares) for read in (batches, drawn))
                pending.append((given, self.step(given, items)))
                clock.stepped()
                self._traced.add(columns)
                expect_progress(self.settings)
                taken, is_look = place.steps + len(pending), number % LOOK_EVERY == 0 or number == steps
                due, commits = self.state.is_due(taken, is_look), self._commits(taken)
                if not (is_look or due or commits):
                    continue
                fresh = [float(made["loss"]) for _, made in pending]
                if not np.isfinite(fresh).all():
                    at = int(np.argmin(np.isfinite(fresh)))
                    batches_of_steps = [before, *(one for one, _ in pending)]
                    self._stop(fresh[at], a_pass, number - len(fresh) + 1 + at, batches_of_steps[at : at + 2])
                scalars = {name: _mean([float(made[name]) for _, made in pending]) for name in pending[0][1]}
                rows = sum(int(np.count_nonzero(stepped[WEIGHT])) for stepped, _ in pending)
                shares = clock.look(scalars.pop(EXCHANGE_S, None), scalars.get(RECEIVED_BYTES), len(pending), rows)
                place = place.after_steps(len(pending), float(np.sum(fresh)))
                before = pending[-1][0]
                pending.clear()
                if due:
                    self.state.write(place)
                elif is_look:
                    self.state.begin_pending()
                if commits:
                    assert self.elastic is not None
                    self.elastic.commit_at(place)
                report = Report(
                    a_pass.number + 1, len(self.passes.all), number, steps, clock.rows_per_s, scalars["loss"],
                    clock.seconds, input_wait=shares.input_wait, exchange=shares.exchange,
                    learning_rate=float(self.optimizer.learning_rate),
                )  # fmt: skip
                curves: Curves = {
                    **scalars, "samples_per_s": report.rows_per_s, "learning_rate": report.learning_rate,
                    "input_wait": report.input_wait, "exchange": report.exchange,
                    **(speeds_of_ranks(clock.take_own()) if is_look else {}),
                }  # fmt: skip
                yield report, place, curves

    def _commits(self, step: int) -> bool:
        elastic = self.settings.train.elasticity
        return elastic is not None and step % elastic.commit_every_steps == 0

    def _stop(self, loss: float, a_pass: Pass, step: int, batches: Sequence[Batch]) -> None:
        """Args: batches: of the step before, and of the step.

        Raises: UserError with the step, what stood in its batches, and where the last good state is.
        """
        own = told_of_batches(*({name: values.numpy() for name, values in batch.items()} for batch in batches))
        of_ranks = hvd.allgather_object(own, name="suspicious")
        shown = [f"  rank {rank}: {column}" for rank, columns in enumerate(of_ranks) for column in columns]
        expect_pause(self.settings)
        self.state.end()
        found = self._last_good() if hvd.rank() == 0 else None
        saved = hvd.broadcast_object(found, root_rank=0, name="last_good") or "none; see train.checkpoint"
        raise UserError(
            f"train: the loss is {loss} at step {step} of epoch {a_pass.number + 1}; expected a finite number: lower "
            f"train.learning_rate ({self.settings.train.learning_rate}), set train.clip, or mend the feature\n"
            + "\n".join(["in that step's batch:", *shown, f"last good checkpoint: {saved}"])
        )

    def _last_good(self) -> str | None:
        """Returns the checkpoint to go back to; why it is not known, where its store fails: the others wait for it."""
        try:
            return self.state.last_good
        except OSError as error:
            return f"unknown, {self.paths.checkpoints} can't be read ({error})"


def _mean(values: list[float]) -> float:
    """Returns the mean of what is known: some numbers are made in some steps alone."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _known_of(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in metrics.items()}
