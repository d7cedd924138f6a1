"""Norms of the combined vectors, and of each objective's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.manifest import ColumnSpec
from dssm.scoring import files
from dssm.scoring.earlier import Earlier
from dssm.scoring.files import FileResult, Scoring, score_file
from dssm.scoring.score import commit_files, own_norm
from tests.scoring.tables import unit_vectors
from tests.serving.tables import model_manifest

SHARES = {"click": 0.75, "like": 0.25, "shown": 0.0}
ROWS = 8


@dataclass
class Tower:
    """Gives unit vectors of each objective, times a factor. The combined one is as the shares say."""

    factors: dict[str, float] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, Any]:
        return {name: SimpleNamespace(shape=matrix.shape) for name, matrix in self.all_vectors({"x": [0]}).items()}

    def all_vectors(self, columns: dict[str, Any]) -> dict[str, np.ndarray]:
        rows = len(columns["x"])
        own = {name: unit_vectors(rows, 2, seed) * self.factors.get(name, 1) for seed, name in enumerate(SHARES)}
        own = {name: vectors.astype(np.float32) for name, vectors in own.items()}
        combined = np.hstack([own[name] * share**0.5 for name, share in SHARES.items() if share]).astype(np.float32)
        return {"vector": combined, **{f"vector_{name}": vectors for name, vectors in own.items()}}


def score(root: Path, tower: Tower, monkeypatch: pytest.MonkeyPatch, **given: Any) -> FileResult:
    rows = {"id": pa.array([f"i{n}" for n in range(ROWS)]), "x": pa.array(range(ROWS), pa.int32())}
    pq.write_table(pa.table(rows), root / "rows.parquet")
    monkeypatch.setattr(files, "load_tower", lambda *_: tower)
    scoring = Scoring(
        source=str(root), target=str(root / "made"), id_source="id", id_column="item_id",
        columns={"x": ColumnSpec(dtype="int32")}, tower="", model_version="m", threads=1, dtype="float32",
        digests=False, **{"norm": 1.0, "own_norm": 1.0, **given},
    )  # fmt: skip
    return score_file(scoring, "rows.parquet")


def test_unit_vectors_are_on_their_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert score(tmp_path, Tower(), monkeypatch).norm_off < 1e-6


def test_an_objective_without_a_share_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert score(tmp_path, Tower({"shown": 1.5}), monkeypatch).norm_off == pytest.approx(0.5, abs=1e-6)
    without = score(tmp_path, Tower({"shown": 1.5}), monkeypatch, own_norm=None)
    assert without.norm_off < 1e-6  # the combined ones know nothing of it


def test_what_the_combined_vector_evens_out_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.75 · 0.8² + 0.25 · x² = 1."""
    longer = ((1 - 0.75 * 0.64) / 0.25) ** 0.5
    found = score(tmp_path, Tower({"click": 0.8, "like": longer}), monkeypatch)
    assert found.norm_off == pytest.approx(longer - 1, abs=1e-6)


def test_the_drift_of_each_objective_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The combined vector knows nothing of an objective without a share."""
    commit_files(str(tmp_path / "made"), [score(tmp_path, Tower(), monkeypatch)])
    (tmp_path / "made").rename(tmp_path / "before")
    widths = {"vector": 4, "vector_click": 2, "vector_shown": 2}  # as if it had known no likes
    earlier = Earlier(str(tmp_path / "before"), {"rows.parquet": ["rows.parquet"]}, widths, "float32", "m")
    found = score(tmp_path, Tower({"shown": -1.0}), monkeypatch, earlier=earlier)
    assert found.drift_rows == ROWS
    assert found.drift == pytest.approx({"vector": ROWS, "vector_click": ROWS, "vector_shown": -ROWS}, abs=1e-5)


def test_own_norms_are_told_at_the_scale_of_the_combined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of towers with three unit vectors an objective: a limit means the same share of either."""
    found = score(tmp_path, Tower(), monkeypatch, norm=1.0, own_norm=1.25)
    assert found.norm_off == pytest.approx(0.2, abs=1e-6)


def test_the_norm_of_an_objectives_own_vectors() -> None:
    model = model_manifest("2024-01-08", 4)
    assert own_norm(model) is None
    made = model.model_copy(update={"objectives": {"click": 1.5, "like": 0.5}, "vector_norm": 6**0.5})
    assert own_norm(made) == pytest.approx(3**0.5)  # three unit vectors each
