from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dssm.sections.reporting import Report, Tracking, category_feature
from tests.report.handmade import make_settings


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        ("report", {"map_itmes": 3}, "unknown key 'map_itmes' (did you mean 'map_items'?)"),
        ("report", {"map_items": -1}, "greater than or equal to 0"),
        ("report", {"map_items": 10_001}, "less than or equal to 10000"),
        ("report", {"hub_items": 50_001}, "less than or equal to 50000"),
        ("tracking", {"kind": "wandb"}, "'none' or 'mlflow'"),
        ("tracking", "wandb", "'none' or 'mlflow'"),
        ("tracking", {"experiment": ""}, "at least 1 character"),
        ("tracking", {"url": "x"}, "unknown key 'url'"),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path: Path, section: str, given: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        make_settings(tmp_path, **{section: given})
    assert message in str(refused.value)


def test_defaults_show_a_map_and_log_nowhere(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    assert settings.report == Report(category=None, map_items=2000, hub_items=10_000)
    assert settings.tracking == Tracking(kind="none", uri=None, experiment=None)


def test_the_first_item_id_that_is_not_the_catalogues_key_is_the_category(tmp_path: Path) -> None:
    features = make_settings(tmp_path).features
    found = category_feature(Report(), features, "item_id")
    assert found is not None
    assert found.name == "topic"
    without = {name: feature for name, feature in features.items() if name != "topic"}
    assert category_feature(Report(), without, "item_id") is None
    other_key = category_feature(Report(), features, "item")
    assert other_key is not None
    assert other_key.name == "item_id"


def test_a_list_is_a_category_where_it_is_named(tmp_path: Path) -> None:
    features = dict(make_settings(tmp_path).features)
    features["tags"] = features["clicks"].model_copy(update={"name": "tags", "side": "item"})
    found = category_feature(Report(category="tags"), features, "item_id")
    assert found == features["tags"]
