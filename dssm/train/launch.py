"""train: starts the ranks by horovod.spark.run, by horovodrun, or in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from dssm.config import Settings
from dssm.console import out
from dssm.errors import UserError
from dssm.manifest import read_manifest
from dssm.model.manifest import ModelManifest
from dssm.paths import RunPaths
from dssm.train.progress import ProgressView, ReportListener, ReportStream
from dssm.train.result import TrainResult


def train(settings: Settings) -> None:
    """Trains the run's model and writes model/ (both towers as SavedModels, manifest last)."""
    paths = RunPaths(settings.run_folder)
    samples = read_manifest(paths.part("train"), "build_samples")
    chosen = settings.train
    steps = -(-samples.rows // (chosen.ranks * chosen.batch_size))
    out.print(
        f"  {samples.rows:,} rows in {len(samples.files)} files, {chosen.ranks} rank(s) by {chosen.launch}, "
        f"batch {chosen.batch_size} each, about {steps} steps an epoch, loss {chosen.loss}"
    )
    if len(samples.files) < chosen.ranks:
        out.print(
            f"  [yellow]{len(samples.files)} sample files for {chosen.ranks} ranks: "
            "some ranks have nothing to read; lower samples.rows_per_file[/yellow]"
        )
    with ProgressView() as view:
        if chosen.launch == "spark":
            model = _by_spark(settings, view)
        elif chosen.launch == "horovodrun":
            model = _by_horovodrun(settings, view)
        else:
            from dssm.train.worker import train_here

            model = train_here(settings, view.show)
    out.print(f"  model {model.model_version}, {model.rows_per_s:,.0f} samples/s: {paths.model}")
    out.print(f"  [dim]tensorboard --logdir {paths.logs}[/dim]")


def _environment(settings: Settings, report_to: str) -> dict[str, str]:
    """Horovod's limits: Gloo's own 30 s are too short for a slow start, and a lost rank must end the job."""
    return {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.train.start_timeout_s),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, settings.train.stall_shutdown_s // 2)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.train.stall_shutdown_s),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONHASHSEED": "0",
        "DSSM_REPORT_TO": report_to,
    }


def _by_spark(settings: Settings, view: ProgressView) -> ModelManifest:
    import horovod.spark
    from pyspark import SparkContext

    from dssm.train.worker import train_worker

    context = SparkContext.getOrCreate()
    ranks, slots = settings.train.ranks, context.defaultParallelism
    if ranks > slots:
        raise UserError(
            f"train.ranks: {ranks} ranks, but Spark's master {context.master} has {slots} slots; "
            f"expected at most {slots}, or more cores: each rank waits for all others to start"
        )
    host = context.getConf().get("spark.driver.host") or "127.0.0.1"
    stream = ReportStream(view.show)
    with ReportListener(view.show, host) as listener:
        results = horovod.spark.run(
            train_worker,
            args=(settings.model_dump_json(),),
            num_proc=ranks,
            start_timeout=settings.train.start_timeout_s,
            env={**os.environ, **_environment(settings, listener.address)},
            stdout=stream,
            stderr=stream,
            use_gloo=True,
            verbose=0,
            prefix_output_with_timestamp=False,
        )
    return TrainResult.model_validate_json(results[0]).unwrap()


def _by_horovodrun(settings: Settings, view: ProgressView) -> ModelManifest:
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch, "settings.json"), Path(scratch, "result.json")
        given.write_text(settings.model_dump_json(), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("horovodrun")), "-np", str(settings.train.ranks), "--gloo"]
        command += ["--start-timeout", str(settings.train.start_timeout_s)]
        if settings.train.hosts:
            command += ["-H", settings.train.hosts]
        command += [sys.executable, "-m", "dssm.train.worker", str(given), str(made)]
        stream = ReportStream(view.show)
        host = socket.gethostname() if settings.train.hosts else "127.0.0.1"
        with (
            ReportListener(view.show, host) as listener,
            subprocess.Popen(
                command,
                env={**os.environ, **_environment(settings, listener.address)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
        if process.returncode != 0:
            raise RuntimeError(f"horovodrun ended with exit code {process.returncode}; its output is above")
        return TrainResult.model_validate_json(made.read_text(encoding="utf-8")).unwrap()
