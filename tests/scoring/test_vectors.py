from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dssm.errors import UserError
from dssm.manifest import read_manifest
from dssm.paths import RunPaths
from dssm.scoring.vectors import check_model_fits, task_threads
from tests.datasets import make_settings, write_items
from tests.model.tiny import write_model


@pytest.mark.parametrize("storage", ["inline", "table"])
def test_a_model_fits_the_samples_that_it_was_trained_on(tmp_path: Path, storage: str):
    settings = make_settings(tmp_path, storage=storage)
    write_items(settings)
    folder = RunPaths(settings.run_folder).part("items")
    model = write_model(settings)
    check_model_fits(model, read_manifest(folder, "build_samples"), model.item_columns, folder)


@pytest.mark.parametrize("storage", ["inline", "table"])
def test_row_numbers_of_another_build_are_refused(tmp_path: Path, storage: str):
    settings = make_settings(tmp_path, storage=storage)
    write_items(settings, build="later")
    folder = RunPaths(settings.run_folder).part("items")
    model, samples = write_model(settings), read_manifest(folder, "build_samples")
    if storage == "inline":  # the rows hold the vectors themselves
        check_model_fits(model, samples, model.item_columns, folder)
        return
    with pytest.raises(UserError) as caught:
        check_model_fits(model, samples, model.item_columns, folder)
    assert str(caught.value) == (
        f"{folder}: build later holds row numbers of its own table of vectors 'post', but the model "
        f"{model.model_version} was trained on those of build tiny; run train again on these samples"
    )


def test_other_vocabularies_and_columns_are_refused(tmp_path: Path):
    settings = make_settings(tmp_path)
    write_items(settings)
    folder = RunPaths(settings.run_folder).part("items")
    model, samples = write_model(settings), read_manifest(folder, "build_samples")
    topic = samples.vocabularies["topic_id"].model_copy(update={"digest": "other"})
    other = samples.model_copy(update={"vocabularies": {**samples.vocabularies, "topic_id": topic}})
    with pytest.raises(UserError, match=r"vocabulary 'topic_id' is not the one that the model .* was trained with"):
        check_model_fits(model, other, model.item_columns, folder)
    columns = {name: spec for name, spec in samples.columns.items() if name != "image"}
    with pytest.raises(UserError, match=r"column 'image': found none, the settings expect float32\[4\] packed"):
        check_model_fits(model, samples.model_copy(update={"columns": columns}), model.item_columns, folder)


LOADS = """
import sys
from dssm.scoring.vectors import load_tower

one = load_tower(sys.argv[1], sys.argv[2], 3)
assert load_tower(sys.argv[1], sys.argv[2], 3) is one
import tensorflow as tf
print("threads", tf.config.threading.get_intra_op_parallelism_threads())
"""


@pytest.mark.slow
def test_a_worker_loads_a_tower_once_with_the_threads_of_a_task(tmp_path: Path):
    settings = make_settings(tmp_path)
    version = write_model(settings).model_version
    command = [sys.executable, "-c", LOADS, f"{RunPaths(settings.run_folder).model}/item_tower", version]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["threads", "3"]


@pytest.mark.parametrize(("conf", "threads"), [({"spark.task.cpus": "3"}, 3), ({}, 1)])
def test_a_task_has_the_threads_that_spark_gives_it(conf: dict[str, str], threads: int):
    assert task_threads(SimpleNamespace(conf=conf)) == threads
