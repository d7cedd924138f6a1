"""Real launches of 1 to 4 ranks: what they read, and that they do what one process would."""

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
from tests.train.apart import train_apart
from tests.train.conftest import launch
from tests.train.joint import (
    CASES,
    JOINT_ROWS,
    LONG,
    LONG_CASES,
    MEASURED,
    OWN_CANDIDATES,
    OWN_CANDIDATES_AT,
    PADDED_ROWS,
    PASSES,
    cases_at,
)

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
        # The worker's own trainings are told by three.
        module = "tests.train.ranks" if ranks <= 3 else "tests.train.joint"
        how = {"launch": "horovodrun", "ranks": ranks, "batch_size": BATCH, "epochs": EPOCHS}
        drawn = {"negatives": NEGATIVE_KINDS, "loss": "weighted_bce", "storage": "table"}
        runs = (("run", ROWS, {}), ("few", FEW_ROWS, drawn), ("measured", ROWS, CASES["objectives"]))
        for name, rows, more in runs:
            settings = write_run(folder / name, train_rows=rows, **how, **more)
            (folder / f"{name}.json").write_text(settings.model_dump_json())
        done = launch(ranks, module, str(folder), limit_s=1500)
        assert done.code == 0, done.output
        return [{**np.load(folder / f"rank{rank}.npz"), "folder": np.array(str(folder))} for rank in range(ranks)]

    return launched


every_size = pytest.mark.parametrize("ranks", [1, 2, 3])
several = pytest.mark.parametrize("ranks", [2, 3, 4])
NORMED_CASES = ("batch_norm", "objectives")  # differences of sums: a bias' gradient before it is 0 but for rounding
SHARDED = tuple(case for case in CASES if case.startswith("sharded"))


def of_cases(*cases: str) -> pytest.MarkDecorator:
    """Each number of ranks above 1 with each of the cases that are run at it."""
    pairs = [(ranks, case) for ranks in (2, 3, 4) for case in cases if case in cases_at(ranks)]
    return pytest.mark.parametrize(("ranks", "case"), pairs)


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


@several
def test_all_ranks_end_with_the_same_bits(found_by, ranks: int):
    found = found_by(ranks)
    names = [name for name in found[0] if "/weights/" in name or name.endswith("/losses") or "metrics/" in name]
    assert len(names) > 100
    for rank in found[1:]:
        for name in names:
            if name.startswith(SHARDED) and name not in rank:
                continue  # tables are made whole on rank 0
            assert rank[name].tobytes() == found[0][name].tobytes(), name


@several
def test_the_exchange_takes_time(found_by, ranks: int):
    for rank in found_by(ranks):
        assert (rank["softmax/exchange_s"] > 0).all()


@every_size
def test_the_saved_model_is_the_trained_one(found_by, ranks: int):
    found = found_by(ranks)
    manifests = {str(rank["manifest"]) for rank in found}
    assert len(manifests) == 1
    manifest = TrainResult.model_validate_json(manifests.pop()).unwrap()
    assert {str(rank["run/version"]) for rank in found} == {manifest.model_version}
    assert (manifest.ranks, manifest.epochs, manifest.steps) == (ranks, EPOCHS, EPOCHS * STEPS[ranks])
    assert manifest.rows_per_epoch == sum(ROWS)
    assert len(manifest.loss) == len(manifest.auc) == EPOCHS


@of_cases(*CASES)
def test_ranks_step_like_one_process_with_the_joint_batch(found_by, ranks: int, case: str):
    """Losses of each step, weights and the optimizer's state after the first step and the last."""
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith((f"{case}/first/", f"{case}/weights/", f"{case}/losses"))]
    assert len(names) >= 12
    assert one[f"{case}/losses"].shape == (4 * (LONG if case in LONG_CASES else PASSES),)
    for number, rank in enumerate(found):
        for name in names:
            if case in SHARDED and ("/first/" in name or (number and name not in rank)):
                continue  # tables are made whole in the end, on rank 0
            tolerance = 3e-5 if case in NORMED_CASES else 1e-5
            if "/slots/" in name:
                tolerance = 1e-3  # sums of squared gradients have twice their error
            np.testing.assert_allclose(rank[name], one[name], rtol=tolerance, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", OWN_CANDIDATES)
def test_ranks_with_candidates_of_their_own_step_like_one_process_with_each_ranks_rows_apart(found_by, case: str):
    """Losses of each step, gradients of the steps over each of the joint batches, weights after the last."""
    expected, hits = train_apart(case, OWN_CANDIDATES_AT)
    assert hits > 5
    assert len(expected[f"{case}/losses"]) == 4 * PASSES
    assert len([name for name in expected if f"{case}/gradient/" in name]) >= 11 * len(PADDED_ROWS)
    joint, _ = train_apart(case, ranks=1)
    assert abs(joint[f"{case}/losses"][0] - expected[f"{case}/losses"][0]) > 0.01
    for rank in found_by(OWN_CANDIDATES_AT):
        for name, values in expected.items():
            tolerance = {"rtol": 1e-4, "atol": 2e-6} if "/gradient/" in name else {"rtol": 1e-5, "atol": 1e-5}
            np.testing.assert_allclose(rank[name], values, err_msg=name, **tolerance)


@of_cases(*SHARDED)
def test_sharded_tables_are_held_by_all_ranks_together(found_by, ranks: int, case: str):
    """Of a table and its state each rank has its rows alone."""
    found = found_by(ranks)
    tables = [name for name in found[0] if name.startswith(f"{case}/held/")]
    state = {"sharded_lazy_adam": 2}.get(case, 1)  # slots: two moments; an accumulator; momentum
    assert len(tables) == 3 * (1 + state)
    for name in tables:
        held = np.array([rank[name] for rank in found])
        assert held[:, 0].sum() == held[0, 1]
        assert np.ptp(held[:, 0]) <= 1
    others = [name for rank in found[1:] for name in rank if name.startswith(f"{case}/weights/embedding_")]
    assert not others


@of_cases(*MEASURED)
def test_the_towers_for_the_export_are_whole_on_rank_0(found_by, ranks: int, case: str):
    (one,), (first, *others) = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith(f"{case}/whole/")]
    assert len([name for name in names if "embedding_" in name]) == 3
    for name in names:
        np.testing.assert_array_equal(first[name], first[name.replace("/whole/", "/weights/")], err_msg=name)
        assert not any(name in rank for rank in others)


@of_cases(*MEASURED)
def test_trained_towers_give_the_vectors_of_one_process(found_by, ranks: int, case: str):
    (one,), found = found_by(1), found_by(ranks)
    for side in (0, 1):
        joint = np.concatenate([rank[f"{case}/vectors/{side}"] for rank in found], axis=1)
        assert joint.shape[:2] == (4, JOINT_ROWS)
        np.testing.assert_allclose(joint, one[f"{case}/vectors/{side}"], rtol=1e-4, atol=1e-5)


@several
def test_gradients_are_summed_alike_sparse_and_dense(found_by, ranks: int):
    """Of `exchanged_by_hand`: rank r has the rows r and, twice, r + 1 of a table of 6 × 2; rank 2 has none."""
    expected, touched, rows_sent = np.zeros((6, 2), np.float32), set(), []
    for rank in range(ranks):
        if rank == 2:
            rows_sent.append(0)
            continue
        values = np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * rank
        expected[rank] += values[0]
        expected[rank + 1] += values[1] + values[2]
        touched |= {rank, rank + 1}
        rows_sent.append(2)
    for number, rank in enumerate(found_by(ranks)):
        assert rank["by_hand/plain"].tolist() == [ranks * (ranks + 1) / 2] * 3
        for way in ("sparse", "dense"):
            np.testing.assert_array_equal(rank[f"by_hand/{way}/table"], expected)
            assert sorted(rank[f"by_hand/{way}/ids"]) == sorted(touched)
        sparse = (sum(rows_sent) - rows_sent[number]) * 3 * 4
        dense = 2 * (ranks - 1) / ranks * (6 * 3 + 3) * 4
        assert int(rank["by_hand/received"]) == sparse + int(dense)


@of_cases(*CASES)
def test_bytes_received_are_those_that_were_planned_at_most(found_by, ranks: int, case: str):
    received = np.array([rank[f"{case}/received"] for rank in found_by(ranks)])
    weights, all_bytes = found_by(ranks)[0][f"{case}/expected"]
    assert (received > int(weights)).all()
    # Padded rows look id 0 up, lists are half full, and a step may have more distinct ids than a step has on average.
    assert 0.6 * all_bytes < received.mean() < 1.05 * all_bytes


@of_cases(*CASES)
def test_gradients_are_those_of_the_joint_batch(found_by, ranks: int, case: str):
    """Of the steps over each of the joint batches, whose padding differs."""
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith(f"{case}/gradient/")]
    assert len(names) >= 11 * len(PADDED_ROWS)
    tolerance = {"rtol": 5e-4, "atol": 2e-5} if case in NORMED_CASES else {"rtol": 1e-4, "atol": 2e-6}
    for number, rank in enumerate(found):
        for name in names:
            if case in SHARDED and number and name not in rank:
                continue  # tables' are made whole on rank 0
            np.testing.assert_allclose(rank[name], one[name], err_msg=name, **tolerance)
    moved = [name for name in names if "/gradient/0/" in name and np.abs(one[name]).max() > 1e-3]
    assert len(moved) >= 11


@of_cases("frozen_table")
def test_a_frozen_table_trains_to_the_weights_that_inline_vectors_train_to(found_by, ranks: int, case: str):
    for rank in found_by(ranks):
        names = [
            name for name in rank if name.startswith(("negatives/first/", "negatives/weights/", "negatives/losses"))
        ]
        assert len(names) > 40
        for name in names:
            of_table = rank[f"{case}/{name.removeprefix('negatives/')}"]
            np.testing.assert_allclose(of_table, rank[name], rtol=1e-5, atol=1e-6, err_msg=name)


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
def test_metrics_over_all_ranks_are_those_of_one_process(found_by, ranks: int):
    """Of three objectives: log-odds, a rating, and a softmax; 19 rows, of which ranks have unequal parts."""
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith("metrics/")]
    told = {"auc", "log_loss", "accuracy", "precision", "recall", "like_mse", "like_auc", "choice_auc"}
    assert told <= {name.removeprefix("metrics/") for name in names}
    for name in names:
        assert 0 < float(one[name]) < 2, name
        for rank in found:
            np.testing.assert_allclose(rank[name], one[name], rtol=1e-6, err_msg=name)


@of_cases(*LONG_CASES)
def test_metrics_after_the_steps_are_those_of_one_process(found_by, ranks: int, case: str):
    (one,), found = found_by(1), found_by(ranks)
    names = [name for name in one if name.startswith(f"{case}/metrics/")]
    assert f"{case}/metrics/auc" in names
    assert (f"{case}/metrics/log_loss" in names) == (case in ("batch_norm", "dense_tables"))
    for name in names:
        assert 0 < float(one[name]) < 2, name
        for rank in found:  # one pair of some 400 may change its order by rounding
            np.testing.assert_allclose(rank[name], one[name], atol=3e-3, err_msg=name)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_ranks_process_grows_by_its_share_of_the_tables(found_by, ranks: int):
    """Of 192 MB in all, as the operating system counts the process's memory."""
    for rank in found_by(ranks):
        grown, held, whole = (float(rank[f"resident/{name}"]) for name in ("grown", "held", "whole"))
        assert whole == 2 * 3 * 2_000_000 * 4 * 4
        assert held == pytest.approx(whole / ranks, rel=1e-5)  # three ranks' shares differ by a row
        assert 0.95 * held < grown < 1.05 * held + 16e6  # rows are drawn in blocks, whose memory the process keeps


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
