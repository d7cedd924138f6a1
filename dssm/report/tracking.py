"""A run in MLflow: its settings, metrics, report and card; what is there already is brought up to date."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dssm import locks, storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.evaluation import MODEL, VIEWS
from dssm.paths import RunPaths
from dssm.report.run_facts import RunFacts, read_facts
from dssm.report.run_page import shown_settings

RUN, MODEL_VERSION = "dssm.run", "dssm.model_version"  # tags by which a run is found again
LOCAL_FOLDER = "mlruns"
BATCH = 100  # parameters that a server takes at once
# MLflow's own defaults tell its makers of each use, refuse local folders, and wait two minutes for a server.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def check_tracking(settings: Settings) -> None:
    """Raises: UserError where the settings ask for MLflow, and it is not there or has nowhere to write."""
    if settings.tracking.kind != "mlflow":
        return
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "tracking.kind: found mlflow, but the package mlflow-skinny is not installed; install it "
            "(pip install '.[mlflow]'), or set tracking.kind to none"
        )
    tracking_uri(settings)


def tracking_uri(settings: Settings) -> str:
    """Returns the URI that MLflow is asked at. A path stands for a local folder, below `root` where none is named.

    Raises: UserError where `root` is no local folder, so that no default can be below it.
    """
    uri = settings.tracking.uri
    if uri is None and "://" in settings.root:
        raise UserError(
            f"tracking.uri: not given, and root is {settings.root}, where MLflow can't keep its files; expected a "
            "server's URI, or a local folder"
        )
    uri = uri or f"{settings.root}/{LOCAL_FOLDER}"
    known = urlsplit(uri).scheme or uri == "databricks"
    return uri if known else Path(storage.absolute(uri)).as_uri()


def log_run(settings: Settings, paths: RunPaths) -> str | None:
    """Logs a run where the settings ask for it. Returns: its id in MLflow; None without tracking.

    A run is found again by its name, its date and its model: a job that runs again adds what is new. Another model of
    the same date is another run, as MLflow keeps the parameters that a run began with.

    Raises: UserError where there is no model, MLflow is not installed, or it can't be written to.
    """
    if settings.tracking.kind == "none":
        return None
    check_tracking(settings)
    facts = read_facts(paths)
    if facts.model is None:
        raise UserError(f"{paths.model}: no finished model is there to log; run train for this date first")
    uri = tracking_uri(settings)
    with _explained(uri):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
    with locks.locked(paths.folder), _explained(uri):  # two jobs that end at once would each find no run, and make one
        run = _run(client, settings, facts)
    with _explained(uri):
        _log_parameters(client, run, facts)
        _log_metrics(client, run, facts)
        for name, value in _tags(facts).items():
            client.set_tag(run.info.run_id, name, value)
        _log_files(client, run.info.run_id, paths)
        client.set_terminated(run.info.run_id)
        run_id: str = run.info.run_id
        return run_id


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Sets MLflow's environment for the block, and turns its errors into one message."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:  # requests' own errors are OSErrors
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"tracking.uri: MLflow at {uri}: {reason}; expected a server that runs, or a folder"
            ) from error
    finally:
        for name, known in before.items():
            if known is None:
                os.environ.pop(name, None)


def _run(client: Any, settings: Settings, facts: RunFacts) -> Any:
    """Returns the run in MLflow, a new one where there is none."""
    experiment = settings.tracking.experiment or settings.name
    found = client.get_experiment_by_name(experiment)
    if found is not None and found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment: '{experiment}' has been deleted in MLflow; restore it there, or name another one"
        )
    place = found.experiment_id if found is not None else client.create_experiment(experiment)
    assert facts.model is not None
    tags = {RUN: _name(facts), MODEL_VERSION: facts.model.model_version}
    runs = client.search_runs([place], " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items()))
    if runs:
        return runs[0]
    began = min((used.began.timestamp() for used in facts.used.values()), default=time.time())
    return client.create_run(place, start_time=int(1000 * began), tags=tags, run_name=_name(facts))


def _name(facts: RunFacts) -> str:
    return f"{facts.run.settings.name}/{facts.run.manifest.date}"


def _tags(facts: RunFacts) -> dict[str, str]:
    tags = {"dssm.samples_build": facts.run.manifest.build}
    tags |= {f"dssm.digest.{part}": digest for part, digest in facts.data.items()}
    tags |= {f"dssm.table.{name}": found.manifest.version for name, found in facts.tables.items()}
    return tags


# Parameters and metrics -----------------------------------------------------------------------------------


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns settings as texts by dotted key; a list is one text, and what is null is left out.

    >>> flattened({"train": {"epochs": 5, "recent": None}, "roles": ["train"]})
    {'train.epochs': '5', 'roles': '["train"]'}
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{above}{_allowed(str(key))}"
        if isinstance(value, Mapping):
            found |= flattened(value, f"{name}.")
        elif value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def _allowed(name: str) -> str:
    """Returns a name without what MLflow takes in none.

    >>> _allowed("recall@50")
    'recall_at_50'
    """
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _log_parameters(client: Any, run: Any, facts: RunFacts) -> None:
    """Logs the settings that the model was trained with, once: MLflow changes none."""
    from mlflow.entities import Param

    given = shown_settings(facts.settings, changed=False)
    for aside in ("spark", "report", "tracking"):
        given.pop(aside, None)
    new = [Param(name, value) for name, value in flattened(given).items() if name not in run.data.params]
    for start in range(0, len(new), BATCH):
        client.log_batch(run.info.run_id, params=new[start : start + BATCH])


def metric_curves(facts: RunFacts) -> dict[str, list[tuple[int, float]]]:
    """Returns each metric as (epoch, value) pairs: by epoch, and of the evaluation at the last epoch."""
    model = facts.model
    assert model is not None
    found: dict[str, list[tuple[int, float]]] = {}

    def add(name: str, epoch: int, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            found.setdefault(_allowed(name), []).append((epoch, value))

    for epoch, value in enumerate(model.loss, start=1):
        add("train/loss", epoch, value)
    for part, epochs in (("test", model.metrics), ("validation", model.validation)):
        for epoch, metrics in enumerate(epochs, start=1):
            for name, metric in metrics.items():
                add(f"{part}/{name}", epoch, metric)
    add("train/rows_per_s", model.epochs, model.rows_per_s)
    for view in VIEWS:
        for ranker, metrics in (facts.evaluation or {}).get(view, {}).items():
            for name, metric in metrics.items():
                if ranker == MODEL:
                    add(f"{view}/{name}", model.epochs, metric)
                elif name.startswith("recall@"):
                    add(f"{view}/{ranker}/{name}", model.epochs, metric)
    return found


def _log_metrics(client: Any, run: Any, facts: RunFacts) -> None:
    """Logs the metrics that are new or have another last value than MLflow has."""
    from mlflow.entities import Metric

    now, known = int(1000 * time.time()), run.data.metrics
    new = [
        Metric(name, value, now, epoch)
        for name, curve in metric_curves(facts).items()
        if known.get(name) != curve[-1][1]
        for epoch, value in curve
    ]
    for start in range(0, len(new), BATCH):
        client.log_batch(run.info.run_id, metrics=new[start : start + BATCH])


def _log_files(client: Any, run_id: str, paths: RunPaths) -> None:
    """Logs the report, the model's card and the evaluation, where they are there."""
    with tempfile.TemporaryDirectory(prefix="dssm-") as scratch:
        for path in (paths.report, paths.card, paths.evaluation):
            if storage.exists(path):
                local = Path(scratch, Path(path).name)
                local.write_bytes(storage.read_bytes(path))
                client.log_artifact(run_id, str(local))
