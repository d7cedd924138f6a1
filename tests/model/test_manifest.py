from __future__ import annotations

from typing import Any

import pytest

from tests.serving.tables import model_manifest

EPOCHS = [{"auc": 0.6}, {"auc": 0.7}, {"auc": 0.65}]
CHOSEN = {"metrics": EPOCHS, "validation": [{}, {}, {}], "best_epoch": 2}


@pytest.mark.parametrize(
    ("trained", "build", "expected"),
    [
        (CHOSEN, "tiny", {"auc": 0.7}),
        ({**CHOSEN, "validation": [{}, {}]}, "tiny", {"auc": 0.65}),
        ({"metrics": EPOCHS}, "tiny", {"auc": 0.65}),
        (CHOSEN, "rebuilt", {}),
        ({"metrics": []}, "tiny", {}),
    ],
    ids=["the best epoch", "newest rows after it", "the last epoch", "other samples", "none measured"],
)
def test_metrics_of_the_test_samples_are_those_of_the_kept_weights(
    trained: dict[str, Any], build: str, expected: dict[str, float]
) -> None:
    model = model_manifest("2024-01-08", 4).model_copy(update=trained)
    assert model.test_metrics(build) == expected
