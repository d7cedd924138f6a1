from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dssm import locks
from dssm.config import Settings
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.report.run_facts import read_facts
from dssm.report.tracking import ENVIRONMENT, check_tracking, flattened, log_run, metric_curves, tracking_uri
from tests.report.full_run import (
    clustered_vectors,
    samples_run,
    settings_of,
    write_evaluation,
    write_jobs,
    write_model,
    write_table,
)


@pytest.fixture(autouse=True)
def file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tests' own client open a local folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run that is trained, evaluated and published, with a report."""
    made = samples_run(tmp_path)
    write_model(made)
    write_evaluation(made)
    write_jobs(made)
    write_table(made, f"{tmp_path}/table", clustered_vectors())
    Path(made.folder, "report.html").write_text("<p>first")
    Path(made.model, "model.json").write_text("{}")
    return made


def tracked(root: Path, **over: Any) -> Settings:
    return settings_of(root, tracking={"kind": "mlflow", **over})


def runs_of(root: Path, experiment: str = "tiny") -> list[Run]:
    client = MlflowClient(tracking_uri=(root / "mlruns").as_uri())
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_a_run_with_its_settings_metrics_tags_and_files(paths: RunPaths, tmp_path: Path) -> None:
    run_id = log_run(tracked(tmp_path), paths)
    (run,) = runs_of(tmp_path)
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny/2024-01-08"
    assert run.info.start_time == 1704769200000  # 2024-01-09 03:00 UTC, when the first job began
    assert run.data.params["features.topic.kind"] == "SparseFeat"
    assert run.data.params["train.loss.kind"] == "weighted_bce"
    assert run.data.params["features.age.boundaries"] == "[18.0, 30.0, 50.0]"
    assert not any(name.startswith(("spark", "tracking", "report")) for name in run.data.params)
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("dssm.")}
    facts = read_facts(paths)
    assert tags == {
        "dssm.run": "tiny/2024-01-08", "dssm.model_version": "m1", "dssm.samples_build": "b1",
        "dssm.table.items": "v1", **{f"dssm.digest.{part}": digest for part, digest in facts.data.items()},
    }  # fmt: skip
    assert set(facts.data) == {"train", "test", "items", "users", "interactions"}
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    assert {file.path for file in client.list_artifacts(run_id)} == {"report.html", "model.json", "evaluation.json"}


def test_metrics_by_epoch_and_of_the_evaluation(paths: RunPaths, tmp_path: Path) -> None:
    run_id = log_run(tracked(tmp_path), paths)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())

    def history(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]

    assert history("train/loss") == [(1, 3.0), (2, 2.5), (3, 2.25)]
    assert history("test/auc") == [(1, 0.6), (2, 0.7)]  # it is not known after the third
    assert history("validation/recall_at_50") == [(1, 0.3), (2, 0.4), (3, 0.39)]
    assert history("seen_kept/recall_at_50") == [(3, 0.4)]
    assert history("seen_filtered/itemcf/recall_at_50") == [(3, 0.38)]
    assert history("seen_kept/ndcg_at_50") == [(3, 0.4)]
    assert history("seen_kept/itemcf/ndcg_at_50") == []


def test_a_rerun_brings_the_same_run_up_to_date(paths: RunPaths, tmp_path: Path) -> None:
    first = log_run(tracked(tmp_path), paths)
    assert log_run(tracked(tmp_path), paths) == first
    evaluation = read_facts(paths).evaluation
    assert evaluation is not None
    better = {**evaluation["seen_kept"], "model": {"recall@10": 0.5, "recall@50": 0.6}}
    write_evaluation(paths, seen_kept=better)
    Path(paths.folder, "report.html").write_text("<p>second")
    assert log_run(tracked(tmp_path), paths) == first
    (run,) = runs_of(tmp_path)
    assert run.data.metrics["seen_kept/recall_at_50"] == 0.6
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    assert [point.value for point in client.get_metric_history(first, "train/loss")] == [3.0, 2.5, 2.25]
    assert [point.value for point in client.get_metric_history(first, "seen_kept/recall_at_50")] == [0.4, 0.6]
    (report,) = tmp_path.glob("mlruns/*/*/artifacts/report.html")
    assert report.read_text() == "<p>second"


def test_a_run_is_looked_for_and_made_under_the_runs_lock(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or two jobs that end at once would each find none, and make one."""
    held: dict[str, list[Path]] = {}
    for name in ("search_runs", "create_run"):
        asked = getattr(MlflowClient, name)

        def noted(client: MlflowClient, *given: Any, name: str = name, asked: Any = asked, **named: Any) -> Any:
            held[name] = list(Path(paths.folder).glob(f"{locks.PREFIX}*"))
            return asked(client, *given, **named)

        monkeypatch.setattr(MlflowClient, name, noted)
    log_run(tracked(tmp_path), paths)
    assert held["search_runs"] == held["create_run"] != []
    assert list(Path(paths.folder).glob(f"{locks.PREFIX}*")) == []


def test_another_model_is_another_run(paths: RunPaths, tmp_path: Path) -> None:
    first = log_run(tracked(tmp_path), paths)
    write_model(paths, model_version="m2")
    second = log_run(tracked(tmp_path), paths)
    assert second != first
    assert {run.data.tags["dssm.model_version"] for run in runs_of(tmp_path)} == {"m1", "m2"}


def test_without_tracking_nothing_is_written(paths: RunPaths, tmp_path: Path) -> None:
    assert log_run(settings_of(tmp_path), paths) is None
    assert not (tmp_path / "mlruns").exists()


def test_the_experiment_and_the_folder_are_settings(paths: RunPaths, tmp_path: Path) -> None:
    folder = tmp_path / "other place" / "mlruns"
    log_run(tracked(tmp_path, uri=str(folder), experiment="towers"), paths)
    assert len(runs_of(folder.parent, "towers")) == 1


def test_a_deleted_experiment_is_told(paths: RunPaths, tmp_path: Path) -> None:
    log_run(tracked(tmp_path), paths)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    found = client.get_experiment_by_name("tiny")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(UserError, match=r"tracking\.experiment: 'tiny' has been deleted in MLflow; restore it"):
        log_run(tracked(tmp_path), paths)


def test_samples_alone_are_nothing_to_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished model is there to log; run train"):
        log_run(tracked(tmp_path), samples_run(tmp_path))


def test_the_environment_is_left_as_it_was(paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    log_run(tracked(tmp_path), paths)
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == {
        **dict.fromkeys(ENVIRONMENT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
    }  # fmt: skip


# Settings --------------------------------------------------------------------------------------------------


def test_tracking_mlflow_is_short_for_its_kind(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, tracking="mlflow")
    assert settings.tracking.kind == "mlflow"
    assert tracking_uri(settings) == (tmp_path / "mlruns").as_uri()


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite:///x.db", "databricks", "file:///x"])
def test_a_uri_is_taken_as_it_is(tmp_path: Path, uri: str) -> None:
    assert tracking_uri(tracked(tmp_path, uri=uri)) == uri


def test_a_remote_root_needs_a_uri(tmp_path: Path) -> None:
    settings = tracked(tmp_path).model_copy(update={"root": "s3://bucket/runs"})
    with pytest.raises(UserError, match=r"tracking\.uri: not given, and root is s3://bucket/runs"):
        check_tracking(settings)
    check_tracking(settings.model_copy(update={"tracking": tracked(tmp_path, uri="http://host").tracking}))


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a password stands in the address; remove it"):
        tracked(tmp_path, uri="https://me:hunter2@host")


def test_lists_are_one_parameter_and_null_is_none() -> None:
    given = {"a": {"b": [1, "x"], "c": None, "d": {}}, "e": True, "recall@50": "text", "f": 0.5}
    assert flattened(given) == {"a.b": '[1, "x"]', "e": "true", "recall_at_50": "text", "f": "0.5"}


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_model(paths, loss=[1.0, float("nan")], metrics=[], validation=[])
    assert metric_curves(read_facts(paths)) == {"train/loss": [(1, 1.0)], "train/rows_per_s": [(3, 12345.6)]}
