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
from dssm.published import VectorType
from dssm.scoring import files
from dssm.scoring.earlier import Earlier
from dssm.scoring.files import FileResult, Scoring, score_file
from dssm.scoring.score import own_norm
from dssm.scoring.tasks import commit_files
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
        columns={"x": ColumnSpec(dtype="int32")}, tower="", model_version="m", threads=1,
        **{"dtype": "float32", "norm": 1.0, "own_norm": 1.0, "digests": False, **given},
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


@dataclass
class Silent(Tower):
    """Gives zeros for some rows, by column, and a first number of zero for the first."""

    zeros: dict[str, list[int]] = field(default_factory=dict)

    def all_vectors(self, columns: dict[str, Any]) -> dict[str, np.ndarray]:
        made = super().all_vectors(columns)
        for name, rows in self.zeros.items():
            made[name][np.isin(columns["x"], rows)] = 0
        made["vector"][np.isin(columns["x"], [0]), 0] = 0
        return made


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_vectors_of_zeros_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: VectorType) -> None:
    """Scored or copied, combined or an objective's own; of a model that sets no norm no other gate sees them."""
    free: dict[str, Any] = {"norm": None, "own_norm": None, "dtype": dtype, "digests": True}
    found = score(tmp_path, Silent(), monkeypatch, **free)
    assert (found.rows, found.zeros, found.zero_example) == (ROWS, 0, None)
    tower = Silent(zeros={"vector": [2, 5], "vector_shown": [5, 7]})
    found = score(tmp_path, tower, monkeypatch, **free)
    assert (found.rows, found.zeros, found.zero_example) == (ROWS, 3, "i2")
    commit_files(str(tmp_path / "made"), [found])
    (tmp_path / "made").rename(tmp_path / "before")
    names, widths = {"rows.parquet": ["rows.parquet"]}, {"vector": 4, "vector_click": 2, "vector_like": 2}
    earlier = Earlier(str(tmp_path / "before"), names, {**widths, "vector_shown": 2}, dtype, "m")
    copied = score(tmp_path, Silent(), monkeypatch, **free, earlier=earlier, copies=True)
    assert (copied.copied, copied.zeros, copied.zero_example) == (ROWS, 3, "i2")


def before(root: Path, tower: Tower, monkeypatch: pytest.MonkeyPatch, **widths: int) -> Earlier:
    """Publishes a tower's vectors, as an earlier version."""
    commit_files(str(root / "made"), [score(root, tower, monkeypatch, digests=True)])
    (root / "made").rename(root / "before")
    return Earlier(str(root / "before"), {"rows.parquet": ["rows.parquet"]}, widths, "float32", "m")


def test_the_drift_of_each_objective_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The combined vector knows nothing of an objective without a share; likes are as if they had not been there."""
    earlier = before(tmp_path, Tower(), monkeypatch, vector=4, vector_click=2, vector_shown=2)
    found = score(tmp_path, Tower({"shown": -1.0}), monkeypatch, earlier=earlier)
    assert found.drift_rows == ROWS
    assert found.drift == pytest.approx({"vector": ROWS, "vector_click": ROWS, "vector_shown": -ROWS}, abs=1e-5)


class Wider(Tower):
    """A tower whose combined vectors have one objective more."""

    def all_vectors(self, columns: dict[str, Any]) -> dict[str, np.ndarray]:
        made = super().all_vectors(columns)
        return made | {"vector": np.hstack([made["vector"], made["vector_shown"]])}


def test_objectives_are_compared_where_the_combined_vectors_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = before(tmp_path, Wider(), monkeypatch, vector=6, vector_click=2, vector_like=2, vector_shown=2)
    found = score(tmp_path, Tower({"like": -1.0}), monkeypatch, earlier=earlier)
    assert found.drift_rows == ROWS
    assert found.drift == pytest.approx({"vector_click": ROWS, "vector_like": -ROWS, "vector_shown": ROWS}, abs=1e-5)


def test_a_copied_row_is_no_drift_of_any_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = before(tmp_path, Tower(), monkeypatch, vector=4, vector_click=2, vector_like=2, vector_shown=2)
    found = score(tmp_path, Tower({"like": -1.0}), monkeypatch, earlier=earlier, copies=True, digests=True)
    assert (found.scored, found.copied) == (0, ROWS)
    names = ("vector", "vector_click", "vector_like", "vector_shown")
    assert found.drift == dict.fromkeys(names, ROWS)


def test_zeros_that_stay_zeros_are_no_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = before(tmp_path, Tower({"shown": 0.0}), monkeypatch, vector_shown=2)
    assert score(tmp_path, Tower({"shown": 0.0}), monkeypatch, earlier=earlier).drift == {"vector_shown": ROWS}
    assert score(tmp_path, Tower(), monkeypatch, earlier=earlier).drift == {"vector_shown": 0}


def test_own_norms_are_told_at_the_scale_of_the_combined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of towers with three unit vectors an objective: a limit means the same share of either."""
    found = score(tmp_path, Tower(), monkeypatch, norm=1.0, own_norm=1.25)
    assert found.norm_off == pytest.approx(0.2, abs=1e-6)


def test_the_norm_of_an_objectives_own_vectors() -> None:
    model = model_manifest("2024-01-08", 4)
    assert own_norm(model) is None
    made = model.model_copy(update={"objectives": {"click": 1.5, "like": 0.5}, "vector_norm": 6**0.5})
    assert own_norm(made) == pytest.approx(3**0.5)  # three unit vectors each
