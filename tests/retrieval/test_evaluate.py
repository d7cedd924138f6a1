"""A small run evaluated by Spark, against rankings and metrics computed user by user in plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dssm.config import Settings
from dssm.features import of_side
from dssm.manifest import (
    CLICKED,
    ITEM_ID,
    LAST_TIME,
    POSITIVE,
    SEEN,
    TARGETS,
    USER_ID,
    WARM,
    ColumnSpec,
    read_manifest,
)
from dssm.model.export import LoadedTower
from dssm.paths import RunPaths
from dssm.retrieval.evaluate import _rankers, evaluate
from dssm.sections import Evaluate
from tests.datasets import (
    ITEMS,
    Rows,
    draw_features,
    feature_columns,
    make_catalogue,
    make_settings,
    write_dataset,
    write_items,
)
from tests.model.tiny import write_model

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

CUTOFFS = (2, 5)
TEXT = ColumnSpec(dtype="string", encoding="text")
LIST = ColumnSpec(dtype="int32", encoding="list")
INTERACTION_COLUMNS = {
    USER_ID: TEXT, SEEN: LIST, POSITIVE: LIST, TARGETS: LIST, LAST_TIME: ColumnSpec(dtype="int64", encoding="list"),
}  # fmt: skip

# Of each user: items seen before the window, with a positive label, with a positive label in a tested source; items
# clicked in the window. `new` is cold, `again` clicked seen items alone, `gone` is not tested.
LOG: dict[str, tuple[list[int], list[int], list[int], list[int]]] = {
    "a": ([0, 1, 2, 5, 9], [0, 1, 5], [0, 5], [2, 7, 11]),
    "b": ([1, 2, 3, 9, 11], [1, 3, 9], [3, 9], [0, 4]),
    "c": ([0, 4, 5, 7], [0, 5, 7], [5], [9]),
    "d": ([3, 8, 9, 12, 13], [9, 12], [9], [3, 5, 13, 14]),
    "e": ([2, 7, 11], [7, 11], [7], [0, 2]),
    "again": ([5, 6, 7], [6], [6], [5, 7]),
    "new": ([], [], [], [1]),
    "gone": ([0, 3, 5, 9, 10, 14], [0, 5, 9, 14], [5, 9, 14], []),
}
TESTED = ["a", "b", "c", "d", "e", "again"]  # those whose metrics count
PAIRS = sum(len(seen) for seen, *_ in LOG.values())


def _interactions(names: list[str]) -> dict[str, Any]:
    log = {name: LOG[name] for name in names}
    return {
        USER_ID: names,
        SEEN: [seen for seen, *_ in log.values()],
        POSITIVE: [[int(item in positive) for item in seen] for seen, positive, *_ in log.values()],
        TARGETS: [[int(item in targets) for item in seen] for seen, _, targets, _ in log.values()],
        LAST_TIME: [[1_000 + item for item in seen] for seen, *_ in log.values()],
    }


def _users(settings: Settings) -> Rows:
    names = [name for name, (*_, clicked) in LOG.items() if clicked]
    drawn = draw_features(settings, of_side(settings.features, "user"), len(names), np.random.default_rng(8))
    warm = np.array([int(bool(LOG[name][0])) for name in names], np.int32)
    return {USER_ID: names, WARM: warm, CLICKED: [LOG[name][3] for name in names], **drawn}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A written run with a model whose towers hold a frozen table."""
    settings = make_settings(tmp_path_factory.mktemp("evaluate"), storage="table").model_copy(
        update={"evaluate": Evaluate(cutoffs=CUTOFFS, users_per_block=4)}
    )
    paths = RunPaths(settings.run_folder)
    write_items(settings)
    columns = {USER_ID: TEXT, WARM: ColumnSpec(dtype="int32"), CLICKED: LIST}
    columns |= feature_columns(settings, of_side(settings.features, "user"))
    write_dataset(paths.part("users"), settings, [_users(settings)], "users", columns)
    named = [name for name, (seen, *_) in LOG.items() if seen]
    parts = [_interactions(named[:4]), _interactions(named[4:])]
    write_dataset(paths.part("interactions"), settings, parts, "interactions", INTERACTION_COLUMNS)
    write_model(settings)
    return settings


def _cosine(one: int, other: int, which: int) -> float:
    users = [{name for name, parts in LOG.items() if item in parts[which]} for item in (one, other)]
    both = len(users[0] & users[1])
    return both / math.sqrt(len(users[0]) * len(users[1])) if both and one != other else 0.0


def _scores(name: str) -> dict[str, list[float]]:
    """Each ranker's score of each item for a user; the model's are left out."""
    seen, positive, *_ = LOG[name]
    every = range(ITEMS)
    return {
        "popularity": [float(sum(item in targets for _, _, targets, _ in LOG.values())) for item in every],
        "itemcf": [sum(_cosine(mine, item, 1) for mine in positive) for item in every],
        "itemcf_impressions": [sum(_cosine(mine, item, 0) for mine in seen) for item in every],
    }


def _metrics(scores: list[float], relevant: set[int], left_out: set[int], k: int) -> dict[str, float]:
    """Metrics of one user; equal scores rank by item index."""
    ranked = sorted((item for item in range(ITEMS) if item not in left_out), key=lambda item: -round(scores[item], 5))
    hits = [place for place, item in enumerate(ranked[:k]) if item in relevant]
    best = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return {
        f"recall@{k}": len(hits) / len(relevant),
        f"precision@{k}": len(hits) / k,
        f"hitrate@{k}": float(bool(hits)),
        f"ndcg@{k}": sum(1 / math.log2(place + 2) for place in hits) / best,
    }


def _expected(scores: dict[str, dict[str, list[float]]], view: str) -> dict[str, dict[str, float]]:
    """Means over users of each ranker's metrics; scores: user → ranker → item."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in TESTED:
        seen, clicked = set(LOG[name][0]), set(LOG[name][3])
        relevant, left_out = (clicked, set()) if view == "seen_kept" else (clicked - seen, seen)
        if not relevant:
            continue
        for ranker, of_items in scores[name].items():
            for k in CUTOFFS:
                for metric, value in _metrics(of_items, relevant, left_out, k).items():
                    found.setdefault(ranker, {}).setdefault(metric, []).append(value)
    return {ranker: {m: sum(v) / len(v) for m, v in metrics.items()} for ranker, metrics in found.items()}


def test_the_written_evaluation_is_that_of_plain_python(run: Settings, spark: SparkSession):
    evaluate(spark, run)
    paths = RunPaths(run.run_folder)
    found = json.loads(Path(paths.evaluation).read_text())

    users, catalogue = _users(run), make_catalogue(run)
    items = LoadedTower(f"{paths.model}/item_tower").vectors(catalogue)
    vectors = dict(zip(users[USER_ID], LoadedTower(f"{paths.model}/user_tower").vectors(users), strict=True))
    scores = {name: {"model": (items @ vectors[name]).tolist(), **_scores(name)} for name in TESTED}
    assert (found["users"], found["users_filtered"], found["cold_users"], found["items"]) == (6, 5, 1, ITEMS)
    assert found["samples_build"] == "tiny"
    for view in ("seen_kept", "seen_filtered"):
        expected = _expected(scores, view)
        assert list(found[view]) == ["model", "popularity", "itemcf", "itemcf_impressions"]
        for ranker, metrics in expected.items():
            assert found[view][ranker] == pytest.approx(metrics, abs=1e-9), (view, ranker)
    assert len({found["seen_kept"][ranker]["ndcg@5"] for ranker in found["seen_kept"]}) == 4


def test_popularity_and_similarities_at_literal_values(run: Settings, spark: SparkSession):
    paths = RunPaths(run.run_folder)
    manifest = read_manifest(paths.part("interactions"), "build_samples")
    items = {ITEM_ID: make_catalogue(run)[ITEM_ID], "vector": np.zeros((ITEMS, 5), np.float32)}
    rankers = _rankers(spark, run, paths, manifest, items)
    assert rankers.popularity.tolist() == [1, 0, 0, 1, 0, 3, 1, 1, 0, 3, 0, 0, 0, 0, 1]
    positive, seen = (rankers.similarity[name].toarray() for name in ("itemcf", "itemcf_impressions"))
    assert positive[0, 5] == pytest.approx(1.0)  # both are positives of a, c and gone alone
    assert positive[5, 9] == pytest.approx(1 / 3)  # gone alone, of three users each
    assert seen[5, 9] == pytest.approx(2 / 4)  # seen by a and gone, of four users each
    assert positive[2].max() == positive[10].max() == 0.0


@pytest.mark.parametrize(("limit", "left_out"), [(PAIRS, False), (PAIRS - 1, True)])
def test_the_limit_of_itemcf_counts_pairs(
    run: Settings, spark: SparkSession, capsys: pytest.CaptureFixture[str], limit: int, left_out: bool
):
    limited = run.model_copy(update={"evaluate": Evaluate(cutoffs=CUTOFFS, itemcf_max_interactions=limit)})
    paths = RunPaths(run.run_folder)
    manifest = read_manifest(paths.part("interactions"), "build_samples")
    items = {ITEM_ID: make_catalogue(run)[ITEM_ID], "vector": np.zeros((ITEMS, 5), np.float32)}
    rankers = _rankers(spark, limited, paths, manifest, items)
    assert rankers.names == ["model", "popularity", *([] if left_out else ["itemcf", "itemcf_impressions"])]
    assert (f"ItemCF left out: {PAIRS} interactions are above" in capsys.readouterr().out) == left_out
