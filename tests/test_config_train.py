"""Settings of the training: how it is started, resumed, validated and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dssm.cli import parse_settings
from dssm.config import Settings
from dssm.sections import Window
from dssm.sections.losses import InBatchSoftmax
from tests.settings_files import MINIMAL, changed, faults, load

ELASTIC = {"min_ranks": 1, "max_ranks": 4}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "elastic with a launch that is not": (
        {"train__elastic": ELASTIC, "train__launch": "spark"},
        "train.elastic: with launch: spark; remove it, or set launch: spark-elastic or horovodrun",
    ),
    "horovodrun that can't learn its hosts": (
        {"train__elastic": ELASTIC, "train__launch": "horovodrun"},
        "train.elastic.hosts_script: horovodrun learns the hosts of the moment from it; expected a program that prints "
        "host:slots a line",
    ),
    "a script that Spark would not ask": (
        {"train__elastic": {**ELASTIC, "hosts_script": "./hosts"}, "train__launch": "spark-elastic"},
        "train.elastic.hosts_script: with launch: spark-elastic, whose hosts are Spark's executors; remove it",
    ),
    "hosts that change, and those that do not": (
        {
            "train__elastic": {**ELASTIC, "hosts_script": "./hosts"},
            "train__launch": "horovodrun",
            "train__hosts": "a:2",
        },
        "train.hosts: 'a:2' with launch: horovodrun and train.elastic; remove it, or set launch: horovodrun without "
        "train.elastic, whose hosts are those of elastic.hosts_script",
    ),
    "more ranks than there may be": (
        {"train__elastic": ELASTIC, "train__launch": "spark-elastic", "train__ranks": 5},
        "train.ranks: 5, but train.elastic allows 1 to 4; expected a number between them to start with",
    ),
    "more days to validate on than there are": (
        {"train__validation": {"days": 99}},
        f"train.validation.days: 99 are more than window.train_days, {Window().train_days}; expected at most those",
    ),
    "a metric that is none": (
        {"train__validation": {"metric": "recal@10"}},
        "train.validation.metric: found 'recal@10': string should match pattern",
    ),
    "a threshold that is no chance": (
        {"train__threshold": 1.0},
        "train.threshold: found 1.0: input should be less than 1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_key_and_what_would_fit(tmp_path: Path, fault: str):
    changes, expected = FAULTS[fault]
    (found,) = faults(tmp_path, changed(**changes))
    assert found.startswith(expected)


def test_spark_elastic_needs_no_more_said(tmp_path: Path):
    settings = load(tmp_path, changed(train__launch="spark-elastic", train__ranks=2))
    assert settings.train.elasticity is not None
    assert settings.train.elasticity.min_ranks == 1
    assert load(tmp_path, changed(train__ranks=2)).train.elasticity is None


@pytest.mark.parametrize(
    ("metric", "cutoff", "is_better_low"),
    [
        ("recall@50", 50, False),
        ("recall", None, False),
        ("loss", None, True),
        ("like_mse", None, True),
        ("auc", None, False),
    ],
)
def test_metrics_say_which_way_is_better(tmp_path: Path, metric: str, cutoff: int | None, is_better_low: bool):
    chosen = load(tmp_path, changed(train__validation={"metric": metric, "min_gain": 0.1})).train.validation
    assert chosen is not None
    assert (chosen.cutoff, chosen.is_better_low) == (cutoff, is_better_low)
    assert chosen.improves(9.0, None)
    assert chosen.improves(0.5, 0.7) == is_better_low
    assert chosen.improves(0.7, 0.5) != is_better_low
    assert not chosen.improves(0.55, 0.5)
    assert not chosen.improves(0.5, 0.55)


def test_warm_start_on_the_command_line(tmp_path: Path):
    load(tmp_path, MINIMAL)
    config = str(tmp_path / "pipeline.yaml")
    (settings,) = parse_settings(["--config", config, "--warm-start", "feed/2024-01-14"], "train")
    assert settings.train.warm_start is not None
    assert (settings.train.warm_start.run, settings.train.warm_start.optimizer) == ("feed/2024-01-14", "keep")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_off_needs_no_quotes(tmp_path: Path):
    settings = load(tmp_path, MINIMAL, "train.loss.logq=off")
    assert isinstance(settings.train.loss, InBatchSoftmax)
    assert settings.train.loss.logq == "off"
