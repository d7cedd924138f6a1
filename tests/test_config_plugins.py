"""Settings of parts that lie outside the project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dssm.config import Settings
from tests.settings_files import changed, load

PLUGIN = """
from typing import ClassVar, Literal
from dssm.sections.losses import LossKind

class Absolute(LossKind):
    kind: Literal["absolute"] = "absolute"
    builder: ClassVar[str] = "my_absolute_loss:rows"
    slope: float = 1.0

def rows(settings, scored):
    return settings.slope * abs(scored.score - scored.label), scored.weight
"""


def test_a_loss_of_ones_own_is_one_file_and_a_line_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_absolute_loss.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        settings = load(tmp_path, changed(plugins=["my_absolute_loss"], train__loss={"kind": "absolute", "slope": 2.0}))
        assert settings.train.loss.model_dump() == {"kind": "absolute", "slope": 2.0}
        assert Settings.model_validate_json(settings.model_dump_json()) == settings
    finally:
        sys.modules["my_absolute_loss"].Absolute.choices.pop("absolute")
