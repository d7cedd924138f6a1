"""docs/models.md: each choice is in it, each YAML line loads, each recipe shows what it is named for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from dssm.config import Settings, load_settings
from dssm.encoders import EncoderKind
from dssm.features import Feature
from dssm.sections import LossKind, OptimizerKind, TowerKind
from dssm.sections.model import Scorer
from dssm.sections.samples import Negatives
from dssm.strict import kinds_of

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "models.md"
CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Row:
    """A choice of a section: the kind's name, its YAML, the recipe that is linked."""

    section: str
    kind: str
    yaml: str
    recipe: str | None


def rows() -> list[Row]:
    found: list[Row] = []
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("| `"):
            _, kind, _, given, recipe, _ = CELL.split(line)
            link = re.search(r"\]\(\.\./(\S+?\.yaml)\)", recipe)
            found.append(Row(section, kind.strip().strip("`"), given.strip().strip("`"), link and link.group(1)))
    return found


ROWS = rows()


def named(family: type) -> set[str]:
    return {kind for kind, made in family.choices.items() if made.__module__.startswith("dssm.")}


def test_every_choice_is_on_the_page() -> None:
    scorers = set(get_args(Scorer.model_fields["kind"].annotation))
    expected = {
        "Features": set(kinds_of(Feature)),
        "Encoders of a list": named(EncoderKind),
        "Towers": named(TowerKind),
        "Similarity and score": {"cosine", "inner_product"} | scorers,
        "Losses": named(LossKind),
        "Negatives": set(kinds_of(Negatives)),
        "Optimizers": named(OptimizerKind),
    }
    shown = {section: {row.kind for row in ROWS if row.section == section} for section in expected}
    assert shown == expected
    assert len(ROWS) == sum(row.section in expected for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}-{row.kind}")
def test_a_line_of_yaml_stands_in_a_config_over_the_demo(tmp_path: Path, row: Row) -> None:
    given = yaml.safe_load(row.yaml)
    assert isinstance(given, dict)
    assert row.kind in words(given)
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"extends": str(PROJECT / "conf" / "demo.yaml"), **given}), encoding="utf-8")
    assert isinstance(load_settings(str(config)), Settings)


def words(value: Any) -> set[str]:
    """Returns all texts in a nested value."""
    if isinstance(value, dict):
        return set().union(*map(words, value.values()))
    return set().union(*map(words, value)) if isinstance(value, list) else {str(value)}


@pytest.mark.parametrize("row", [row for row in ROWS if row.recipe], ids=lambda row: f"{row.section}-{row.kind}")
def test_a_recipe_has_what_it_is_shown_for(row: Row) -> None:
    assert row.recipe is not None
    settings = load_settings(str(PROJECT / row.recipe))
    assert row.kind in words(settings.model_dump(mode="json"))
