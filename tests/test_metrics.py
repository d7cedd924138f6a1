from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.metrics import ScoreCounts, auc, binary_metrics, binary_sums, metrics_of_sums, ranking_metrics

scored = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.integers(-3, 3)), min_size=1, max_size=30)


@settings(max_examples=500, deadline=None)
@given(rows=scored)
def test_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(rows):
    labels, scores = (np.array(values, np.float32) for values in zip(*rows, strict=True))
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels > 0] for n in scores[labels <= 0]]
    if pairs:
        assert auc(labels, scores) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    else:
        assert math.isnan(auc(labels, scores))


def test_auc_at_literal_scores():
    assert auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.8, 0.1])) == 0.875
    assert auc(np.array([1, 0]), np.array([0.0, 1.0])) == 0.0
    assert math.isnan(auc(np.array([1, 0]), np.array([math.nan, 1.0])))


@pytest.mark.slow
@given(rows=scored, parts=st.integers(1, 4))
def test_counted_scores_have_the_auc_of_all_of_them_whatever_part_each_process_counts(rows, parts):
    labels, scores = (np.array(values, np.float32) for values in zip(*rows, strict=True))
    scores[scores == 0] *= -1  # there is one zero, whatever its sign
    whole = ScoreCounts()
    for part in range(parts):
        counted = ScoreCounts()
        counted.add(labels[part::parts] > 0, scores[part::parts] * np.float32(1.5))
        whole.counts += counted.counts
    np.testing.assert_equal(whole.auc(), auc(labels, scores))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_counted_scores_lose_next_to_nothing(scale: float):
    random = np.random.default_rng(2)
    labels = random.random(200_000) < 0.1
    scores = (scale * (random.normal(size=len(labels)) + labels) - 2 * scale).astype(np.float32)
    counted = ScoreCounts()
    for part in np.array_split(np.arange(len(labels)), 7):
        counted.add(labels[part], scores[part])
    assert counted.counts.sum(axis=1).tolist() == [(~labels).sum(), labels.sum()]
    assert counted.auc() == pytest.approx(auc(labels, scores), abs=2e-6)
    assert counted.auc_error() < 3e-4


def test_the_largest_error_of_counted_scores_is_known():
    random = np.random.default_rng(4)
    labels = random.random(20_000) < 0.2
    scores = (50 + 0.01 * (random.normal(size=len(labels)) + labels)).astype(np.float32)  # alike in their first bits
    counted = ScoreCounts()
    counted.add(labels, scores)
    assert 0.02 < abs(counted.auc() - auc(labels, scores)) < counted.auc_error() <= 0.5
    alone = ScoreCounts()
    assert (alone.auc_error(), np.isnan(alone.auc())) == (0.0, True)


def test_ranking_metrics_at_literal_rankings():
    """Two users: hits at places 1 and 3 of 4 relevant items; a hit at place 2 of 1 relevant item."""
    hits = np.array([[1, 0, 1], [0, 1, 0]])
    found = ranking_metrics(hits, np.array([4, 1]), [1, 2, 3])
    expected = {
        "recall@1": [1 / 4, 0], "precision@1": [1, 0], "hitrate@1": [1, 0], "ndcg@1": [1, 0], "mrr@1": [1, 0],
        "recall@2": [1 / 4, 1], "precision@2": [1 / 2, 1 / 2], "hitrate@2": [1, 1],
        "mrr@2": [1, 1 / 2], "ndcg@2": [1 / 1.6309297535714575, 0.6309297535714575],
        "recall@3": [2 / 4, 1], "precision@3": [2 / 3, 1 / 3], "hitrate@3": [1, 1],
        "mrr@3": [1, 1 / 2], "ndcg@3": [1.5 / 2.1309297535714578, 0.6309297535714575],
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


def test_a_catalogue_smaller_than_k():
    found = ranking_metrics(np.array([[0, 1]]), np.array([1]), [5])
    assert {name: values.tolist() for name, values in found.items()} == {
        "recall@5": [1.0], "precision@5": [0.2], "hitrate@5": [1.0], "mrr@5": [0.5],
        "ndcg@5": [pytest.approx(1 / math.log2(3))],
    }  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    hits=st.lists(st.booleans(), min_size=1, max_size=12),
    unfound=st.integers(0, 4),
    k=st.integers(1, 15),
)
def test_ranking_metrics_against_a_loop(hits, unfound, k):
    relevant = max(sum(hits) + unfound, 1)
    first = hits[:k]
    gain = sum(1 / math.log2(place + 1) for place, hit in enumerate(first, start=1) if hit)
    best = sum(1 / math.log2(place + 1) for place in range(1, min(relevant, k) + 1))
    found = ranking_metrics(np.array([hits]), np.array([relevant]), [k])
    assert found[f"recall@{k}"][0] == pytest.approx(sum(first) / relevant)
    assert found[f"precision@{k}"][0] == pytest.approx(sum(first) / k)
    assert found[f"hitrate@{k}"][0] == float(any(first))
    assert found[f"mrr@{k}"][0] == next((1 / place for place, hit in enumerate(first, start=1) if hit), 0.0)
    assert found[f"ndcg@{k}"][0] == pytest.approx(gain / best)
    assert found[f"ndcg@{k}"][0] <= 1 + 1e-12


def test_binary_metrics_of_a_small_table():
    labels, log_odds = np.array([1.0, 1.0, 0.0, 0.0, 0.25]), np.array([2.0, -1.0, 0.5, -3.0, 0.0])
    found = binary_metrics(labels, log_odds, labels > 0.5, threshold=0.5)
    chance = 1 / (1 + np.exp(-log_odds))
    expected = -np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    assert found["log_loss"] == pytest.approx(expected, rel=1e-12)
    # Predicted: 2.0, 0.5 and 0.0, of which the first is positive; positive: the first two.
    assert (found["accuracy"], found["precision"], found["recall"]) == (2 / 5, 1 / 3, 1 / 2)


def test_sums_of_parts_give_the_metrics_of_the_whole():
    random = np.random.default_rng(3)
    labels, log_odds = random.random(50), random.normal(size=50)
    given = (labels, log_odds, labels > 0.5)
    parts = [
        binary_sums(*(values[part] for values in given), 0.4) for part in (slice(0, 17), slice(17, 17), slice(17, 50))
    ]
    assert metrics_of_sums(sum(parts)) == pytest.approx(binary_metrics(*given, 0.4), rel=1e-12)


def test_the_threshold_is_a_chance():
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    log_odds = np.log(np.array([0.9, 0.8, 0.3, 0.1]) / (1 - np.array([0.9, 0.8, 0.3, 0.1])))
    recalls = [binary_metrics(labels, log_odds, labels > 0, t)["recall"] for t in (0.2, 0.5, 0.95)]
    assert recalls == [1.0, 0.5, 0.0]


def test_log_loss_of_sure_predictions_is_exact():
    found = binary_metrics(np.array([1.0, 0.0]), np.array([800.0, 800.0]), np.array([True, False]), 0.5)
    assert found["log_loss"] == 400.0


def test_binary_metrics_of_nothing_are_not_known():
    nothing = np.zeros(0)
    assert all(np.isnan(value) for value in binary_metrics(nothing, nothing, nothing > 0, 0.5).values())
    assert np.isnan(binary_metrics(np.array([0.0]), np.array([-1.0]), np.array([False]), 0.5)["precision"])


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 6), items=st.integers(8, 40), share=st.floats(0.02, 0.6))
def test_ranking_metrics_are_those_of_trec_eval(seed: int, users: int, items: int, share: float):
    """pytrec_eval computes NIST's trec_eval: its measures of random rankings, of which some hold not all items."""
    random = np.random.default_rng(seed)
    relevant = random.random((users, items)) < share
    relevant[:, random.integers(items)] = True
    ranked = np.stack([random.permutation(items) for _ in range(users)])
    cutoffs = (1, 5, items)
    found = ranking_metrics(np.take_along_axis(relevant, ranked, axis=1), relevant.sum(axis=1), cutoffs)

    names = {"recall": "recall", "precision": "P", "hitrate": "success", "ndcg": "ndcg_cut"}
    judged = {str(user): {str(item): 1 for item in np.flatnonzero(row)} for user, row in enumerate(relevant)}
    scored = {
        str(user): {str(item): float(-place) for place, item in enumerate(row)} for user, row in enumerate(ranked)
    }
    measures = {f"{measure}.{','.join(map(str, cutoffs))}" for measure in names.values()} | {"recip_rank"}
    expected = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(scored)
    for user in range(users):
        of_user = expected[str(user)]
        for ours, theirs in names.items():
            for k in cutoffs:
                assert found[f"{ours}@{k}"][user] == pytest.approx(of_user[f"{theirs}_{k}"], abs=1e-9), (ours, k)
        assert found[f"mrr@{items}"][user] == pytest.approx(of_user["recip_rank"], abs=1e-9)
        for k in cutoffs:  # without a hit in the first k there is no rank to take the reciprocal of
            within = of_user["recip_rank"] if of_user[f"success_{k}"] else 0.0
            assert found[f"mrr@{k}"][user] == pytest.approx(within, abs=1e-9)
