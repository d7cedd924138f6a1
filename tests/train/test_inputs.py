"""What a rank trains on: what is missing is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dssm.errors import UserError
from dssm.train.inputs import read_inputs
from tests.datasets import item_columns_of, write_dataset, write_run

TOWER = {"kind": "multi_objective", "shared": {"layers": [6]}, "head": {"layers": []}}
OBJECTIVES = {"like": {"label": "like", "loss": "weighted_bce"}, "click": {"loss": "mixed_negative"}}


def test_an_empty_catalogue_names_the_loss_that_would_draw_from_it(tmp_path: Path):
    """An objective's own, not train.loss, which none of them has."""
    model = {"user_tower": TOWER, "item_tower": TOWER, "objectives": OBJECTIVES}
    settings = write_run(tmp_path, model=model)
    inputs = read_inputs(settings)
    folder = inputs.paths.part("items")
    shutil.rmtree(folder)
    write_dataset(folder, settings, [], "items", item_columns_of(settings))
    with pytest.raises(UserError) as caught:
        inputs.items(512)
    assert str(caught.value) == f"{folder}: no items, but mixed_negative would draw from the catalogue"
