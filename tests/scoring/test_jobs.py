"""The jobs that publish, from their command lines: on the session of the tests, and runs made by hand."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dssm import published
from dssm.attempts import read_attempts
from dssm.config import Settings
from dssm.errors import GateError
from dssm.paths import RunPaths
from dssm.published import Published
from tests.datasets import ITEMS
from tests.pipeline import Pipeline, run_in_process
from tests.scoring.runs import USERS, settings_at, write_run
from tests.scoring.tables import DATE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

NEXT = "2024-01-09"


@pytest.fixture
def run_job(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(settings: Settings, job: str, *arguments: str) -> None:
        config = tmp_path / "tiny.yaml"
        config.write_text(settings.model_dump_json(exclude_unset=True))
        pipeline = Pipeline(str(config), settings.name, Path(settings.root))
        run_in_process(spark, monkeypatch, pipeline, job, *arguments)

    return run


def current(location: str, date: str = DATE) -> Published:
    found = published.current(location, date)
    assert found is not None
    return found


def models_in(spark: SparkSession, table: str, date: str = DATE) -> list[str]:
    """Returns the model of each row that a reader of the Hive table sees."""
    rows = spark.table(table).filter(f"dt = '{date}'").select("model_version").collect()
    return [row["model_version"] for row in rows]


def test_score_users_publishes_the_users(
    spark: SparkSession, tmp_path: Path, run_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_at(tmp_path, "job")
    model = write_run(settings)
    run_job(settings, "score_users")
    assert models_in(spark, "job_users") == [model] * USERS
    made = current(published.run_table(settings.run_folder, "users")).manifest
    assert (made.side, made.rows, made.users) == ("user", USERS, "with a positive in the test window")
    assert f"published version {made.version} of job_users, {DATE}" in " ".join(capsys.readouterr().out.split())
    assert read_attempts(RunPaths(settings.run_folder))["score_users"].exit_code == 0


def test_force_publishes_what_a_gate_refuses_and_says_so(
    spark: SparkSession, tmp_path: Path, run_job: Callable[..., None]
) -> None:
    settings = settings_at(tmp_path, "forced")
    model = write_run(settings, recall=0.05)  # popularity has 0.1
    with pytest.raises(GateError, match=r"recall@50 is 0\.0500, popularity has 0\.1000"):
        run_job(settings, "score_items")
    assert published.read_pointer(settings.table_location, DATE) is None
    run_job(settings, "score_items", "--force")
    made = current(settings.table_location).manifest
    assert made.forced
    assert [reason[:32] for reason in made.overridden] == ["the model's recall@50 is 0.0500,"]
    assert models_in(spark, "forced_items") == [model] * ITEMS
    attempts = read_attempts(RunPaths(settings.run_folder))
    assert attempts["score_items"].exit_code == 0


def test_rollback_moves_readers_to_the_version_that_is_named(
    spark: SparkSession, tmp_path: Path, run_job: Callable[..., None]
) -> None:
    def settings_of(name: str) -> Settings:
        settings = settings_at(tmp_path / name, "back")
        items = settings.item_table.model_copy(update={"location": f"{tmp_path}/table"})
        return settings.model_copy(update={"item_table": items})

    first, second = settings_of("one"), settings_of("two")
    models = [write_run(first), write_run(second, "later", seed=2)]
    versions = []
    for settings, model in zip((first, second), models, strict=True):
        run_job(settings, "score_items")
        versions.append(current(settings.table_location).manifest.version)
        assert models_in(spark, "back_items") == [model] * ITEMS
    run_job(second, "rollback", "--to", versions[0])
    pointer = published.read_pointer(second.table_location, DATE)
    assert pointer is not None
    assert (pointer.version, pointer.rolled_back) == (versions[0], [versions[1]])
    assert models_in(spark, "back_items") == [models[0]] * ITEMS
    with pytest.raises(GateError, match=f"version {versions[1]} was rolled back"):
        run_job(second, "score_items")
    assert models_in(spark, "back_items") == [models[0]] * ITEMS


def test_dates_side_by_side_are_each_scored_by_their_own_model(
    spark: SparkSession, tmp_path: Path, run_job: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dssm.scoring.items import score_items

    together = threading.Barrier(2, timeout=120)

    def both(*given: Any) -> Published:
        together.wait()  # each has begun before one goes on
        return score_items(*given)

    settings = settings_at(tmp_path, "pair", dates_at_once=2)
    later = settings.for_date(dt.date.fromisoformat(NEXT))
    models = {DATE: write_run(settings), NEXT: write_run(later, seed=2)}
    monkeypatch.setattr("jobs.score_items.score_items", both)
    run_job(settings, "score_items", "--dates", f"{DATE}..{NEXT}")
    assert models[DATE] != models[NEXT]
    for date, model in models.items():
        assert models_in(spark, "pair_items", date) == [model] * ITEMS
        made = current(settings.table_location, date).manifest
        assert (made.model_version, made.rows, made.scored) == (model, ITEMS, ITEMS)
