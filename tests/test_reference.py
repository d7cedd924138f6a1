from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dssm import api_reference
from dssm.config import load_settings
from dssm.reference import PAGE, PROJECT, SCHEMA, json_schema, page

CONFIGS = sorted((PROJECT / "conf").rglob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def faults(validator: jsonschema.Draft202012Validator, config: dict[str, Any]) -> list[str]:
    """Returns where the schema finds faults, as paths in the file."""
    found = json.loads(json.dumps(config, default=str))  # a day is a text to an editor
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(found)]


def test_the_schema_and_the_page_are_those_of_the_settings() -> None:
    """`make reference` writes them."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_fits_the_schema(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    assert faults(validator, yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_tells_an_editor_where_the_schema_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"train": {"epoch": 3}}, "train"),
        ({"train": {"loss": {"kind": "in_batch_softmax", "gamma": 3}}}, "train.loss"),
        ({"train": {"optimizer": "adamm"}}, "train.optimizer"),
        ({"seed": -1}, "seed"),
        ({"sources": []}, "sources"),
    ],
    ids=["unknown key", "a choice's unknown key", "unknown choice", "below a bound", "a list for a mapping"],
)
def test_what_the_settings_refuse_an_editor_marks(
    validator: jsonschema.Draft202012Validator, change: dict[str, Any], place: str
) -> None:
    config = yaml.safe_load((PROJECT / "conf/demo.yaml").read_text(encoding="utf-8"))
    assert faults(validator, {**config, **change}) == [place]


def test_the_page_has_each_section_and_its_defaults() -> None:
    shown = page()
    for heading in ("## `train`", "## `features.NAME: SparseFeat`", "## `train.optimizer: rowwise_adagrad`"):
        assert shown.count(f"{heading}\n") == 1
    assert "| `batch_size` | whole number ≥ 1 | `1024` | Rows a rank and step. |" in shown
    default = load_settings(str(PROJECT / "conf/demo.yaml")).train.reader_threads
    assert f"| `reader_threads` | whole number ≥ 1, ≤ 16 | `{default}` |" in shown


def test_the_api_page_is_that_of_the_docstrings() -> None:
    """`make reference` writes it."""
    assert api_reference.PAGE.read_text(encoding="utf-8") == api_reference.page()


def test_an_entry_has_the_signature_the_fields_and_the_docstring() -> None:
    shown = api_reference.page()
    assert "```python\ndef auc(labels: np.ndarray, scores: np.ndarray) -> float\n```\n\n" in shown
    assert "class FeatureBlock:\n    name: str\n    vector: tf.Tensor\n" in shown
    assert (
        "- `label`: (batch,), 0…1; 0 where it is not known. The project's own losses take NaN for that, too.\n" in shown
    )
    assert "**`search(queries, count)`** — Returns the items with the largest inner products" in shown


def test_a_name_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_reference, "SECTIONS", {"Jobs": ("", {"dssm.errors": ("GoneError",)})})
    with pytest.raises(LookupError, match=r"^dssm/errors\.py defines no GoneError"):
        api_reference.page()
