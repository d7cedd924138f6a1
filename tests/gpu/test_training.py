"""The same training on a GPU and on the processor, and what is GPU's alone (`make gpu-test`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import pytest
from pydantic import TypeAdapter

from dssm.config import Settings
from dssm.encoders import Encoder
from dssm.model.export import LoadedTower
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.train.launch import train
from tests.datasets import Rows, make_rows, write_run
from tests.gpu.conftest import run
from tests.train.joint import CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),  # the first training on a new card compiles kernels for minutes
]

ROWS = (300, 200, 250, 274)  # 16 steps of 64 an epoch
HOW: dict[str, Any] = {"batch_size": 64, "epochs": 2, "threads": None}
SHARDED = {"embedding": {"placement": "sharded", "min_rows": 7}}
ENCODERS: dict[str, dict[str, Any]] = {
    "attention": {"encoder": {"kind": "attention", "units": 4}},
    "transformer": {"encoder": {"kind": "transformer", "hidden": 8}},
}
CUDNN: dict[str, dict[str, Any]] = {  # apart: where cuDNN lacks a part, it ends the process
    "cnn": {"encoder": {"kind": "cnn", "filters": 4}},
    "lstm": {"encoder": {"kind": "lstm", "units": 4}},
    "gru": {"encoder": {"kind": "gru", "units": 4}},
}
MIXED = {"mixed_precision": True, "learning_rate": 0.05, "optimizer": "adagrad"}
DETERMINISTIC: dict[str, dict[str, Any]] = {
    "adam": {"checkpoint": {"every_steps": 3}, "deterministic": True},
    "rowwise": {"checkpoint": {"every_steps": 3}, "deterministic": True, "optimizer": "rowwise_adagrad"},
    "negatives": {"checkpoint": {"every_steps": 3}, "deterministic": True, **CASES["sampled"]},
}


def written(folder: Path, name: str, **how: Any) -> Settings:
    """Writes a run of a case, with its settings beside it."""
    encoder = how.pop("encoder", None)
    settings = write_run(folder / name, ROWS, **{**how, **HOW})
    if encoder is not None:
        chosen: Any = TypeAdapter(Encoder).validate_python(encoder)
        clicked = settings.features["clicked"].model_copy(update={"encoder": chosen})
        settings = settings.model_copy(update={"features": {**settings.features, "clicked": clicked}})
    (folder / f"{name}.json").write_text(settings.model_dump_json(), encoding="utf-8")
    return settings


def seen(folder: Path, name: str) -> Rows:
    if (error := folder / f"{name}.error").exists():
        pytest.fail(error.read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz") as found:
        return dict(found)


def all_cases() -> dict[str, dict[str, Any]]:
    cases = {name: how for name, how in CASES.items() if not name.startswith("sharded")}
    sharded = {**CASES["sharded_rowwise"], "model": SHARDED}
    return cases | ENCODERS | {"sharded": sharded, "mixed_precision": MIXED}


def trained_on_both(factory: pytest.TempPathFactory, cases: Mapping[str, dict[str, Any]]) -> dict[str, Path]:
    """Trains cases on the GPU and, at the same time, on the processor. Returns: the folder of each."""
    folders = {device: factory.mktemp(device) for device in ("gpu", "cpu")}
    for folder in folders.values():
        for name, how in cases.items():
            written(folder, name, **how)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda of: run("tests.gpu.training", str(of[1]), on_gpu=of[0] == "gpu"), folders.items()))
    return folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained_on_both(tmp_path_factory, all_cases())


@pytest.fixture(scope="module")
def trained_with_cudnn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained_on_both(tmp_path_factory, CUDNN)


def assert_trained_alike(folders: Mapping[str, Path], name: str) -> None:
    gpu, cpu = (seen(folders[device], name) for device in ("gpu", "cpu"))
    assert any("GPU:0" in device for device in gpu["device"])
    assert not any("GPU" in device for device in cpu["device"])
    assert len(gpu["losses"]) == 32
    assert gpu["losses"][-1] != gpu["losses"][0]
    apart = np.abs(gpu["losses"] / cpu["losses"] - 1).max()
    vectors = max(np.abs(gpu[key] - cpu[key]).max() for key in ("users", "items"))
    print(f"{name}: losses {apart:.1e} apart, vectors {vectors:.1e}")
    # What is rounded otherwise grows with the steps: under batch norm, PReLU and several objectives most of all.
    np.testing.assert_allclose(gpu["losses"][:10], cpu["losses"][:10], rtol=2e-5)
    np.testing.assert_allclose(gpu["losses"], cpu["losses"], rtol=5e-3)
    for key in ("users", "items"):
        np.testing.assert_allclose(gpu[key], cpu[key], atol=2e-2 if name == "objectives" else 1e-4)


@pytest.mark.parametrize("name", [name for name in all_cases() if name != "mixed_precision"])
def test_a_gpu_trains_as_the_processor_does(trained: dict[str, Path], name: str):
    assert_trained_alike(trained, name)


@pytest.mark.parametrize("name", CUDNN)
def test_lists_through_cudnn_train_as_on_the_processor(trained_with_cudnn: dict[str, Path], name: str):
    assert_trained_alike(trained_with_cudnn, name)


def test_memory_grows_and_matrices_are_float32(trained: dict[str, Path]):
    gpu = seen(trained["gpu"], "softmax")
    assert gpu["growth"]
    assert not gpu["tf32"]
    assert 0 < gpu["peak_bytes"] < 2**30


@pytest.mark.parametrize("name", ["softmax", "attention", "mixed_precision", "sharded"])
def test_what_a_gpu_has_exported_scores_the_same_on_the_processor(trained: dict[str, Path], name: str):
    settings = Settings.model_validate_json((trained["gpu"] / f"{name}.json").read_text(encoding="utf-8"))
    found, rows = seen(trained["gpu"], name), make_rows(settings, 50, seed=77)
    for side in ("user", "item"):
        tower = LoadedTower(f"{RunPaths(settings.run_folder).model}/{side}_tower")
        tolerance = 2e-2 if name == "mixed_precision" else 2e-5
        np.testing.assert_allclose(tower.vectors(rows), found[f"{side}s"], atol=tolerance)


def test_mixed_precision_learns_and_stays_finite(trained: dict[str, Path]):
    mixed = seen(trained["gpu"], "mixed_precision")
    assert np.isfinite(mixed["losses"]).all()
    assert mixed["losses"][-8:].mean() < mixed["losses"][:8].mean()
    cpu = seen(trained["cpu"], "mixed_precision")
    np.testing.assert_allclose(mixed["losses"], cpu["losses"], rtol=2e-2)
    assert all(values.dtype == np.float32 for key, values in mixed.items() if key.startswith("weights/"))


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_broken_off_on_a_gpu_the_weights_are_the_same_bits(tmp_path: Path, case: str):
    for name in ("broken", "whole"):
        written(tmp_path, name, **DETERMINISTIC[case])
    (tmp_path / "broken.stops").write_text("1 7 5", encoding="utf-8")
    run("tests.gpu.training", str(tmp_path))
    broken, whole = seen(tmp_path, "broken"), seen(tmp_path, "whole")
    assert len(broken["losses"]) < len(whole["losses"]) == 32
    weights = [key for key in whole if key.startswith("weights/")]
    assert weights
    for key in weights:
        np.testing.assert_array_equal(broken[key], whole[key], err_msg=key)


@pytest.mark.parametrize("name", ["softmax", "streaming", "mixed", "dense_tables", "batch_norm", "sharded"])
def test_one_rank_with_all_collectives_trains_as_without(together: Path, trained: dict[str, Path], name: str):
    found, alone = seen(together, name), seen(trained["gpu"], name)
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-4)
    for key in ("users", "items"):
        np.testing.assert_allclose(found[key], alone[key], atol=2e-3)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains as one rank of horovodrun that takes all collectives, on the GPU: over NCCL."""
    if not hvd.nccl_built():
        pytest.skip("Horovod was built without NCCL: HOROVOD_GPU_OPERATIONS=NCCL make setup")
    folder = tmp_path_factory.mktemp("together")
    for name in ("softmax", "streaming", "mixed", "dense_tables", "batch_norm", "sharded"):
        written(folder, name, **all_cases()[name])
    launcher = (str(Path(sys.executable).with_name("horovodrun")), "-np", "1", "--gloo", "--start-timeout", "60")
    run("tests.gpu.training", str(folder), "together", launcher=launcher)
    return folder


def test_horovodrun_trains_on_the_gpu(tmp_path: Path):
    settings = write_run(tmp_path, ROWS, **HOW, launch="horovodrun", ranks=1)
    train(settings)
    model = read_model_manifest(RunPaths(settings.run_folder).model)
    assert (model.ranks, model.steps) == (1, 32)
    assert model.loss[1] < model.loss[0]


def test_a_tower_that_is_loaded_leaves_the_gpu_alone(trained: dict[str, Path]):
    settings = Settings.model_validate_json((trained["gpu"] / "softmax.json").read_text(encoding="utf-8"))
    model = RunPaths(settings.run_folder).model
    tower = [f"{model}/item_tower", read_model_manifest(model).model_version]
    code = (
        "import sys, tensorflow as tf; from dssm.scoring.vectors import load_tower; load_tower(*sys.argv[1:], 1); "
        "print(len(tf.config.list_physical_devices('GPU')) > 0, tf.config.list_logical_devices('GPU'))"
    )
    done = subprocess.run([sys.executable, "-c", code, *tower], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "[]"]
