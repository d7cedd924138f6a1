"""Names in evaluation.json: its views of the ranked catalogue, and the rankers in each."""

KEPT, FILTERED = "seen_kept", "seen_filtered"
VIEWS = {KEPT: "seen items kept", FILTERED: "seen items filtered"}
MODEL, POPULARITY, BEST_REACHABLE = "model", "popularity", "best_reachable"
