"""train: starts the ranks by horovod.spark.run, by horovodrun, or in this process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dssm import storage
from dssm.config import Settings
from dssm.console import err, out, warn
from dssm.errors import LostRankError, UserError
from dssm.imports import uncollected
from dssm.manifest import MANIFEST, read_manifest
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.sections import Elastic, Train
from dssm.train.checkpoint import checkpoints_in
from dssm.train.interrupts import Interrupts, interrupts_told
from dssm.train.progress import REPORT_TO, ProgressView, ReportListener, ReportStream
from dssm.train.result import FAULTS_TO, TrainResult, fault_left

if TYPE_CHECKING:
    from pyspark import SparkContext

LOOPBACK = "127.0.0.1"
SLOTS_LIMIT_S = 60
END_S = 15  # wait for ranks that were told to end
FEW_STEPS = 20  # in all: with fewer the weights hardly leave where they began


def train(settings: Settings) -> None:
    """Trains the run's model and writes model/ (both towers as SavedModels, manifest last)."""
    # The ranks run in other folders, and on other hosts: a relative root means this process's.
    settings = settings.model_copy(update={"root": storage.absolute(settings.root)})
    paths = RunPaths(settings.run_folder)
    samples = read_manifest(paths.part("train"), "build_samples")
    chosen = settings.train
    steps = -(-samples.rows // (chosen.ranks * chosen.batch_size))
    losses = {(objective.loss or chosen.loss).kind for objective in settings.model.all_objectives.values()}
    out.print(
        f"  {samples.rows:,} rows in {len(samples.files)} files, {chosen.ranks} rank(s) by {chosen.launch}, "
        f"batch {chosen.batch_size} each, about {steps} steps an epoch, loss {' and '.join(sorted(losses))}"
    )
    if len(samples.files) < chosen.ranks:
        warn(
            f"  {len(samples.files)} sample files for {chosen.ranks} ranks: "
            "some ranks have nothing to read; lower train.ranks, or samples.rows_per_file and run build_samples again"
        )
    if (in_all := steps * chosen.epochs) < FEW_STEPS:
        warn(f"  {in_all} steps in all: lower train.batch_size or raise train.epochs")
    if chosen.resume and storage.exists(paths.checkpoints) and not checkpoints_in(paths.checkpoints):
        # The folder is of a start that has not come to its end. Said here: Horovod forwards the ranks' lines late.
        out.print("  the start before left no checkpoint: it begins at the first step")
    if chosen.ranks > 1:
        out.print(f"  {_limits_of(chosen)}", style="dim")
    if chosen.profile:
        storage.remove(paths.timeline)  # of an earlier training
    with (
        interrupts_told(lambda: _tell_broken_off(settings)) as interrupts,
        ProgressView() as view,
        _launch_folder(paths) as folder,
    ):
        if chosen.by_spark:
            model = _by_spark(settings, view, folder, interrupts)
        elif chosen.launch == "horovodrun":
            model = _by_horovodrun(settings, view, folder, interrupts)
        else:
            with uncollected():
                from dssm.train.worker import train_here

            model = train_here(settings, view.show)
    out.print(f"  model {model.model_version}, {model.rows_per_s:,.0f} samples/s: {paths.model}")
    out.print(f"  {tensorboard()} --logdir {paths.logs}", style="dim", markup=False)
    if chosen.profile:
        made = {"profile: its Profile tab": f"{paths.logs}/plugins/profile", "timeline": paths.timeline}
        for what, place in made.items():
            if storage.exists(place):
                out.print(f"  [dim]{what}: {place}[/dim]")


def tensorboard() -> str:
    """Returns the command of this environment, which need not be on PATH; below the current folder as a short path."""
    command = Path(sys.executable).with_name("tensorboard")
    if not command.exists():
        return command.name
    here = Path.cwd()
    return str(command.relative_to(here) if command.is_relative_to(here) else command)


def _tell_broken_off(settings: Settings) -> None:
    """Says what the same command will do after this one was broken off."""
    if settings.train.by_spark:
        from pyspark import SparkContext

        if (context := SparkContext._active_spark_context) is not None:
            with contextlib.suppress(Exception):  # its JVM may be gone already
                context.setLogLevel("OFF")  # it calls the end of its tasks an error
    err.print(f"train: broken off; {_how_it_goes_on(settings)}")


def _how_it_goes_on(settings: Settings) -> str:
    paths = RunPaths(settings.run_folder)
    if checkpoints_in(paths.checkpoints):
        if not settings.train.resume:
            return "the same command begins at the first step (train.resume)"
        return "the same command goes on from the last checkpoint, if that is of these settings and samples"
    # The checkpoints' folder is there from a training's start until its model is saved.
    if not storage.exists(paths.checkpoints) and storage.exists(f"{paths.model}/{MANIFEST}"):
        return "there is a whole model, and the same command trains it anew, from the first step"
    return "the same command begins at the first step: there is no checkpoint"


@contextlib.contextmanager
def _launch_folder(paths: RunPaths) -> Iterator[str]:
    """Yields a folder for what this launch's ranks leave, which is removed in the end.

    Raises: UserError with the fault of the user's that a rank has left, in the place of the rank's loss.
    """
    folder = f"{paths.launches}/{uuid.uuid4().hex}"
    try:
        yield folder
    except LostRankError as lost:
        if (fault := fault_left(folder)) is not None:
            raise UserError(fault) from lost
        raise
    finally:
        storage.remove(folder)
    storage.remove(paths.launches)  # of launchers that were killed, too: the model is this one's


def _environment(settings: Settings, report_to: str, faults_to: str = "") -> dict[str, str]:
    """What the ranks' processes are told.

    Gloo's own limit of 30 s is too short for a slow start. Horovod's stall limits are told too, but under Gloo
    they do not end a job in 0.28.1: the ranks' own watchdog does.
    """
    paths = RunPaths(settings.run_folder)
    timeline = {}
    if settings.train.profile and "://" not in paths.timeline:
        storage.make_folder(paths.timeline.rpartition("/")[0])
        timeline = {"HOROVOD_TIMELINE": paths.timeline}
    return timeline | {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(_gloo_timeout_s(settings.train)),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, settings.train.stall_shutdown_s // 2)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.train.stall_shutdown_s),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONHASHSEED": "0",
        REPORT_TO: report_to,
        FAULTS_TO: faults_to,
    }


def _limits_of(train: Train) -> str:
    """Returns how long silence is borne, for a reader."""
    silence = f"a rank in which no step ends for {train.stall_shutdown_s} s (train.stall_shutdown_s)"
    if train.elasticity is None:
        return f"{silence} ends the training; Gloo waits {_gloo_timeout_s(train)} s for another (train.start_timeout_s)"
    return f"{silence} is given up, and one that can't be reached after {_gloo_timeout_s(train)} s"


def _gloo_timeout_s(train: Train) -> int:
    if train.elasticity is None:
        return train.start_timeout_s
    # A host that was cut off is an error to the others before they end.
    return min(train.start_timeout_s, max(1, train.stall_shutdown_s * 2 // 3))


def interfaces_of(settings: Settings) -> set[str] | None:
    """Returns the names of the interfaces that ranks talk over; None for all that reach them."""
    security = settings.spark.security
    named = settings.train.interfaces or (security.interfaces if security is not None else None)
    return {name.strip() for name in named.split(",")} if named else None


def _by_spark(settings: Settings, view: ProgressView, folder: str, interrupts: Interrupts) -> ModelManifest:
    import horovod.spark
    from pyspark import SparkContext

    from dssm.train.gloo import gloo_seen
    from dssm.train.spark_hosts import (
        listening_at,
        lost_hosts_noticed,
        passed_on,
        ranks_start_with,
    )

    context = SparkContext.getOrCreate()
    train, security = settings.train, settings.spark.security
    _wait_for_slots(context, train.ranks)
    stream = ReportStream(view.show)
    host = context.getConf().get("spark.driver.host") or LOOPBACK
    python = context.pythonExec
    with (
        _listener(view, host) as address,
        gloo_seen(),
        listening_at(host if security is not None and security.interfaces else None),
        ranks_start_with(python),
        lost_hosts_noticed(context, train.stall_shutdown_s),
        interrupts.ending_ranks(),
    ):
        how = {
            "args": (settings.model_dump_json(exclude={"spark"}),),
            "num_proc": train.ranks,
            "start_timeout": train.start_timeout_s,
            "env": {**passed_on(context), **_environment(settings, address, folder)},
            "stdout": stream,
            "stderr": stream,
            "verbose": 0,
            "nics": interfaces_of(settings),
            "prefix_output_with_timestamp": False,
        }
        if train.launch == "spark":
            results = horovod.spark.run(_train_in_rank, use_gloo=True, executable=python, **how)
        else:
            elastic = train.elasticity
            assert elastic is not None
            results = horovod.spark.run_elastic(
                _train_in_rank,
                min_num_proc=elastic.min_ranks,
                max_num_proc=train.most_ranks,
                elastic_timeout=train.start_timeout_s,
                **how,
            )
    return TrainResult.model_validate_json(results[0]).unwrap()


def _train_in_rank(settings_json: str) -> str:
    """Is what Spark's driver sends the ranks: it has no need of TensorFlow itself."""
    with uncollected():
        from dssm.train.worker import train_worker

    return train_worker(settings_json)


def _wait_for_slots(context: SparkContext, ranks: int) -> None:
    """Waits until Spark can run all ranks at once: executors register some seconds after the session starts.

    Raises: UserError where there are too few after a minute; with a local master, at once.
    """
    scala = context._jsc.sc()
    limit = time.monotonic() + (0 if str(context.master).startswith("local") else SLOTS_LIMIT_S)
    while True:
        slots = int(scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile()))
        if slots >= ranks:
            return
        if time.monotonic() >= limit:
            raise UserError(
                f"train.ranks: {ranks} ranks, but Spark's master {context.master} has {slots} slots; "
                f"expected at most {slots}, or more cores: each rank waits for all others to start"
            )
        time.sleep(1)


@contextlib.contextmanager
def _listener(view: ProgressView, host: str) -> Iterator[str]:
    """Yields the address for rank 0's reports, or nothing where this machine can't listen there."""
    try:
        listener = ReportListener(view.show, host)
    except OSError as error:
        warn(f"  no live progress: {host} can't be listened at ({error})")
        yield ""
        return
    with listener:
        yield listener.address


def _told_interfaces(settings: Settings) -> set[str] | None:
    """Returns the interfaces that horovodrun is told of.

    Where all hosts are this one it takes loopback, and fails if that is not among them: those of spark.security are
    for ranks on other hosts. Which hosts an elastic launch gets nobody knows here.
    """
    from horovod.runner.util.network import filter_local_addresses

    train, named = settings.train, interfaces_of(settings)
    if train.interfaces:
        return named if train.hosts or train.elastic is not None else None
    if named is None or not train.hosts:
        return None
    names = [host.partition(":")[0].strip() for host in train.hosts.split(",")]
    return named if filter_local_addresses(names) else None


def _by_horovodrun(settings: Settings, view: ProgressView, folder: str, interrupts: Interrupts) -> ModelManifest:
    given, made = f"{folder}/settings.json", f"{folder}/result.json"
    storage.write_text(given, settings.model_dump_json(exclude={"spark"}))
    command = [sys.executable, "-m", "dssm.train.horovodrun", "-np", str(settings.train.ranks), "--gloo"]
    command += ["--start-timeout", str(settings.train.start_timeout_s)]
    if interfaces := _told_interfaces(settings):
        command += ["--network-interfaces", ",".join(sorted(interfaces))]
    if settings.train.elastic is not None:
        command += _elastic_options(settings.train, settings.train.elastic)
    elif settings.train.hosts:
        command += ["-H", settings.train.hosts]
    command += [sys.executable, "-m", "dssm.train.rank", given, made]
    stream = ReportStream(view.show)
    with (
        _listener(view, socket.getfqdn() if settings.train.hosts else LOOPBACK) as address,
        contextlib.ExitStack() as opened,
    ):
        environment = {**os.environ, **_environment(settings, address, folder)}
        try:
            with interrupts.held():
                process = opened.enter_context(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        errors="replace",
                    )
                )
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
        except KeyboardInterrupt:
            process.terminate()  # with its ranks, whose last words are of that end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=END_S)
            process.kill()
            raise
    ended = f"horovodrun ended with exit code {process.returncode}, its output is above"
    if not storage.exists(made):
        raise LostRankError(ended)
    model = TrainResult.model_validate_json(storage.read_text(made)).unwrap()
    if process.returncode != 0:
        warn(f"  a rank was lost when the model was saved already: {ended}")
    return model


def _elastic_options(train: Train, elastic: Elastic) -> list[str]:
    assert elastic.hosts_script is not None
    return [
        "--min-np", str(elastic.min_ranks), "--max-np", str(train.most_ranks),
        "--host-discovery-script", elastic.hosts_script, "--elastic-timeout", str(train.start_timeout_s),
    ]  # fmt: skip
