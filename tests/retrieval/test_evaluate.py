"""A small run evaluated by Spark, against rankings and metrics computed user by user in plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp

from dssm.config import Settings
from dssm.errors import UserError
from dssm.features import of_side
from dssm.manifest import (
    CLICKED,
    ITEM_ROWS,
    ITEM_TITLE,
    LAST_TIME,
    MANIFEST,
    POSITIVE,
    SEEN,
    TARGETS,
    USER_ID,
    WARM,
    ColumnSpec,
    data_files,
    read_manifest,
)
from dssm.model.export import LoadedTower
from dssm.paths import RunPaths
from dssm.retrieval.arrays import mapped_matrix
from dssm.retrieval.baselines import ease
from dssm.retrieval.bootstrap import poisson_weights
from dssm.retrieval.evaluate import evaluate
from dssm.retrieval.evaluated import read_evaluation
from dssm.retrieval.rankers import Rankers, make_rankers
from dssm.retrieval.tally import TENTHS
from dssm.sections import Evaluate
from tests.datasets import (
    ITEMS,
    Rows,
    draw_features,
    feature_columns,
    item_columns_of,
    make_catalogue,
    make_settings,
    write_dataset,
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
# clicked in the window. `new` is cold, `again` clicked seen items alone, `gone` is not tested: samples.users is all.
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
TWICE = ("gone", 14)  # a positive that was there twice
RECENT = {"a": [0, 2, 5], "c": [5, 7], "d": [9, 12, 13], "again": [6], "gone": [5, 14]}  # seen last in the recent days
RANKERS = [
    "model", "popularity", "popularity_recent", "itemcf", "itemcf_impressions", "ease", "ease_recent",
]  # fmt: skip
EASE_L2 = 2.0
COLD_ITEMS = [2, 7, 14]  # without a training row
TEST_ROWS = {"auc": 0.7, "log_loss": 0.5, "precision": None}


def _positives(name: str, which: int, item: int, recent: bool = False) -> int:
    """Positives of a user and an item: 1 of all sources, 2 of the tested ones."""
    if recent and item not in RECENT.get(name, []):
        return 0
    return int(item in LOG[name][which]) * (2 if which == 2 and (name, item) == TWICE else 1)


def _interactions(settings: Settings, names: list[str]) -> dict[str, Any]:
    log, since = {name: LOG[name] for name in names}, settings.day_start_ms(-settings.evaluate.recent_days)
    return {
        USER_ID: names,
        SEEN: [seen for seen, *_ in log.values()],
        POSITIVE: [[int(item in positive) for item in seen] for seen, positive, *_ in log.values()],
        TARGETS: [[_positives(name, 2, item) for item in seen] for name, (seen, *_) in log.items()],
        LAST_TIME: [[since - (item not in RECENT.get(name, [])) for item in seen] for name, (seen, *_) in log.items()],
    }


def _users(settings: Settings) -> Rows:
    names = list(LOG)
    drawn = draw_features(settings, of_side(settings.features, "user"), len(names), np.random.default_rng(8))
    warm = np.array([int(bool(LOG[name][0])) for name in names], np.int32)
    return {USER_ID: names, WARM: warm, CLICKED: [LOG[name][3] for name in names], **drawn}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A written run with a model whose towers hold a frozen table."""
    settings = make_settings(tmp_path_factory.mktemp("evaluate"), storage="table").model_copy(
        update={"evaluate": Evaluate(cutoffs=CUTOFFS, users_per_block=4, ease_l2=EASE_L2, bootstrap=9, examples=3)}
    )
    paths = RunPaths(settings.run_folder)
    rows = make_catalogue(settings) | {ITEM_TITLE: np.array([f"title {number}" for number in range(ITEMS)])}
    rows[ITEM_ROWS][COLD_ITEMS] = 0
    parts = [{name: values[part] for name, values in rows.items()} for part in (slice(9, None), slice(9))]
    write_dataset(paths.part("items"), settings, parts, "items", item_columns_of(settings) | {ITEM_TITLE: TEXT})
    columns = {USER_ID: TEXT, WARM: ColumnSpec(dtype="int32"), CLICKED: LIST}
    columns |= feature_columns(settings, of_side(settings.features, "user"))
    write_dataset(paths.part("users"), settings, [_users(settings)], "users", columns)
    named = [name for name, (seen, *_) in LOG.items() if seen]
    parts = [_interactions(settings, named[:4]), _interactions(settings, named[4:])]
    write_dataset(paths.part("interactions"), settings, parts, "interactions", INTERACTION_COLUMNS)
    measured = {"metrics": [TEST_ROWS, {"auc": 0.1}], "validation": [{}, {}], "best_epoch": 1}
    model = write_model(settings).model_copy(update=measured)
    Path(paths.model, MANIFEST).write_text(model.model_dump_json())
    return settings


def _cosine(one: int, other: int, which: int) -> float:
    users = [{name for name, parts in LOG.items() if item in parts[which]} for item in (one, other)]
    both = len(users[0] & users[1])
    return both / math.sqrt(len(users[0]) * len(users[1])) if both and one != other else 0.0


def _popularity(recent: bool) -> list[float]:
    return [float(sum(_positives(name, 2, item, recent) for name in LOG)) for item in range(ITEMS)]


def _row(items: list[int]) -> np.ndarray:
    row = np.zeros(ITEMS, np.float32)
    row[items] = 1.0
    return row


def _scores(name: str) -> dict[str, list[float]]:
    """Each ranker's score of each item for a user; the model's are left out."""
    seen, positive, *_ = LOG[name]
    every = range(ITEMS)
    weights = ease(sp.csr_matrix(np.stack([_row(parts[0]) for parts in LOG.values()])), EASE_L2)
    by_ease = sp.csr_matrix(_row(seen)) @ weights  # in float32 as there: the order of equal items hangs on its rounding
    recent = [float(sum(_positives(user, 1, item, recent=True) for user in LOG)) for item in every]
    return {
        "popularity": _popularity(recent=False),
        "popularity_recent": _popularity(recent=True),
        "itemcf": [round(sum(_cosine(mine, item, 1) for mine in positive), 5) for item in every],
        "itemcf_impressions": [round(sum(_cosine(mine, item, 0) for mine in seen), 5) for item in every],
        "ease": by_ease[0].tolist(),
        "ease_recent": (by_ease * np.sqrt(np.array(recent, np.float32)))[0].tolist(),
    }


def _ranked(scores: list[float], left_out: set[int]) -> list[int]:
    """Items by score, the highest first; equal ones by index."""
    return sorted((item for item in range(ITEMS) if item not in left_out), key=lambda item: -scores[item])


def _metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """Metrics of one user."""
    hits = [place for place, item in enumerate(ranked[:k]) if item in relevant]
    best = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return {
        f"recall@{k}": len(hits) / len(relevant),
        f"precision@{k}": len(hits) / k,
        f"hitrate@{k}": float(bool(hits)),
        f"mrr@{k}": 1 / (hits[0] + 1) if hits else 0.0,
        f"ndcg@{k}": sum(1 / math.log2(place + 2) for place in hits) / best,
    }


def _rankings(scores: dict[str, dict[str, list[float]]], ranker: str, view: str) -> list[tuple[list[int], set[int]]]:
    """Each counted user's ranking, and its relevant items; scores: user → ranker → item."""
    found = []
    for name in TESTED:
        seen, clicked = set(LOG[name][0]), set(LOG[name][3])
        relevant, left_out = (clicked, set()) if view == "seen_kept" else (clicked - seen, seen)
        if relevant:
            found.append((_ranked(scores[name][ranker], left_out), relevant))
    return found


def _expected(rankings: list[tuple[list[int], set[int]]]) -> dict[str, float]:
    """Means over users of a ranker's metrics, and its coverage."""
    found: dict[str, list[float]] = {}
    for ranked, relevant in rankings:
        for k in CUTOFFS:
            for metric, value in _metrics(ranked, relevant, k).items():
                found.setdefault(metric, []).append(value)
    means = {metric: sum(values) / len(values) for metric, values in found.items()}
    coverage = {f"coverage@{k}": len({i for ranked, _ in rankings for i in ranked[:k]}) / ITEMS for k in CUTOFFS}
    return means | coverage


def _expected_tenths(rankings: list[tuple[list[int], set[int]]]) -> tuple[list[int], dict[str, list[float | None]]]:
    """Clicks on each tenth, and the share of them found; the tenths of 15 items are of 2 and 1 by turns."""
    by_popularity = _ranked(_popularity(recent=False), set())
    tenths = [set(by_popularity[3 * n // 2 + n % 2 : 3 * (n + 1) // 2 + (n + 1) % 2]) for n in range(TENTHS)]
    assert [len(tenth) for tenth in tenths] == [2, 1] * 5
    clicks = [sum(len(relevant & tenth) for _, relevant in rankings) for tenth in tenths]
    recall: dict[str, list[float | None]] = {}
    for k in CUTOFFS:
        hits = [sum(len(set(ranked[:k]) & relevant & tenth) for ranked, relevant in rankings) for tenth in tenths]
        recall[f"recall@{k}"] = [hit / of if of else None for hit, of in zip(hits, clicks, strict=True)]
    return clicks, recall


@pytest.fixture(scope="module")
def scores(run: Settings, spark: SparkSession) -> dict[str, dict[str, list[float]]]:
    """The run evaluated. Returns: user → ranker → score of each item."""
    evaluate(spark, run)
    paths, users = RunPaths(run.run_folder), _users(run)
    items = LoadedTower(f"{paths.model}/item_tower").vectors(make_catalogue(run))
    vectors = dict(zip(users[USER_ID], LoadedTower(f"{paths.model}/user_tower").vectors(users), strict=True))
    return {name: {"model": np.round(items @ vectors[name], 5).tolist(), **_scores(name)} for name in [*TESTED, "new"]}


def _written(run: Settings, name: str = "evaluation.json") -> dict[str, Any]:
    return json.loads(Path(run.run_folder, name).read_text())


Rankings = dict[str, dict[str, list[float]]]


def test_the_written_evaluation_is_that_of_plain_python(run: Settings, scores: Rankings):
    found = _written(run)
    assert (found["users"], found["users_filtered"], found["cold_users"], found["items"]) == (6, 5, 1, ITEMS)
    assert found["samples_build"] == "tiny"
    assert found["test_rows"] == TEST_ROWS
    assert found["headline"] == "recall@5"  # the gate's recall@50 is none of the cutoffs
    assert found["popularity_tenths"]["items"] == [2, 1] * 5
    for view in ("seen_kept", "seen_filtered"):
        assert list(found[view]) == RANKERS
        tenths = found["popularity_tenths"][view]
        assert list(tenths) == ["clicks", *RANKERS]
        for ranker in RANKERS:
            rankings = _rankings(scores, ranker, view)
            assert found[view][ranker] == pytest.approx(_expected(rankings), abs=1e-9), (view, ranker)
            assert (tenths["clicks"], tenths[ranker]) == _expected_tenths(rankings), (view, ranker)
    assert len({found["seen_kept"][ranker]["ndcg@5"] for ranker in RANKERS}) == len(RANKERS)
    assert not (Path(run.run_folder) / ".evaluate.tmp").exists()


def test_cold_users_and_cold_items_count_apart(run: Settings, scores: Rankings):
    cold = _written(run)["cold"]
    assert cold["users"]["users"] == 1
    assert list(cold["users"]["metrics"]) == RANKERS[:3]
    for ranker in RANKERS[:3]:
        ranking = (_ranked(scores["new"][ranker], set()), set(LOG["new"][3]))
        assert cold["users"]["metrics"][ranker] == pytest.approx(_expected([ranking])), ranker
    assert cold["items"]["items"] == len(COLD_ITEMS)
    for view in ("seen_kept", "seen_filtered"):
        for ranker in RANKERS:
            rankings = _rankings(scores, ranker, view)
            clicks = sum(len(relevant & set(COLD_ITEMS)) for _, relevant in rankings)
            hits = [sum(len(set(r[:k]) & relevant & set(COLD_ITEMS)) for r, relevant in rankings) for k in CUTOFFS]
            expected = {f"recall@{k}": hit / clicks for k, hit in zip(CUTOFFS, hits, strict=True)}
            assert cold["items"][view]["clicks"] == clicks
            assert cold["items"][view][ranker] == pytest.approx(expected), (view, ranker)


def test_tenths_of_activity_hold_all_users(run: Settings, scores: Rankings):
    """Three users with 5 items, one with 4, two with 3: whichever tenth each is in, the tenths' sums are known."""
    tenths = _written(run)["activity_tenths"]
    assert tenths["items"] == [[5, 5]] * 5 + [[4, 4], [4, 3], *[[3, 3]] * 3]
    for view, users in (("seen_kept", 6), ("seen_filtered", 5)):
        assert sum(tenths[view]["users"]) == users
        for ranker in RANKERS:
            found = zip(tenths[view]["users"], tenths[view][ranker]["recall@5"], strict=True)
            total = sum(count * recall for count, recall in found if count)
            assert total / users == pytest.approx(_expected(_rankings(scores, ranker, view))["recall@5"])
    assert sum(tenths["seen_kept"]["users"][:5]) <= 3


def test_replicates_resample_the_users_by_their_hash(run: Settings, scores: Rankings, spark: SparkSession):
    evaluation = read_evaluation(RunPaths(run.run_folder), "tiny")
    keys = np.array([spark.sql(f"select xxhash64('{name}')").head()[0] for name in TESTED])
    weights = poisson_weights(keys, 9)
    for ranker in ("model", "ease"):
        recall = [_metrics(*ranking, 5)["recall@5"] for ranking in _rankings(scores, ranker, "seen_kept")]
        expected = (weights @ recall / weights.sum(axis=1)).tolist()
        found = evaluation.replicates.means("seen_kept", ranker, "recall@5")
        assert found[1:].tolist() == pytest.approx(expected)
        low, high = evaluation.result["intervals"]["seen_kept"][ranker]["recall@5"]
        assert (low, high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-6)
    assert set(evaluation.result["evaluated"]) == {"users", "relevant", "relevant_unseen", "catalogue"}


def test_examples_show_users_with_their_history_clicks_and_recommendations(run: Settings, scores: Rankings):
    examples = _written(run, "examples.json")["users"]
    assert 1 <= len(examples) <= 3
    assert [user["items_before"] for user in examples] == sorted((u["items_before"] for u in examples), reverse=True)
    for user in examples:
        seen, positive, _, clicked = LOG[user["user"]]
        recent = RECENT.get(user["user"], [])
        newest = sorted(positive, key=lambda item, recent=recent: (item not in recent, item))  # in LOG's two moments
        assert user["history"] == [_named(item) for item in newest]
        assert user["clicked"] == [{**_named(item), "seen": item in seen} for item in clicked]
        best = _ranked(scores[user["user"]]["model"], set(seen))[:10]
        assert [(row["item"], row["title"], row["hit"]) for row in user["recommended"]] == [
            (*_named(item).values(), item in clicked) for item in best
        ]
        expected = [scores[user["user"]]["model"][item] for item in best]
        assert [row["score"] for row in user["recommended"]] == pytest.approx(expected, abs=1e-5)


def _named(item: int) -> dict[str, str]:
    return {"item": f"item{item:02d}", "title": f"title {item}"}


def _made(spark: SparkSession, settings: Settings, scratch: Path) -> Rankers:
    paths = RunPaths(settings.run_folder)
    users, catalogue = (
        spark.read.parquet(*data_files(folder, read_manifest(folder, "build_samples")))
        for folder in map(paths.part, ("interactions", "items"))
    )
    return make_rankers(users, PAIRS, catalogue, ITEMS, settings, str(scratch))


def test_baselines_at_literal_values(run: Settings, spark: SparkSession, tmp_path: Path):
    rankers = _made(spark, run, tmp_path)
    assert rankers.names == RANKERS
    assert rankers.cold_names == RANKERS[:3]
    arrays = rankers.arrays()
    assert arrays["popularity"].tolist() == [1, 0, 0, 1, 0, 3, 1, 1, 0, 3, 0, 0, 0, 0, 2]
    assert arrays["recent_targets"].tolist() == [1, 0, 0, 0, 0, 3, 1, 0, 0, 1, 0, 0, 0, 0, 2]
    assert arrays["recent_positives"].tolist() == [1, 0, 0, 0, 0, 3, 1, 1, 0, 1, 0, 0, 1, 0, 1]
    positive, seen = (mapped_matrix(arrays, name, ITEMS).toarray() for name in ("itemcf", "itemcf_impressions"))
    assert positive[0, 5] == pytest.approx(1.0)  # both are positives of a, c and gone alone
    assert positive[5, 9] == pytest.approx(1 / 3)  # gone alone, of three users each
    assert seen[5, 9] == pytest.approx(2 / 4)  # seen by a and gone, of four users each
    assert positive[2].max() == positive[10].max() == 0.0


@pytest.mark.parametrize(
    ("limits", "left_out", "remark"),
    [
        ({"itemcf_max_interactions": PAIRS, "ease_max_items": ITEMS}, "", ""),
        (
            {"itemcf_max_interactions": PAIRS - 1},
            "itemcf itemcf_impressions ease ease_recent",
            f"ItemCF and EASE left out: {PAIRS} interactions are above evaluate.itemcf_max_interactions ({PAIRS - 1})",
        ),
        (
            {"ease_max_items": ITEMS - 1},
            "ease ease_recent",
            f"EASE left out: {ITEMS} items are above evaluate.ease_max_items ({ITEMS - 1})",
        ),
    ],
)
def test_what_is_above_a_limit_is_left_out_and_said(
    run: Settings, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], limits: dict[str, int],
    left_out: str, remark: str,
):  # fmt: skip
    limited = run.model_copy(update={"evaluate": Evaluate(cutoffs=CUTOFFS, **limits)})
    names = _made(spark, limited, tmp_path).names
    assert names == [name for name in RANKERS if name not in left_out.split()]
    printed = " ".join(capsys.readouterr().out.split())
    assert remark in printed
    assert ("left out" in printed) == bool(remark)


def test_no_recent_positives_no_recent_rows(
    run: Settings, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """All that is recent was two days before the window."""
    latest = run.model_copy(update={"evaluate": Evaluate(cutoffs=CUTOFFS, recent_days=1)})
    assert _made(spark, latest, tmp_path).names == [name for name in RANKERS if not name.endswith("_recent")]
    said = "Recent popularity left out: no positives in the last 1 days before the test window (evaluate.recent_days)"
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_lambda_that_is_too_small_names_the_setting(run: Settings, spark: SparkSession, tmp_path: Path):
    tiny = run.model_copy(update={"evaluate": Evaluate(cutoffs=CUTOFFS, ease_l2=1e-300)})
    with pytest.raises(UserError, match=r"^evaluate\.ease_l2: 1e-300 is too small, .* not positive definite"):
        _made(spark, tiny, tmp_path)
