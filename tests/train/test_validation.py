"""Recall over the whole catalogue on rows kept back, against NumPy over all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dssm.manifest import ITEM_KEY, LABEL, WEIGHT, read_manifest
from dssm.model.inputs import tower_columns
from dssm.paths import RunPaths
from dssm.stream.batches import Prefetched
from dssm.train import pass_measures
from dssm.train.inputs import read_inputs
from dssm.train.measure import make_predict, measure, metric_names
from dssm.train.pass_measures import Measures
from dssm.train.passes import plan_passes
from dssm.train.validation import CatalogueRecall
from tests.datasets import DAY_MS, EVENT_TIME, draw_files, make_catalogue, make_rows, make_settings, write_run
from tests.train.tiny import make_model

pytestmark = pytest.mark.usefixtures("single_rank")

ROWS = (17, 23, 9, 31)


@pytest.mark.parametrize("cutoff", [1, 3, 8])
def test_recall_is_that_of_all_pairs(tmp_path: Path, cutoff: int):
    settings = write_run(tmp_path)
    model, folder = make_model(settings), RunPaths(settings.run_folder).part("items")
    columns = tower_columns(settings.features, "item", settings.vectors)
    recall = CatalogueRecall(model, folder, read_manifest(folder, "build_samples"), columns, batch_size=4)

    rows, catalogue = make_rows(settings, 40, seed=7), make_catalogue(settings)
    rows[WEIGHT][[2, 9]] = 0
    made = ({name: values[start : start + 8] for name, values in rows.items()} for start in range(0, 40, 8))
    found = recall(Prefetched(made, 1), cutoff)

    users = model.towers.user({name: rows[name] for name in model.towers.user.input})["label"].numpy().astype(float)
    own = model.towers.item({name: rows[name] for name in model.towers.item.input})["label"].numpy().astype(float)
    items = model.towers.item({name: catalogue[name] for name in model.towers.item.input})["label"].numpy()
    others = rows[ITEM_KEY][:, None] != catalogue[ITEM_KEY][None, :]
    better = (users @ items.T > (users * own).sum(axis=1, keepdims=True)) & others
    wanted = (rows[LABEL] > 0) & (rows[WEIGHT] > 0)
    assert 10 < wanted.sum() < 38
    assert found == pytest.approx((better.sum(axis=1) < cutoff)[wanted].mean())


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_items_that_no_score_tells_apart_are_found_by_chance(tmp_path: Path, bias: float):
    """A tower that has collapsed, to vectors of zeros or to one vector, finds no more than a draw would."""
    settings = write_run(tmp_path)
    model, folder = make_model(settings), RunPaths(settings.run_folder).part("items")
    for variable in model.towers.item.trainable_variables:
        variable.assign(np.full(variable.shape, bias if variable.name.endswith("bias") else 0, np.float32))
    rows = make_rows(settings, 40, seed=7)
    given = {name: rows[name] for name in model.towers.item.input}
    assert np.ptp(model.towers.item(given)["label"].numpy(), axis=0).max() < 1e-6
    columns = tower_columns(settings.features, "item", settings.vectors)
    recall = CatalogueRecall(model, folder, read_manifest(folder, "build_samples"), columns, batch_size=4)
    others = (rows[ITEM_KEY][:, None] != make_catalogue(settings)[ITEM_KEY][None, :]).sum(axis=1)
    drawn = 1 / (others + 1)[rows[LABEL] > 0]
    for cutoff in (1, 3):
        assert recall(Prefetched(iter([rows]), 1), cutoff) == pytest.approx((cutoff * drawn).mean())


def test_no_positives_no_recall(tmp_path: Path):
    settings = write_run(tmp_path)
    folder = RunPaths(settings.run_folder).part("items")
    columns = tower_columns(settings.features, "item", settings.vectors)
    recall = CatalogueRecall(make_model(settings), folder, read_manifest(folder, "build_samples"), columns, 4)
    assert np.isnan(recall(iter(()), 3))


def test_the_newest_days_are_kept_back_from_the_epochs_and_not_from_the_last_pass(tmp_path: Path):
    settings = write_run(tmp_path, ROWS, validation={"days": 2}, recent={"days": 3}, epochs=2)
    samples = read_manifest(RunPaths(settings.run_folder).part("train"), "build_samples")
    passes = plan_passes(settings, samples)
    times = [rows[EVENT_TIME] for rows in draw_files(settings, ROWS, seed=100)]
    start, newest = (settings.day_start_ms(0) - days * DAY_MS for days in (2, 3))
    assert passes.validation is not None
    assert passes.validation.file_rows == tuple(int((of_file >= start).sum()) for of_file in times)
    assert [a_pass.file_rows for a_pass in passes.epochs] == [tuple(int((t < start).sum()) for t in times)] * 2
    assert [a_pass.file_rows for a_pass in passes.recent] == [tuple(int((t >= newest).sum()) for t in times)]
    assert [a_pass.number for a_pass in passes.all] == [0, 1, 2]


OBJECTIVES = {
    "user_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "item_tower": {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}},
    "objectives": {
        "click": {"loss": "weighted_bce"},
        "like": {"label": "like", "loss": "regression"},
        "choice": {"loss": "in_batch_softmax"},
    },
    "scorer": {"kind": "logistic"},
}


def test_the_names_of_metrics_are_those_that_are_measured():
    settings = make_settings("unused", model=OBJECTIVES)
    model = make_model(settings)
    rows = make_rows(settings, 12)
    found = measure(model, make_predict(model), Prefetched(iter([rows]), 1))
    assert list(found) == metric_names(model)
    assert {"log_loss", "accuracy", "like_mse", "like_auc", "choice_auc", "scorer_auc"} <= found.keys()


def test_the_first_batch_of_test_and_of_validation_rows_has_more_time_for_it_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = write_run(tmp_path, ROWS, batch_size=8, start_timeout_s=70, validation={"days": 2, "metric": "recall@3"})
    more: list[int] = []
    monkeypatch.setattr(pass_measures, "expect_progress", lambda _, more_s=0: more.append(more_s))

    def seen() -> list[int]:
        made = more.copy()
        more.clear()
        return made

    measured = Measures.of(read_inputs(settings), make_model(settings))
    for longer_s in ([70], []):  # once a process
        measured.test()
        assert seen() == [*longer_s, *[0] * 3]  # 19 rows in batches of 8
        measured.validation()
        first, *others = seen()
        assert [first] == (longer_s or [0])
        assert others
        assert set(others) == {0}
