"""The report's section on settings: YAML that loads again, without secrets."""

from __future__ import annotations

from pathlib import Path

import yaml

from dssm.config import Settings
from dssm.report.run_page import shown_settings
from tests.report.full_run import samples_run, settings_of
from tests.report.test_run_page import page_of, text_of


def test_settings_are_yaml_without_secrets(tmp_path: Path) -> None:
    conf = {"spark.lake.login": "hunter2", "spark.executor.memory": "4g"}
    sources = {
        "feed": {
            "path": "https://me:hunter2@lake/feed.csv", "user": "user", "item": "item", "time": "time",
            "targets": {"like": "is_like", "share": "is_share"},
        }
    }  # fmt: skip
    train = {"loss": "weighted_bce", "optimizer": {"kind": "adagrad"}, "batch_size": 64}
    settings = settings_of(tmp_path, spark={"conf": conf}, sources=sources, train=train)
    shown = text_of(page_of(samples_run(tmp_path), settings))
    assert "hunter2" not in shown
    changed, full = (yaml.safe_load(yaml.safe_dump(shown_settings(settings, c))) for c in (True, False))
    assert "spark" not in changed
    assert "spark" not in full
    assert changed["sources"]["feed"]["path"] == "https://(not shown)@lake/feed.csv"
    assert changed["train"] == {"loss": {"kind": "weighted_bce"}, "optimizer": {"kind": "adagrad"}, "batch_size": 64}
    assert changed["features"]["topic"] == {"kind": "SparseFeat", "side": "item"}
    assert "epochs" in full["train"]
    again = Settings.model_validate({**changed, "sources": sources})
    assert again.model_dump(exclude={"spark"}) == settings.model_dump(exclude={"spark"})


def test_names_of_environment_variables_are_no_secrets(tmp_path: Path) -> None:
    sinks = {"near": {"kind": "redis", "password_env": "REDIS_PASSWORD"}}
    shown = shown_settings(settings_of(tmp_path, index={"sinks": sinks}), changed=True)
    assert shown["index"]["sinks"]["near"]["password_env"] == "REDIS_PASSWORD"
