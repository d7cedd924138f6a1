"""A job under observation: what its log, its metrics and its attempt say, however it ends."""

from __future__ import annotations

import base64
import datetime as dt
import json
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dssm.attempts import read_attempts
from dssm.config import Settings
from dssm.console import measured, out, step
from dssm.errors import GateError, UserError
from dssm.observe.job import observed, starting
from dssm.observe.metrics import METRICS
from dssm.paths import RunPaths
from tests.datasets import make_settings
from tests.observe.gateway import gateway
from tests.report.full_run import BEGAN, IDS, clustered_vectors, full_run, settings_of, write_table


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def observing(root: Path | str, **observe: object) -> Settings:
    settings = make_settings(root)
    return settings.model_copy(update={"observe": type(settings.observe).model_validate(observe)})


def records(settings: Settings, job: str) -> list[dict[str, object]]:
    path = Path(RunPaths(settings.run_folder).job_log(job))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def values(text: str) -> dict[tuple[str, ...], float]:
    """Returns the samples by name and the labels beside the pipeline's and the job's."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert set(labels) >= {"pipeline", "job_name"}
            found[sample.name, *(v for k, v in sorted(labels.items()) if k not in ("pipeline", "job_name"))] = (
                sample.value
            )
    return found


def metrics_of(settings: Settings, job: str) -> dict[tuple[str, ...], float]:
    return values(Path(RunPaths(settings.run_folder).metrics(job)).read_text())


# Ends ----------------------------------------------------------------------------------------------------


def test_a_job_that_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSSM_RUN_ID", "scheduled__2024-01-08")
    settings = observing(tmp_path)
    with observed(settings, "train"):
        assert read_attempts(RunPaths(settings.run_folder))["train"].exit_code is None
        for _ in range(2):
            with step("epoch of 2024-01-08", "epoch"):
                out.print("half")
        measured("loss 0.5", {"loss": 0.5, "samples_per_s": 10.0})
        measured("loss 0.25", {"loss": 0.25})
        measured("peak", {"peak_bytes": 2**30})
    told = records(settings, "train")
    assert [r["message"] for r in told][:3] == ["train begins", "half", "epoch of 2024-01-08 done"]
    assert {(r["run_id"], r["run"], r["job"], r["date"]) for r in told} == {
        ("scheduled__2024-01-08", "tiny/2024-01-08", "train", "2024-01-08")
    }
    attempt = read_attempts(RunPaths(settings.run_folder))["train"]
    assert (attempt.exit_code, attempt.error, attempt.run_id) == (0, None, "scheduled__2024-01-08")
    found = metrics_of(settings, "train")
    assert attempt.ended is not None
    assert found["dssm_job_exit_status",] == 0
    assert found["dssm_job_last_success_timestamp_seconds",] == attempt.ended.timestamp()
    assert found["dssm_job_date_timestamp_seconds",] == dt.datetime(2024, 1, 8, tzinfo=dt.UTC).timestamp()
    assert found["dssm_train_loss",] == 0.25
    assert found["dssm_train_samples_per_second",] == 10
    assert found["dssm_job_peak_memory_bytes",] == 2**30
    epochs = [r["seconds"] for r in told if r["stage"] == "epoch" and "seconds" in r]
    assert found["dssm_stage_duration_seconds", "epoch"] == pytest.approx(sum(map(float, map(str, epochs))))
    assert len(epochs) == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("train.ranks: 9\nexpected fewer"), 2, "train.ranks: 9"),
        (GateError("gate: too low"), 3, "gate: too low"),
        (RuntimeError("5 rows\nof 6"), 1, "RuntimeError: 5 rows"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (SystemExit(7), 7, "SystemExit: 7"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_job_that_fails(tmp_path: Path, error: BaseException, code: int, line: str) -> None:
    settings = observing(tmp_path)
    with observed(settings, "train"):
        pass
    success = metrics_of(settings, "train")["dssm_job_last_success_timestamp_seconds",]
    with pytest.raises(type(error)), observed(settings, "train"), step("outer"), step("inner"):
        raise error
    attempt = read_attempts(RunPaths(settings.run_folder))["train"]
    assert (attempt.exit_code, attempt.error, attempt.stage) == (code, line, "inner")
    found = metrics_of(settings, "train")
    assert found["dssm_job_exit_status",] == code
    assert found["dssm_job_last_success_timestamp_seconds",] == success  # of the start before
    assert {name for name, *labels in found if labels} == {"dssm_stage_duration_seconds"}
    last = records(settings, "train")[-1]
    assert (last["level"], last["exit_code"], last["stage"]) == ("error", code, "inner")
    assert ("traceback" in last) == (not isinstance(error, UserError))


def test_a_secret_in_an_error_is_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hush-hush")
    settings = observing(tmp_path)
    with pytest.raises(RuntimeError), observed(settings, "train"):
        raise RuntimeError("hush-hush at redis://me:other@host was refused")
    noted = read_attempts(RunPaths(settings.run_folder))["train"].error
    assert noted == "RuntimeError: (not shown) at redis://(not shown)@host was refused"


def test_a_store_that_fails_at_the_end_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StoreError(Exception):
        """As object stores have: neither an OSError nor a ValueError."""

    def fails(*_: object) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr("dssm.observe.job.write_metrics", fails)
    monkeypatch.setattr("dssm.observe.records.storage.put_file", fails)
    settings = observing("memory://store-away")
    with observed(settings, "train"):
        pass
    said = capsys.readouterr().out
    assert "StoreError: the store is away" in said
    assert "the log can't be completed (the store is away)" in said
    assert read_attempts(RunPaths(settings.run_folder))["train"].exit_code == 0


def test_a_session_that_can_not_start_is_a_failure_of_each_date(tmp_path: Path) -> None:
    settings = observing(tmp_path)
    dates = [settings, settings.for_date(dt.date(2024, 1, 9))]
    with pytest.raises(UserError, match="no metastore"), starting(dates, "score_items"):
        raise UserError("no metastore")
    for of_date in dates:
        attempt = read_attempts(RunPaths(of_date.run_folder))["score_items"]
        assert (attempt.exit_code, attempt.error) == (2, "no metastore")


def test_levels_keep_the_file_small_and_the_metrics_whole(tmp_path: Path) -> None:
    settings = observing(tmp_path, level="error")
    with observed(settings, "train"), step("epoch"):
        measured("loss 1", {"loss": 1.0})
    assert records(settings, "train") == []
    assert {("dssm_train_loss",), ("dssm_stage_duration_seconds", "epoch")} <= set(metrics_of(settings, "train"))


# What the jobs leave ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (
            "build_samples",
            {
                ("dssm_rows_read", "sources.feed"): 4321, ("dssm_rows_quarantined", "sources.feed"): 0,
                ("dssm_rows_written", "train"): 40, ("dssm_rows_written", "items"): 60,
            },
        ),
        ("score_items", {("dssm_published_rows", "items"): 60}),
    ],
)  # fmt: skip
def test_what_a_job_left_is_measured(tmp_path: Path, job: str, expected: dict[tuple[str, ...], float]) -> None:
    full_run(tmp_path)
    settings = settings_of(tmp_path)
    with observed(settings, job):
        pass
    found = metrics_of(settings, job)
    assert {key: found.get(key) for key in expected} == expected


def test_a_rollback_tells_of_the_version_that_readers_see_since(tmp_path: Path) -> None:
    paths, settings = full_run(tmp_path), settings_of(tmp_path)
    earlier = BEGAN - dt.timedelta(hours=5)
    write_table(  # it is current from now on
        paths, f"{tmp_path}/item_table", clustered_vectors()[:58], IDS[:58],
        version="v0", at=earlier, quarantined={"not finite": 2},
    )  # fmt: skip
    with observed(settings, "rollback"):
        pass
    found = metrics_of(settings, "rollback")
    assert found["dssm_published_rows", "items"] == 58
    assert found["dssm_published_quarantined_rows", "items"] == 2
    assert found["dssm_published_timestamp_seconds", "items"] == earlier.timestamp()
    assert ("dssm_published_rows", "users") not in found


def test_models_evaluations_and_engines(tmp_path: Path) -> None:
    paths, settings = full_run(tmp_path), settings_of(tmp_path)
    found = {}
    for job in ("train", "evaluate", "index_items"):
        with observed(settings, job):
            pass
        found |= metrics_of(settings, job)
    model = json.loads(Path(f"{paths.model}/manifest.json").read_text())
    assert found["dssm_train_loss",] == model["loss"][-1]
    assert found["dssm_train_samples_per_second",] == model["rows_per_s"]
    evaluation = json.loads(Path(paths.evaluation).read_text())
    assert found["dssm_evaluation_users",] == evaluation["users"]
    assert found["dssm_evaluation_metric", "recall@50", "model"] == evaluation["seen_kept"]["model"]["recall@50"]
    index = json.loads((Path(paths.folder) / "index.json").read_text())
    for sink in index["sinks"]:
        assert found["dssm_index_rows", sink["sink"]] == sink["count"]
        for k, recall in sink["recall"].items():
            assert found["dssm_index_recall", k, sink["sink"]] == recall


def test_each_metric_is_explained_in_the_operations_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}" not in page] == []


# Elsewhere -------------------------------------------------------------------------------------------------


def test_a_further_file_for_the_textfile_collector(tmp_path: Path) -> None:
    settings = observing(tmp_path, metrics_file=f"{tmp_path}/collector/{{name}}_{{job}}.prom")
    with observed(settings, "train"):
        pass
    folder = tmp_path / "collector"
    assert [path.name for path in folder.iterdir()] == ["tiny_train.prom"]  # no half-written one beside it
    text = (folder / "tiny_train.prom").read_text()
    assert text == Path(RunPaths(settings.run_folder).metrics("train")).read_text()
    assert '# TYPE dssm_job_exit_status gauge\ndssm_job_exit_status{job_name="train",pipeline="tiny"} 0.0\n' in text


def test_pushes_replace_what_was_pushed_and_failures_add_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_PASSWORD", "swordfish")
    with gateway() as there:
        settings = observing(
            tmp_path, push_gateway=there.url, push_user="dssm", push_password_env="PUSH_PASSWORD", push_timeout_s=20
        )
        with observed(settings, "train"):
            pass
        with pytest.raises(UserError), observed(settings, "train"):
            raise UserError("no")
    done, failed = there.pushes
    path = "/metrics/job/dssm/job_name/train/pipeline/tiny"
    assert [(push.method, push.path) for push in there.pushes] == [("PUT", path), ("POST", path)]
    assert done.authorization == "Basic " + base64.b64encode(b"dssm:swordfish").decode()
    assert values(done.body)["dssm_job_exit_status",] == 0
    assert values(failed.body)["dssm_job_exit_status",] == 2
    assert ("dssm_job_last_success_timestamp_seconds",) not in values(failed.body)  # the gateway keeps the last one
    assert "swordfish" not in Path(RunPaths(settings.run_folder).job_log("train")).read_text()


def test_a_push_that_fails_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with gateway() as there:
        there.status = 500
        for url in (closed, there.url):
            settings = observing(tmp_path, push_gateway=url, push_timeout_s=20)
            with observed(settings, "train"):
                pass
            assert f"observe.push_gateway: {url}: " in capsys.readouterr().out
            last = records(settings, "train")[-1]
            assert last["level"] == "warning"
            assert str(last["message"]).startswith(f"observe.push_gateway: {url}: ")
            assert read_attempts(RunPaths(settings.run_folder))["train"].exit_code == 0


def test_a_password_that_is_not_there_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = observing(
        tmp_path, push_gateway="http://127.0.0.1:9", push_user="dssm", push_password_env="DSSM_NO_SUCH_VARIABLE"
    )
    with observed(settings, "train"):
        pass
    assert "observe.push_password_env: the environment has no DSSM_NO_SUCH_VARIABLE; set it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("observe", "complaint"),
    [
        ({"push_gateway": "host:9091"}, "expected http://host:port"),
        ({"push_gateway": "http://me:pw@host:9091"}, "name its environment variable in push_password_env"),
        ({"push_user": "me"}, "push_user goes with one of"),
        ({"level": "loud"}, "level"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, observe: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        observing(tmp_path, **observe)
