"""The towers' weights and multiply-adds, by hand and against the models that are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from dssm import encoders
from dssm.config import load_settings
from dssm.plan.estimate import exchange_plan
from dssm.plan.network import Cost, dense, encoder_cost, model_weights, scorer_cost, side_cost, tower_cost
from dssm.plan.sizes import Sizes
from dssm.sections.model import Cross, Dnn, Fm, MultiObjective, Parallel, Scorer, Senet
from tests.datasets import NEGATIVE_KINDS, SIZES, make_settings

CONF = Path(__file__).parents[2] / "conf"
CONFIGS = [CONF / "demo.yaml", *sorted((CONF / "recipes").glob("*.yaml"))]


def test_dense_layers() -> None:
    """10 → 8 → 6 → 5: 80 + 48 + 30 products, and a bias a unit."""
    assert tower_cost(Dnn(layers=(8, 6)), [4, 6], 5, 1) == Cost(80 + 8 + 48 + 6 + 30 + 5, 80 + 48 + 30)
    with_slopes = Dnn(layers=(8,), activation="prelu", batch_norm=True, last_activation="dice")
    assert tower_cost(with_slopes, [10], 5, 1).weights == 80 + 8 + 3 * 8 + 40 + 5 + 5


def test_other_towers() -> None:
    senet = Senet(layers=(8,), reduction=2)  # 3 features: 2 units
    assert tower_cost(senet, [4, 4, 2], 5, 1) == Cost(2 * 3 * 2 + 88 + 45, 2 * 3 * 2 + 80 + 40)
    assert tower_cost(Fm(dim=4), [4, 6, 1], 5, 1) == Cost(24 + 4, 24 + 4)
    assert tower_cost(Cross(depth=2), [10], 5, 1) == Cost(2 * 110 + 55, 2 * 100 + 50)
    assert tower_cost(Cross(depth=1, rank=3), [10], 5, 1) == Cost(30 + 30 + 10 + 55, 60 + 50)
    both = Parallel(channels={"deep": Dnn(layers=()), "fm": Fm(dim=4)})
    assert tower_cost(both, [4, 6], 5, 1) == Cost(55 + 24, 50 + 24)
    heads = MultiObjective(shared=Dnn(layers=(8,)), head=Dnn(layers=()))
    assert tower_cost(heads, [10], 5, 3) == Cost(88 + 3 * 45, 80 + 3 * 40)


def test_encoders() -> None:
    """Of 4-wide embeddings in lists of 5."""
    assert encoder_cost(encoders.Pooling(), 4, 5) == Cost()
    assert encoder_cost(encoders.AttentionPooling(units=3, heads=2), 4, 5) == Cost(24 + 6 + 6, 5 * (24 + 6 + 8))
    assert encoder_cost(encoders.Cnn(filters=6, window=3), 4, 5) == Cost(72 + 6, 5 * 72)
    assert encoder_cost(encoders.Lstm(units=3), 4, 5) == Cost(4 * 3 * (4 + 3 + 1), 5 * 4 * 3 * 7)
    assert encoder_cost(encoders.Gru(units=3), 4, 5) == Cost(3 * 3 * (4 + 3 + 2), 5 * 3 * 3 * 7)
    block = 4 * (16 + 4) + (4 * 7 + 7) + (7 * 4 + 4) + 2 * 2 * 4
    products = 5 * (4 * 16 + 2 * 28) + 2 * 25 * 4
    made = encoder_cost(encoders.Transformer(blocks=2, heads=2, hidden=7), 4, 5)
    assert made == Cost(5 * 4 + 2 * 4 + 2 * block, 2 * products)


def test_a_scorer_takes_four_vectors() -> None:
    assert scorer_cost(Scorer(), 5) == dense(20, 1)
    assert scorer_cost(Scorer(kind="shallow", layers=(7,)), 5) == dense(20, 7) + dense(7, 1)


def test_a_side_has_its_features_and_its_tower() -> None:
    """Item: ids 4 and 3 wide, a vector of 4 and a number: 12 → 6 → 5."""
    assert side_cost(make_settings("unused"), "item") == Cost(72 + 6 + 30 + 5, 72 + 30)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_weights_and_tables_are_those_of_the_model(config: Path) -> None:
    """The towers are built, with tables of 11 rows."""
    import numpy as np

    from dssm.model.towers import build_towers, frozen_tables
    from dssm.model.two_tower import TwoTowerModel
    from dssm.train.exchange import exchange_of

    settings = load_settings(str(config))
    names = {feature.vocabulary for feature in settings.features.values() if hasattr(feature, "vocabulary")}
    matrices = {n: np.zeros((3, settings.vectors[n].width)) for n in frozen_tables(settings.features, settings.vectors)}
    rows = dict.fromkeys(names, 11)
    towers = build_towers(settings.model, settings.features, rows, settings.vectors, matrices)
    found = exchange_of(settings, TwoTowerModel(settings.model, settings.train.loss, towers), 4)
    planned = exchange_plan(settings, Sizes(1, 1, 1, 1, 1, 1, 1, 1, rows), 4)
    assert model_weights(settings) == found.weights
    assert sorted(table.use.name for table in planned.tables) == sorted(table.use.name for table in found.tables)
    by_name = {table.use.name: table for table in found.tables}
    assert all(table == by_name[table.use.name] for table in planned.tables)
    assert planned.expected_bytes == pytest.approx(found.expected_bytes)


def test_negatives_are_looked_up_as_in_training() -> None:
    settings = make_settings("unused", negatives=NEGATIVE_KINDS, loss="weighted_bce")
    planned = exchange_plan(settings, Sizes(1, 1, 1, 1, 1, 1, 1, 1, SIZES), 2)
    assert {table.use.name: table.use.lookups for table in planned.tables} == {
        "embedding_user_id": 4, "embedding_item_id": 16 + 20, "embedding_topic_id": 16 + 16,
    }  # fmt: skip
