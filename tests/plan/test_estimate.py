"""The arithmetic of each job, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dssm.config import Settings, load_settings
from dssm.encoders import EncoderKind
from dssm.features import VarLenSparseFeat
from dssm.plan.constants import Constants, load_constants
from dssm.plan.estimate import Cluster, plan, scored_items, step_products
from dssm.plan.rows import item_bytes, sample_bytes, sample_wire_bytes, user_bytes
from dssm.plan.show import shown
from dssm.plan.sizes import Sizes, sizes_of
from dssm.sections import LossKind, OptimizerKind, TowerKind
from dssm.sections.indexing import (
    Annoy,
    Faiss,
    FaissFlat,
    FaissHnsw,
    FaissIndex,
    FaissIvf,
    FaissPq,
    Milvus,
    Redis,
    SinkKind,
)
from dssm.sections.losses import (
    Bpr,
    Hinge,
    InBatchSoftmax,
    MixedNegative,
    Regression,
    SampledSoftmax,
    WeightedBce,
)
from dssm.sections.optimizers import Adagrad, Adam, LazyAdam, RmsProp, RowWiseAdagrad, Sgd
from tests.datasets import NEGATIVE_KINDS, make_settings

DEMO = str(Path(__file__).parents[2] / "conf" / "demo.yaml")
TABLES = {"user_id": 1000, "item_id": 500, "topic_id": 7}
SIZES = Sizes(
    events=10_000, items=500, users=1000, train_rows=3000, test_rows=600, pairs=5000, test_users=200, tables=TABLES
)


def constants(**over: Any) -> Constants:
    """Round numbers: an id takes 3 bytes, a list's entry 2, its weight 1, a number 4, a vector's 4."""
    given: dict[str, Any] = {
        "machine": "test",
        "sizes": {},
        "parquet": {
            "sample_row": 50, "user_row": 40, "item_row": 30, "pair": 10, "id": 3, "number": 4, "list_id": 2,
            "list_number": 1, "vector": 4,
        },
        "shares": {"train": 0.3, "test": 0.06, "pairs": 0.5, "test_users": 0.2},
        "shuffle": {"compression": 0.5, "fixed_bytes": 1000},
        "build_samples": {"fixed_s": 10, "event_core_s": 0.001},
        "train": {"fixed_s": 20, "step_s": 0.01, "product_core_s": 1e-9},
        "score": {"fixed_s": 5, "row_core_s": 0.01, "product_core_s": 1e-6},
        "search": {"product_core_s": 1e-6},
        "memory_bytes_per_s": 1e6,
        "assumed": {"gpu_products_per_s": 1e12, "gpu_memory_bytes_per_s": 1e9},
    }  # fmt: skip
    return Constants.model_validate({**given, **over})


def figures(settings: Settings, cluster: Cluster, sizes: Sizes = SIZES) -> dict[tuple[str, str], float]:
    return {(line.job, line.what): line.value for line in plan(settings, sizes, cluster, constants())}


# The user's side: an id, a number, a list of 5, one of 4 with weights, a vector of 4. The item's: two ids, a vector, a
# number of days. A target, `like`.
USER, ITEM = 3 + 4 + 2 * 5 + (2 + 1) * 4 + 4 * 4, 3 + 3 + 4 * 4 + 4


def test_bytes_of_a_row() -> None:
    settings, parquet = make_settings("unused"), constants().parquet
    assert user_bytes(settings, parquet) == 40 + USER
    assert item_bytes(settings, parquet) == 30 + ITEM
    assert sample_bytes(settings, parquet, "test") == sample_bytes(settings, parquet) == 50 + USER + ITEM + 4
    negatives = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce")  # 3 ids, 3 chances, 3 × days
    assert sample_bytes(negatives, parquet) == 50 + USER + ITEM + 4 + 3 * (2 + 1 + 1)
    assert sample_bytes(negatives, parquet, "test") == 50 + USER + ITEM + 4


def test_samples_on_paper() -> None:
    settings = make_settings("unused")
    found = figures(settings, Cluster(nodes=1, cores=4))
    sample = 50 + USER + ITEM + 4
    assert found["build_samples", "Parquet, samples"] == 3600 * sample
    assert found["build_samples", "Parquet, items"] == 500 * (30 + ITEM)
    assert found["build_samples", "Parquet, users and interactions"] == 200 * (40 + USER) + 5000 * 10
    # Words of the user's side: an id, a number, lists of 5 and 2 × 4, a vector of 4; nothing of a history; a target.
    wire = 12 + 24 + 24 + 4 * (1 + 1 + 5 + 8 + 4 + 1)
    assert sample_wire_bytes(settings) == wire
    item_wire = 12 + 24 + 24 + 4 * (1 + 1 + 4 + 1) + 4 * 4  # with its line of the table of vectors
    rows = 10_000 * (12 + 24 + 24 + 1 + 4) + 3600 * wire + 5000 * 20 + 500 * item_wire
    shuffle = 1000 + 0.5 * rows
    assert found["build_samples", "shuffle"] == shuffle
    assert found["build_samples", "time"] == pytest.approx(10 + 10_500 * 0.001 / 4)
    on_four = figures(settings, Cluster(nodes=4, cores=4, network=1e5))
    assert on_four["build_samples", "time"] == pytest.approx(10 + 10.5 / 16 + shuffle * 3 / 4 / 4e5)


def test_a_large_catalogue_is_shuffled_to_as_well() -> None:
    settings = make_settings("unused")
    small = settings.model_copy(update={"samples": settings.samples.model_copy(update={"broadcast_mb": 0})})
    both = [figures(given, Cluster())["build_samples", "shuffle"] for given in (settings, small)]
    assert both[1] - both[0] == 0.5 * 3600 * sample_wire_bytes(settings)


def test_memory_of_tables_and_their_state() -> None:
    """1000 × 4 + 500 × 4 + 7 × 3 numbers of 4 bytes, and as many again for Adagrad."""
    settings = make_settings(
        "unused", optimizer="adagrad", model={"embedding": {"placement": "sharded", "min_rows": 500}}
    )
    found = figures(settings, Cluster(gpus=4))
    assert found["train", "tables and state, replicated, a rank"] == 4 * 6021 * 2
    assert found["train", "tables and state, sharded, a rank"] == 4 * 21 * 2 + 4 * 6000 * 2 / 4
    rowwise = figures(make_settings("unused", optimizer="rowwise_adagrad"), Cluster())
    assert rowwise["train", "tables and state, replicated, a rank"] == 4 * 6021 + 4 * 1507


@pytest.mark.parametrize(
    ("optimizer", "state", "moves"),
    [
        (Adam(), 2, True), (LazyAdam(), 2, False), (Adagrad(), 1, False), (RowWiseAdagrad(), 0.125, False),
        (Sgd(), 0, False), (Sgd(momentum=0.9), 1, True), (RmsProp(), 1, True), (RmsProp(momentum=0.9), 2, True),
    ],
    ids=str,
)  # fmt: skip
def test_state_of_the_optimizers(optimizer: Any, state: float, moves: bool) -> None:
    assert optimizer.slots(8) == state
    assert optimizer.moves_whole_tables == moves


def test_bytes_a_step() -> None:
    """Batch 4, so 4 users, 4 + 20 ids of items, 4 + 16 of topics; 113 + 163 weights of the towers."""
    found = figures(make_settings("unused"), Cluster(gpus=2))
    distinct = [rows * (1 - (1 - 1 / rows) ** lookups) for rows, lookups in ((1000, 4), (500, 24), (7, 20))]
    sparse = distinct[0] * 20 + distinct[1] * 20 + distinct[2] * 16
    dense = 1000 * 20 + 500 * 20 + 7 * 16
    assert found["train", "tables' gradients a step, sparse"] == pytest.approx(sparse)
    assert found["train", "tables' gradients a step, dense"] == pytest.approx(dense)
    user = (4 + 1 + 4 + 3 + 4) * 8 + 8 + 8 * 5 + 5  # 16 → 8 → 5
    weights = user + (4 + 3 + 4 + 1) * 6 + 6 + 6 * 5 + 5
    assert found["train", "received a step, as chosen"] == pytest.approx(sparse + 4 * weights)
    assert ("train", "tables' gradients a step, dense") not in figures(make_settings("unused"), Cluster())


def test_the_time_of_a_training() -> None:
    settings = make_settings("unused", epochs=2, optimizer="lazy_adam")
    products = 3 * (4 * (16 * 8 + 8 * 5) + 4 * (12 * 6 + 6 * 5) + 4 * 4 * 5)
    assert step_products(settings, 1) == products
    found = figures(settings, Cluster(nodes=1, cores=2))
    step = 0.01 + products * 1e-9 / 2
    assert found["train", "steps"] == 2 * 750
    assert found["train", "a step"] == pytest.approx(step)
    assert found["train", "time"] == pytest.approx(20 + 1500 * step)
    adam = figures(make_settings("unused", optimizer="adam"), Cluster(nodes=1, cores=2))
    assert adam["train", "a step"] == pytest.approx(step + 2 * 4 * 6021 * 3 / 2e6)
    gpus = figures(settings, Cluster(nodes=2, cores=2, gpus=4, network=1e6))
    received = gpus["train", "received a step, as chosen"]
    of_four = step_products(settings, 4)
    assert of_four == products + 3 * 4 * 12 * 5  # candidates of all ranks
    assert gpus["train", "a step"] == pytest.approx(0.01 + of_four / 1e12 + received / (1e6 / 2))
    assert gpus["train", "steps"] == 2 * math.ceil(3000 / 16)


class EveryItem(LossKind):
    """A loss of one's own, that compares with all there is; without a name it is none of the choices."""

    reads_candidates: ClassVar[bool] = True
    reads_sampled: ClassVar[bool] = True
    catalogue_items: ClassVar[int] = 100


SCORED_ITEMS: list[tuple[LossKind, int]] = [
    (WeightedBce(), 1 + 5), (Regression(), 1), (InBatchSoftmax(), 4 * 32), (InBatchSoftmax(candidates="rank"), 32),
    (MixedNegative(uniform=8), 4 * (32 + 8)), (MixedNegative(uniform=8, candidates="rank"), 32 + 8),
    (SampledSoftmax(), 1 + 5), (Hinge(), 1 + 5), (Bpr(), 1 + 5), (Hinge(negatives="batch"), 4 * 32),
    (Bpr(negatives="batch", candidates="rank"), 32), (EveryItem(), 4 * (32 + 100) + 5),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "items"), SCORED_ITEMS, ids=str)
def test_items_that_a_loss_scores_a_user_with(loss: LossKind, items: int) -> None:
    """Batches of 32 on 4 ranks, and 5 sampled negatives of each row."""
    assert scored_items(loss, 32, 5, 4) == items


def test_every_loss_is_counted() -> None:
    ours = {kind for kind, made in LossKind.choices.items() if made.__module__.startswith("dssm.")}
    assert ours == {loss.kind for loss, _ in SCORED_ITEMS} - {""}


def test_evaluation_scoring_and_index() -> None:
    found = figures(make_settings("unused"), Cluster(nodes=2, cores=5))
    assert found["evaluate", "item vectors, an executor"] == 4 * 500 * 5
    assert found["evaluate", "time, the model alone"] == pytest.approx(5 + 200 * 500 * 5 * 1e-6 / 10)
    assert found["score_items", "table"] == 500 * (5 * 4 + 12)
    assert found["score_items", "time"] == pytest.approx(5 + 500 * (0.01 + 102e-6) / 10)
    assert found["index_items", "faiss (faiss)"] == pytest.approx(500 * (20 + 2 * 32 * 4 + 4 * 32 / 31 + 12))


@pytest.mark.parametrize(
    ("sink", "size"),
    [
        (Faiss(index=FaissFlat()), 256), (Faiss(index=FaissIvf()), 264), (Faiss(index=FaissPq()), 32),
        (Faiss(index=FaissPq(segments=16, bits=4)), 8), (Milvus(), 268), (Redis(), 268),
    ],
    ids=lambda value: getattr(value, "kind", value),
)  # fmt: skip
def test_an_item_in_an_engine(sink: Any, size: float) -> None:
    assert sink.item_bytes(64, 12).size == size


def test_vectors_of_an_odd_width_have_a_code_a_number() -> None:
    assert FaissPq().item_bytes(7).size == 7


@pytest.mark.slow
@pytest.mark.parametrize("index", [FaissFlat(), FaissHnsw(), FaissHnsw(links=16), FaissIvf(), FaissPq()], ids=str)
def test_files_of_faiss_are_as_large_as_planned(index: Any, tmp_path: Path) -> None:
    import faiss
    import numpy as np
    import pyarrow as pa

    from dssm.retrieval.sinks.faiss import in_memory

    vectors = np.random.default_rng(0).standard_normal((20_000, 32), np.float32)
    made = in_memory(index, pa.array(np.arange(len(vectors)).astype(str)), vectors)
    faiss.write_index(made.index, str(tmp_path / "index"))
    found = (tmp_path / "index").stat().st_size
    assert len(vectors) * index.item_bytes(32).size == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("trees", [10, 50])
def test_files_of_annoy_are_as_large_as_planned(trees: int, tmp_path: Path) -> None:
    import numpy as np
    from annoy import AnnoyIndex

    vectors = np.random.default_rng(0).standard_normal((5_000, 32), np.float32)
    index = AnnoyIndex(32, "angular")
    for place, vector in enumerate(vectors):
        index.add_item(place, vector)
    index.build(trees, n_jobs=1)
    index.save(str(tmp_path / "index"))
    found = (tmp_path / "index").stat().st_size
    assert len(vectors) * Annoy(trees=trees).item_bytes(32, 12).size == pytest.approx(found, rel=0.3)


class OwnOptimizer(OptimizerKind):
    """It says nothing of what it needs; without a name it is none of the choices."""


class OwnSink(SinkKind):
    """As above."""


def test_what_an_optimizer_and_a_sink_of_ones_own_need_is_not_known() -> None:
    settings = make_settings("unused", optimizer=OwnOptimizer())
    index = settings.index.model_copy(update={"sinks": {"own": OwnSink(), "faiss": Faiss(index=FaissFlat())}})
    lines = plan(settings.model_copy(update={"index": index}), SIZES, Cluster(gpus=2), constants())
    known = figures(make_settings("unused", optimizer="lazy_adam"), Cluster(gpus=2))
    unknown = {
        ("train", "tables and state, replicated, a rank"), ("train", "tables and state, sharded, a rank"),
        ("train", "a step"), ("train", "time"), ("index_items", "own ()"),
    }  # fmt: skip
    assert {(line.job, line.what) for line in lines if shown(line) == "not known"} == unknown
    for line in lines:
        if (line.job, line.what) in unknown:
            assert "not known" in line.inputs
        elif line.job == "train":
            assert line.value == known[line.job, line.what]
        assert "nan" not in line.inputs


class OwnTower(TowerKind):
    """As above."""


class OwnEncoder(EncoderKind):
    """As above."""


@pytest.mark.parametrize("part", ["tower", "encoder"])
def test_what_a_tower_and_an_encoder_of_ones_own_cost_is_not_known(part: str) -> None:
    settings = make_settings("unused")
    if part == "tower":
        model = settings.model.model_copy(update={"item_tower": OwnTower()})
        settings = settings.model_copy(update={"model": model})
    else:
        name = next(name for name, feature in settings.features.items() if isinstance(feature, VarLenSparseFeat))
        feature = settings.features[name].model_copy(update={"encoder": OwnEncoder()})
        settings = settings.model_copy(update={"features": {**settings.features, name: feature}})
    lines = plan(settings, SIZES, Cluster(gpus=2), constants())
    unknown = {line.what for line in lines if line.job == "train" and shown(line) == "not known"}
    assert unknown == {"received a step, as chosen", "a step", "time"}
    for line in lines:
        assert ("not known" in line.inputs) == (shown(line) == "not known")
        assert "nan" not in line.inputs


def test_kinds_of_the_project_say_what_they_need() -> None:
    for family in (OptimizerKind, SinkKind, FaissIndex):
        for kind, made in family.choices.items():
            if not made.__module__.startswith("dssm."):
                continue
            needs = made(kind=kind)
            if isinstance(needs, OptimizerKind):
                assert None not in (needs.slots(8), needs.moves_whole_tables), kind
            else:
                assert needs.item_bytes(*((8,) if family is FaissIndex else (8, 12))) is not None, kind


def test_every_figure_has_its_formula_and_every_config_a_plan() -> None:
    measured = load_constants()
    for config in [DEMO, *map(str, sorted(Path(DEMO).parent.glob("recipes/*.yaml")))]:
        settings = load_settings(config, ["root=no-runs"])

        sizes = sizes_of(settings, measured.shares, 10**8, 10**6)
        lines = plan(settings, sizes, Cluster(nodes=8, cores=16, gpus=8), measured)
        assert {line.job for line in lines} == {"build_samples", "train", "evaluate", "score_items", "index_items"}
        assert all(line.formula and line.inputs and line.value > 0 and math.isfinite(line.value) for line in lines)
