"""docs/models.md: each choice is in it, each YAML line fits the demo, each recipe itself sets what it is named for."""

from __future__ import annotations

import datetime as dt
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from dssm.config import Settings, load_settings
from dssm.demo.feed import Feed
from dssm.demo.files import make_feed
from dssm.encoders import EncoderKind
from dssm.errors import UserError
from dssm.features import Feature
from dssm.samples.lookups import groups_of
from dssm.samples.raw_columns import raw_item_features, user_columns
from dssm.sections import LossKind, OptimizerKind, TowerKind
from dssm.sections.model import Scorer
from dssm.sections.samples import Negatives
from dssm.strict import Kind, kinds_of
from tests.documents import fences
from tests.model.test_own_loss import Focal

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "models.md"
CELL = re.compile(r"(?<!\\)\|")
FEED = Feed(end=dt.date(2024, 1, 15), days=2, events=500, clients=50, posts=40, topics=5, vector_width=4)
# Of kinds that are chosen without being named: an option by which a line, and a config, show them.
SHOWN_BY = {"pooling": "combiner", "dnn": "batch_norm", "cosine": "temperature", "in_batch_softmax": "logq"}


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


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tables, small."""
    folder = tmp_path_factory.mktemp("demo") / "feed"
    make_feed(FEED, str(folder))
    return folder


def over_the_demo(folder: Path, line: str, data: Path) -> Settings:
    """Loads a line of YAML as a user's own config."""
    config = folder / "mine.yaml"
    demo = {"extends": str(PROJECT / "conf" / "demo.yaml"), "data": str(data)}
    config.write_text(yaml.safe_dump({**demo, **yaml.safe_load(line)}), encoding="utf-8")
    return load_settings(str(config))


def header(settings: Settings, path: str | None) -> list[str]:
    (place,) = settings.expand(path or "")
    return Path(place).read_text(encoding="utf-8").partition("\n")[0].split(",")


def check_columns(settings: Settings) -> None:
    """Checks that the tables have the columns that features and grouped negatives read, as build_samples does."""
    profiles: Any = {
        name: SimpleNamespace(columns=header(settings, table.path)) for name, table in settings.profiles.items()
    }
    user_columns(settings, profiles)
    wanted = {feature.source_column for feature in raw_item_features(settings)}
    wanted |= set(groups_of(settings.samples.negatives).values())
    assert wanted <= set(header(settings, settings.catalogue.path))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}-{row.kind}")
def test_a_line_of_yaml_stands_in_a_config_over_the_demo(tmp_path: Path, feed: Path, row: Row) -> None:
    given = yaml.safe_load(row.yaml)
    assert isinstance(given, dict)
    assert row.kind in words(given)
    check_columns(over_the_demo(tmp_path, row.yaml, feed))


@pytest.mark.parametrize(
    "line",
    [
        "features: {words: {kind: DenseFeat, side: item}}",
        "features: {words: {kind: DenseFeat, side: user}}",
        "{samples: {negatives: {near: {kind: group, column: topic}}}, train: {loss: weighted_bce}}",
    ],
)
def test_columns_that_the_demo_lacks_are_noticed(tmp_path: Path, feed: Path, line: str) -> None:
    settings = over_the_demo(tmp_path, line, feed)
    with pytest.raises((UserError, AssertionError)):
        check_columns(settings)


def words(value: Any) -> set[str]:
    """Returns all texts in a nested value."""
    if isinstance(value, dict):
        return set().union(*map(words, value.values()))
    return set().union(*map(words, value)) if isinstance(value, list) else {str(value)}


def keys(value: Any) -> set[str]:
    """Returns all keys in a nested value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("row", [row for row in ROWS if row.recipe], ids=lambda row: f"{row.section}-{row.kind}")
def test_a_recipe_itself_has_what_it_is_shown_for(row: Row) -> None:
    """What it sets, not what it extends, nor what is so without being set."""
    assert row.recipe is not None
    settings = load_settings(str(PROJECT / row.recipe))
    assert row.kind in words(settings.model_dump(mode="json"))
    own = yaml.safe_load((PROJECT / row.recipe).read_text(encoding="utf-8"))
    del own["name"]  # that of a recipe is often the kind's
    option = SHOWN_BY.get(row.kind)
    assert option in keys(own) & keys(yaml.safe_load(row.yaml)) if option else row.kind in words(own)


def test_the_page_names_every_family_that_takes_kinds_of_a_users_own() -> None:
    families = {f"{of.__module__}.{of.__name__}" for of in Kind.__subclasses__() if of.__name__.endswith("Kind")}
    assert set(re.findall(r"\| `(dssm\.[\w.]+Kind)` \|", PAGE.read_text(encoding="utf-8"))) == families
    assert len(families) == 6


def test_the_readmes_own_loss_is_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """−(1 − p)^γ log p of the label's own probability p."""
    import tensorflow as tf

    from dssm.model.losses import Scored

    (own,) = (fence for fence in fences(PROJECT / "README.md") if fence.text.startswith("# my_losses.py\n"))
    (tmp_path / "my_losses.py").write_text(own.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        settings = importlib.import_module("my_losses").Focal(gamma=3.0)
        score, label = np.float32([-2, 0, 1.5, 3]), np.float32([1, 0, 1, 0])
        weight, keys = tf.constant([1.0, 2.0, 0.5, 0.0]), tf.range(4, dtype=tf.int64)
        losses, weights = settings.build(Scored(tf.constant(score), tf.constant(label), weight, keys, keys))
    finally:
        LossKind.choices.pop("focal", None)
        sys.modules.pop("my_losses", None)
    said = {name: getattr(settings, name) for name, what in vars(LossKind).items() if isinstance(what, property)}
    assert said == {name: getattr(Focal(gamma=3.0), name) for name in said}
    assert settings.is_log_odds
    p = 1 / (1 + np.exp(-np.where(label > 0, score, -score)))
    np.testing.assert_allclose(losses, -((1 - p) ** 3) * np.log(p), rtol=1e-5)
    np.testing.assert_array_equal(weights, weight)
