"""Real launches of 1, 2 and 3 ranks: what they read, and that they do what one process would."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dssm.config import Settings
from dssm.manifest import LABEL, data_files, read_manifest
from dssm.model.export import LoadedTower
from dssm.packing import unpack
from dssm.paths import RunPaths
from dssm.train.result import TrainResult
from tests.datasets import NEGATIVE_KINDS, write_run
from tests.train.conftest import launch
from tests.train.ranks import CASES, GRADIENTS_OF

pytestmark = pytest.mark.horovod

ROWS, FEW_ROWS = (7, 13, 5, 11), (9, 0, 3)
EPOCHS, BATCH = 2, 4
STEPS = {1: 9, 2: 5, 3: 4}  # an epoch's: 36 rows; 18 and 18; 13, 12 and 11 rows, in batches of 4

Found = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    """What each rank of a launch of so many found; one launch for each number of ranks."""

    @cache
    def launched(ranks: int) -> Found:
        folder: Path = tmp_path_factory.mktemp(f"ranks{ranks}")
        how = {"launch": "horovodrun", "ranks": ranks, "batch_size": BATCH, "epochs": EPOCHS}
        drawn = {"negatives": NEGATIVE_KINDS, "loss": "weighted_bce", "storage": "table"}
        for name, rows, more in (("run", ROWS, {}), ("few", FEW_ROWS, drawn)):
            settings = write_run(folder / name, train_rows=rows, **how, **more)
            (folder / f"{name}.json").write_text(settings.model_dump_json())
        done = launch(ranks, "tests.train.ranks", str(folder))
        assert done.code == 0, done.output
        return [{**np.load(folder / f"rank{rank}.npz"), "folder": np.array(str(folder))} for rank in range(ranks)]

    return launched


every_size = pytest.mark.parametrize("ranks", [1, 2, 3])
several = pytest.mark.parametrize("ranks", [2, 3])
every_case = pytest.mark.parametrize("case", list(CASES))


@every_size
@pytest.mark.parametrize(("name", "rows"), [("run", sum(ROWS)), ("few", sum(FEW_ROWS))])
def test_every_row_is_seen_once_an_epoch_in_equally_many_steps(found_by, ranks: int, name: str, rows: int):
    found = found_by(ranks)
    shapes = {rank[f"{name}/keys"].shape for rank in found}
    assert len(shapes) == 1
    ((steps, batch),) = shapes
    assert batch == BATCH
    if name == "run":
        assert steps == EPOCHS * STEPS[ranks]
    keys = np.stack([rank[f"{name}/keys"].reshape(EPOCHS, -1) for rank in found])
    weights = np.stack([rank[f"{name}/row_weights"].reshape(EPOCHS, -1) for rank in found])
    for epoch in range(EPOCHS):
        real = weights[:, epoch] > 0
        assert sorted(keys[:, epoch][real]) == list(range(1, rows + 1))
        assert (keys[:, epoch][~real] == 0).all()
    assert keys[:, 0].tolist() != keys[:, 1].tolist()


@every_size
def test_all_ranks_end_with_the_same_bits(found_by, ranks: int):
    found = found_by(ranks)
    names = [name for name in found[0] if "/weights/" in name or name.endswith("/losses") or name == "auc"]
    assert len(names) > 20
    for rank in found[1:]:
        for name in names:
            assert rank[name].tobytes() == found[0][name].tobytes(), name


@every_size
def test_the_saved_model_is_the_trained_one(found_by, ranks: int):
    found = found_by(ranks)
    manifests = {str(rank["manifest"]) for rank in found}
    assert len(manifests) == 1
    manifest = TrainResult.model_validate_json(manifests.pop()).unwrap()
    assert {str(rank["run/digest"]) for rank in found} == {manifest.model_version}
    assert (manifest.ranks, manifest.epochs, manifest.steps) == (ranks, EPOCHS, EPOCHS * STEPS[ranks])
    assert manifest.rows_per_epoch == sum(ROWS)
    assert len(manifest.loss) == len(manifest.auc) == EPOCHS


@several
@every_case
def test_ranks_step_like_one_process_with_the_joint_batch(found_by, ranks: int, case: str):
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith((f"{case}/weights/", f"{case}/losses"))]
    assert len(names) >= 12
    for rank in found:
        for name in names:
            np.testing.assert_allclose(rank[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)


@every_size
def test_a_frozen_table_trains_to_the_weights_that_inline_vectors_train_to(found_by, ranks: int):
    for rank in found_by(ranks):
        names = [name for name in rank if name.startswith("negatives/") and name != "negatives/sparse"]
        assert len(names) == 12 + 4 * 11
        for name in names:
            of_table = rank[f"frozen_table/{name.removeprefix('negatives/')}"]
            np.testing.assert_allclose(of_table, rank[name], rtol=1e-5, atol=1e-6, err_msg=name)


@several
@pytest.mark.parametrize("case", GRADIENTS_OF)
def test_gradients_are_those_of_the_joint_batch(found_by, ranks: int, case: str):
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith(f"{case}/gradient/")]
    assert len(names) == 4 * 11
    sparse = [f"embedding_{table}/embeddings:0" for table in ("item_id", "topic_id", "user_id")]
    for rank in found:
        assert sorted(rank[f"{case}/sparse"]) == sparse
        for name in names:
            np.testing.assert_allclose(rank[name], one[name], rtol=1e-4, atol=2e-6, err_msg=name)
    for tower in ("user", "item"):
        assert max(np.abs(one[name]).max() for name in names if f"/{tower}.projection/kernel" in name) > 0.01


@several
def test_a_plain_allgather_would_lose_most_of_the_item_towers_gradient(found_by, ranks: int):
    (one,), (first, *_) = found_by(1), found_by(ranks)
    for tower, factor in (("user", 1), ("item", 1 / ranks)):
        for layer in ("dense_1", "projection"):
            variable = f"{tower}.{layer}/kernel:0"
            np.testing.assert_allclose(
                first[f"softmax/plain_allgather/{variable}"],
                one[f"softmax/gradient/0/{variable}"] * factor,
                rtol=1e-4,
                atol=2e-6,
            )


@several
def test_auc_over_all_ranks_is_that_of_one_process(found_by, ranks: int):
    (one,), found = found_by(1), found_by(ranks)
    assert 0 < float(one["auc"]) < 1
    assert {float(rank["auc"]) for rank in found} == {float(one["auc"])}


def test_the_reported_auc_is_that_of_the_saved_towers(found_by):
    (first, *_) = found_by(3)
    settings = Settings.model_validate_json(Path(str(first["folder"]), "run.json").read_text())
    paths = RunPaths(settings.run_folder)
    manifest = read_manifest(paths.part("test"), "build_samples")
    scores, labels = [], []
    for path in data_files(paths.part("test"), manifest):
        table = pq.read_table(path).combine_chunks()
        if not len(table):
            continue
        columns = {name: unpack(table[name].chunk(0), spec) for name, spec in manifest.columns.items()}
        vectors = [LoadedTower(f"{paths.model}/{side}_tower") for side in ("user", "item")]
        user, item = (tower.vectors({name: columns[name] for name in tower.inputs}) for tower in vectors)
        scores.append((user * item).sum(axis=1))
        labels.append(columns[LABEL])
    score, label = np.concatenate(scores), np.concatenate(labels)
    pairs = [(p > n) + (p == n) / 2 for p in score[label > 0] for n in score[label <= 0]]
    reported = TrainResult.model_validate_json(str(first["manifest"])).unwrap().auc[-1]
    assert reported == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
