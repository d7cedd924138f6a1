"""Names in evaluation.json: its views of the ranked catalogue, the rankers in each, the metric that stands for it."""

from __future__ import annotations

from collections.abc import Iterable

KEPT, FILTERED = "seen_kept", "seen_filtered"
VIEWS = {KEPT: "seen items kept", FILTERED: "seen items filtered"}
MODEL, POPULARITY, BEST_REACHABLE = "model", "popularity", "best_reachable"
HEADLINE = "headline"  # key of the metric that tables, breakdowns and comparisons show
TEST_ROWS = "test_rows"  # key of what train measured of the test samples; older files lack it
DEFAULT_METRIC = "recall@50"  # unless item_table.gate.metric is another


def recalls(metrics: Iterable[str]) -> list[str]:
    """Returns the names recall@K among the metrics, by K.

    >>> recalls(["ndcg@10", "recall@100", "recall@50"])
    ['recall@50', 'recall@100']
    """
    return sorted((name for name in metrics if name.startswith("recall@")), key=lambda name: int(name.split("@")[1]))


def headline(metric: str, metrics: Iterable[str]) -> str:
    """Returns the recall@K that stands for a ranking: the gate's metric, else the one in the middle.

    >>> headline("recall@50", ["recall@10", "recall@50", "recall@100"]), headline("ndcg@10", ["recall@5", "ndcg@10"])
    ('recall@50', 'recall@5')
    """
    known = recalls(metrics)
    return metric if metric in known else known[len(known) // 2]
