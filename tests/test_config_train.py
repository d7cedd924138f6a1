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


WEIGHTLESS = {"any": {"kind": "uniform", "weight": 0}}
NOTHING_TO_LEARN: dict[str, tuple[dict[str, Any], str]] = {
    "a batch of one row": (
        {"train__batch_size": 1},
        "train.batch_size: 1 of one rank leaves in_batch_softmax of train.loss no candidate but a row's own item, and "
        "nothing is learned; expected 2 or more, or more train.ranks",
    ),
    "a batch of one row of an objective": (
        {
            "train": {"batch_size": 1, "loss": "mixed_negative"},
            "model__objectives": {"order": {"loss": {"kind": "bpr", "negatives": "batch"}}},
        },
        "train.batch_size: 1 of one rank leaves bpr of model.objectives.order.loss no candidate but a row's own item, "
        "and nothing is learned; expected 2 or more, or more train.ranks",
    ),
    "ranks that each compare a row with none": (
        {"train": {"batch_size": 1, "ranks": 4, "loss": {"candidates": "rank"}}},
        "train.batch_size: 1 with candidates: rank leaves in_batch_softmax of train.loss no candidate but a row's own "
        "item, and nothing is learned; expected 2 or more",
    ),
    "negatives without a weight in a softmax": (
        {"train__loss": "sampled_softmax", "samples__negatives": WEIGHTLESS},
        "samples.negatives: all have weight: 0, and sampled_softmax of train.loss compares a positive with those of a "
        "weight alone; set one above 0",
    ),
    "negatives without a weight in pairs": (
        {"train__loss": "hinge", "samples__negatives": WEIGHTLESS},
        "samples.negatives: all have weight: 0, and hinge of train.loss compares a positive with those of a weight "
        "alone; set one above 0",
    ),
    "negatives without a weight beside positives": (
        {"train__loss": "weighted_bce", "samples__negatives": WEIGHTLESS},
        "samples.train_rows: 'positives' leaves weighted_bce without negatives; expected 'all', samples.negatives with "
        "a weight above 0, or train.loss: in_batch_softmax",
    ),
    "negatives without a weight for a scorer": (
        {"model__scorer": {}, "samples__negatives": WEIGHTLESS},
        "model.scorer: learns to tell positives from others, and there are only positives; expected "
        "samples.train_rows: all, or samples.negatives with a weight above 0",
    ),
    "a rating that is 1 in each row": (
        {"train__loss": "regression"},
        "samples.train_rows: 'positives' leaves regression rows whose label is 1, the sources' own; expected 'all', "
        "a sources.X.label that is a rating, or an objective whose label is one of the sources' targets",
    ),
    "unclicked rows that weigh nothing": (
        {"samples__train_rows": "all", "samples__unclicked_weight": 0},
        "samples.unclicked_weight: 0 leaves only positives that weigh, with train_rows: all; expected a weight above "
        "0, or train_rows: positives without that weight",
    ),
}


@pytest.mark.parametrize("fault", NOTHING_TO_LEARN)
def test_a_training_that_can_learn_nothing_is_refused(tmp_path: Path, fault: str):
    changes, message = NOTHING_TO_LEARN[fault]
    assert faults(tmp_path, changed(**changes)) == [message]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"batch_size": 1, "ranks": 2}},
        {"train": {"batch_size": 1, "launch": "spark-elastic", "elastic": {"max_ranks": 2}}},
        {"train": {"batch_size": 1, "loss": "mixed_negative"}},
        {"train": {"batch_size": 1, "loss": "weighted_bce"}, "samples__train_rows": "all"},
        {"train": {"batch_size": 2, "ranks": 4, "loss": {"candidates": "rank"}}},
        {
            "train__loss": "sampled_softmax",
            "samples__negatives": {**WEIGHTLESS, "popular": {"kind": "popularity", "weight": 0.5}},
        },
        {"train__loss": "regression", "samples__train_rows": "all"},
        {
            "train__loss": "regression",
            "sources__feed__targets": {"watched": "watch_share"},
            "model__objectives": {"watched": {"label": "watched"}},
        },
    ],
)
def test_a_training_that_can_learn_is_taken(tmp_path: Path, changes: dict[str, Any]):
    assert isinstance(load(tmp_path, changed(**changes)), Settings)


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
        ("Like2_log_loss", None, True),
        ("LIKE_auc", None, False),
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
