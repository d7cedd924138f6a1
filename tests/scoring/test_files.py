"""A file of the samples through a real, tiny tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm import storage
from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import ITEM_ID, ColumnSpec
from dssm.packing import unpack_all, unpack_vectors
from dssm.paths import RunPaths
from dssm.published import NOT_FINITE, Published, PublishedManifest, VectorType
from dssm.scoring.earlier import Earlier, files_of_rows
from dssm.scoring.files import NO_ID, REFUSED, FileResult, Scoring, score_file, unreadable
from dssm.scoring.publish import publish
from dssm.scoring.tasks import commit_files, distinct_keys, measured_rows
from dssm.scoring.vectors import load_tower
from tests.datasets import ITEMS, SIZES, make_settings, write_items
from tests.model.tiny import write_model
from tests.scoring.tables import judged, manifest_of, table_at

NAMES = [f"part-{number:05d}.parquet" for number in range(3)]  # the second has no rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = make_settings(tmp_path_factory.mktemp("run"), model={"similarity": "cosine"})
    write_items(settings)
    write_model(settings)
    return settings


def scoring_of(run: Settings, target: Path, source: Path | None = None, **given: Any) -> Scoring:
    from dssm.model.manifest import read_model_manifest

    paths = RunPaths(run.run_folder)
    model = read_model_manifest(paths.model)
    usual: dict[str, Any] = {
        "source": str(source or paths.part("items")), "target": str(target), "id_source": ITEM_ID,
        "id_column": "item_id", "columns": model.item_columns, "tower": f"{paths.model}/item_tower",
        "model_version": model.model_version, "threads": 1, "dtype": "float32", "norm": 1.0, "digests": True,
    }  # fmt: skip
    return Scoring(**{**usual, **given})


def score_all(scoring: Scoring) -> list[FileResult]:
    results = [score_file(scoring, name) for name in NAMES]
    commit_files(scoring.target, results)
    return results


def earlier_of(target: Path, dtype: VectorType = "float32", names: list[str] = NAMES) -> Earlier:
    return Earlier(str(target), files_of_rows(NAMES, names), {"vector": 5}, dtype, "model")


def rows_of(folder: Path) -> dict[str, Any]:
    """Returns the table below data/: each id's stored columns."""
    table = pa.concat_tables([pq.read_table(folder / "data" / name) for name in NAMES])
    return {row.pop("item_id"): row for row in table.to_pylist()}


def assert_same_vectors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """But for rounding: what a tower makes of a row depends a little on the rows beside it."""
    assert list(found) == list(expected)
    for item, row in found.items():
        if isinstance(row["vector"], bytes):
            vectors = [np.frombuffer(rows[item]["vector"], "<f2").astype(np.float32) for rows in (found, expected)]
            error = 1e-3
        else:
            vectors = [np.multiply(rows[item]["vector"], rows[item].get("scale", 1)) for rows in (found, expected)]
            error = 1e-2 if "scale" in row else 1e-6
        np.testing.assert_allclose(*vectors, atol=error)


def total(results: list[FileResult], field: str) -> int:
    return sum(getattr(result, field) for result in results)


def drift_of(results: list[FileResult]) -> float:
    return sum(result.drift.get("vector", 0.0) for result in results)


def changed(run: Settings, folder: Path, change: Callable[[str, dict[str, Any]], object]) -> Path:
    """Copies the items with changes. Args: change: (file's name, its columns as Python values), in place."""
    source = RunPaths(run.run_folder).part("items")
    folder.mkdir()
    for name in NAMES:
        table = pq.read_table(f"{source}/{name}")
        values = table.to_pydict()
        change(name, values)
        pq.write_table(pa.table(values, schema=table.schema), folder / name)
    return folder


def of_file(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[str, dict[str, Any]], object]:
    return lambda name, values: change(values) if name == NAMES[number] else None


# The vectors ---------------------------------------------------------------------------------------------


def test_vectors_are_the_towers(run: Settings, tmp_path: Path) -> None:
    scoring = scoring_of(run, tmp_path)
    results = score_all(scoring)
    rows = pa.concat_tables([pq.read_table(f"{scoring.source}/{name}") for name in NAMES]).combine_chunks()
    expected = load_tower(scoring.tower, scoring.model_version, 1).vectors(
        unpack_all(rows.to_batches()[0], scoring.columns)
    )
    found = rows_of(tmp_path)
    assert len(found) == ITEMS
    np.testing.assert_allclose([found[item]["vector"] for item in rows[ITEM_ID].to_pylist()], expected, atol=1e-6)
    assert {row["model_version"] for row in found.values()} == {scoring.model_version}
    assert [result.rows for result in results] == [6, 0, 9]
    assert [result.size for result in results] == [(tmp_path / "data" / name).stat().st_size for name in NAMES]
    assert total(results, "read") == total(results, "scored") == ITEMS
    assert max(result.norm_off for result in results) < 1e-6
    assert distinct_keys([f"{tmp_path}/digests/{name}" for name in NAMES], ITEMS) == ITEMS
    assert not (tmp_path / "quarantine").exists()


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 5e-3)])
def test_smaller_numbers(run: Settings, tmp_path: Path, dtype: VectorType, error: float) -> None:
    score_all(scoring_of(run, tmp_path / "whole"))
    results = score_all(scoring_of(run, tmp_path / "small", dtype=dtype))
    whole = rows_of(tmp_path / "whole")
    table = pa.concat_tables([pq.read_table(tmp_path / "small/data" / name) for name in NAMES]).combine_chunks()
    scale = table["scale"].chunk(0) if dtype == "int8" else None
    vectors = unpack_vectors(table["vector"].chunk(0), 5, scale)
    np.testing.assert_allclose(vectors, [whole[item]["vector"] for item in table["item_id"].to_pylist()], atol=error)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-5
    assert max(result.norm_off for result in results) < 1e-6  # of what the tower gave, not of what is stored


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rounding_is_no_reason_to_refuse(run: Settings, tmp_path: Path, dtype: VectorType) -> None:
    def make(folder: str, last: Published | None) -> PublishedManifest:
        results = score_all(scoring_of(run, Path(folder), dtype=dtype))
        return manifest_of(dtype=dtype, samples_rows=ITEMS, **measured_rows(folder, results, 1.0))

    table = table_at(tmp_path, kind="path", dtype=dtype, norm_tolerance=1e-5)
    made = publish(table, "v1", judged(), ["vector"], make)
    assert [gate.passed for gate in made.manifest.gates] == [True] * 5
    assert made.manifest.rows == ITEMS


def test_norms_are_measured(run: Settings, tmp_path: Path) -> None:
    results = score_all(scoring_of(run, tmp_path, norm=1.5))
    assert max(result.norm_off for result in results) == pytest.approx(0.5, abs=1e-6)
    earlier = replace(earlier_of(tmp_path), norm_off=0.25)
    results = score_all(scoring_of(run, tmp_path / "copied", earlier=earlier, copies=True))
    assert [result.norm_off for result in results] == [0.25, 0, 0.25]  # what was found when they were scored


# Incremental ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_only_changed_rows_are_scored(run: Settings, tmp_path: Path, dtype: VectorType) -> None:
    score_all(scoring_of(run, tmp_path / "first", dtype=dtype))

    def other_topic(values: dict[str, Any]) -> None:
        values["topic_id"][4] = values["topic_id"][4] % (SIZES["topic_id"] - 1) + 1

    source = changed(run, tmp_path / "items", of_file(2, other_topic))
    earlier = earlier_of(tmp_path / "first", dtype)
    results = score_all(scoring_of(run, tmp_path / "second", source, dtype=dtype, earlier=earlier, copies=True))
    assert (total(results, "scored"), total(results, "copied")) == (1, ITEMS - 1)
    score_all(scoring_of(run, tmp_path / "whole", source, dtype=dtype))
    first, second = rows_of(tmp_path / "first"), rows_of(tmp_path / "second")
    assert_same_vectors(second, rows_of(tmp_path / "whole"))
    for name in NAMES:
        assert pq.read_table(tmp_path / "second/digests" / name).equals(
            pq.read_table(tmp_path / "whole/digests" / name)
        )
    differing = [item for item, row in first.items() if second[item] != row]
    assert differing == [pq.read_table(source / NAMES[2])[ITEM_ID][4].as_py()]
    assert total(results, "drift_rows") == ITEMS
    assert 0.5 < drift_of(results) / ITEMS < 0.9999


def test_rows_that_come_go_and_change_their_places(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))

    def rearrange(values: dict[str, Any]) -> None:
        for column in values.values():
            column.reverse()
            column.pop(3)
            column.insert(1, column[0])
        values[ITEM_ID][1] = "new"

    source = changed(run, tmp_path / "items", of_file(2, rearrange))
    earlier = earlier_of(tmp_path / "first")
    results = score_all(scoring_of(run, tmp_path / "second", source, earlier=earlier, copies=True))
    assert (total(results, "scored"), total(results, "copied")) == (1, ITEMS - 1)
    score_all(scoring_of(run, tmp_path / "whole", source))
    assert_same_vectors(rows_of(tmp_path / "second"), rows_of(tmp_path / "whole"))


def test_a_row_of_another_file_is_scored(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))
    earlier = earlier_of(tmp_path / "first", names=NAMES[2:])
    results = score_all(scoring_of(run, tmp_path / "second", earlier=earlier, copies=True))
    assert [(result.scored, result.copied) for result in results] == [(6, 0), (0, 0), (0, 9)]


def test_nothing_is_copied_unless_it_may_be(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))
    score_all(scoring_of(run, tmp_path / "bare", digests=False))
    for number, (given, earlier) in enumerate([({"copies": False}, "first"), ({"copies": True}, "bare")]):
        results = score_all(scoring_of(run, tmp_path / str(number), earlier=earlier_of(tmp_path / earlier), **given))
        assert total(results, "scored") == ITEMS
        assert drift_of(results) == pytest.approx(ITEMS)  # the same vectors again
    assert pq.read_schema(tmp_path / "bare/digests" / NAMES[0]).names == ["key"]


def test_a_batch_of_unreadable_rows_is_put_aside(run: Settings, tmp_path: Path) -> None:
    def nothing(values: dict[str, Any]) -> None:
        values["topic_id"] = [None] * len(values["topic_id"])

    source = changed(run, tmp_path / "items", of_file(0, nothing))
    results = score_all(scoring_of(run, tmp_path / "made", source))
    assert [(result.read, result.rows) for result in results] == [(6, 0), (0, 0), (9, 9)]
    assert results[0].quarantined == {"column 'topic_id' is null": 6}


def test_drift_of_other_vectors(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))
    negated = pq.read_table(tmp_path / "first/data" / NAMES[2]).to_pydict()
    vectors = -np.array(negated["vector"], np.float32)
    with (tmp_path / "first/data" / NAMES[2]).open("wb") as file:
        from dssm.scoring.parquet import VectorWriter

        writer = VectorWriter(file, {"item_id": "text", "vector": "floats"})
        writer.write({"item_id": pa.array(negated["item_id"]), "vector": vectors}, len(vectors))
        writer.close()
    results = score_all(scoring_of(run, tmp_path / "second", earlier=earlier_of(tmp_path / "first")))
    assert drift_of(results) == pytest.approx(6 - 9, abs=1e-5)
    told: list[str] = []
    assert earlier_of(tmp_path / "first").file("part-00009.parquet", told.append) is None
    assert told == []


def test_an_earlier_file_without_rows_is_none(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))
    empty = pq.read_table(tmp_path / "first/digests" / NAMES[0]).slice(0, 0)
    pq.write_table(empty, tmp_path / "first/digests" / NAMES[0])
    scoring = scoring_of(run, tmp_path / "second", earlier=earlier_of(tmp_path / "first"), copies=True)
    results = score_all(scoring)
    assert [(result.scored, result.copied, result.unread) for result in results] == [(6, 0, []), (0, 0, []), (0, 9, [])]


@pytest.mark.parametrize("part", ["digests", "data"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut off", "of other rows", "of other columns"])
def test_an_earlier_file_that_can_not_be_read_is_told(run: Settings, tmp_path: Path, damage: str, part: str) -> None:
    score_all(scoring_of(run, tmp_path / "first"))
    path = tmp_path / "first" / part / NAMES[2]
    if damage == "gone":
        path.unlink()
    elif damage == "of other columns":
        pq.write_table(pa.table({"x": [1] * 9}), path)
    else:
        other = (tmp_path / "first" / part / NAMES[0]).read_bytes()
        path.write_bytes({"empty": b"", "cut off": path.read_bytes()[:-9], "of other rows": other}[damage])
    scoring = scoring_of(run, tmp_path / "second", earlier=earlier_of(tmp_path / "first"), copies=True)
    results = score_all(scoring)
    assert [(result.scored, result.copied) for result in results] == [(0, 6), (0, 0), (9, 0)]
    assert [len(result.unread) for result in results] == [0, 0, 1]
    named = "data" if damage == "of other rows" else part
    assert results[2].unread[0].startswith(f"{tmp_path}/first/{named}/{NAMES[2]} (")
    assert total(results, "drift_rows") == 6


# Rows that can't be read -----------------------------------------------------------------------------------


def quarantined(folder: Path) -> dict[str | None, str]:
    rows = [pq.read_table(path).to_pylist() for path in sorted((folder / "quarantine").iterdir())]
    return {row["item_id"]: row["reason"] for part in rows for row in part}


def test_rows_that_can_not_be_read_are_put_aside(run: Settings, tmp_path: Path) -> None:
    ids: list[str] = []

    def break_rows(values: dict[str, Any]) -> None:
        ids.extend(values[ITEM_ID])
        values["image"][0] = values["image"][0][:-1]
        values["image"][1] = None
        values["topic_id"][2] = None
        values[ITEM_ID][3] = None
        values["days"][4] = float("nan")
        values["item_id"][5] = SIZES["item_id"] + 3

    source = changed(run, tmp_path / "items", of_file(2, break_rows))
    results = score_all(scoring_of(run, tmp_path / "out", source))
    expected = {
        ids[0]: "column 'image' is not 16 bytes", ids[1]: "column 'image' is not 16 bytes",
        ids[2]: "column 'topic_id' is null", None: NO_ID, ids[4]: NOT_FINITE, ids[5]: REFUSED,
    }  # fmt: skip
    assert quarantined(tmp_path / "out") == expected
    assert results[2].quarantined == {
        "column 'image' is not 16 bytes": 2, "column 'topic_id' is null": 1, NO_ID: 1, NOT_FINITE: 1, REFUSED: 1,
    }  # fmt: skip
    assert [result.rows for result in results] == [6, 0, 3]
    assert [result.broken for result in results] == [0, 0, 1]
    assert sorted(path.name for path in (tmp_path / "out/quarantine").iterdir()) == [NAMES[2]]
    score_all(scoring_of(run, tmp_path / "whole"))
    whole, found = rows_of(tmp_path / "whole"), rows_of(tmp_path / "out")
    assert len(found) == ITEMS - 6
    for item, row in found.items():
        np.testing.assert_allclose(row["vector"], whole[item]["vector"], atol=1e-6)
    keys = pq.read_table(tmp_path / "out/digests" / NAMES[2])
    assert keys.num_rows == 3


def test_a_broken_row_among_copied_ones(run: Settings, tmp_path: Path) -> None:
    score_all(scoring_of(run, tmp_path / "first"))

    def no_number(values: dict[str, Any]) -> None:
        values["days"][7] = float("nan")

    source = changed(run, tmp_path / "items", of_file(2, no_number))
    earlier = earlier_of(tmp_path / "first")
    results = score_all(scoring_of(run, tmp_path / "second", source, earlier=earlier, copies=True))
    assert (total(results, "scored"), total(results, "copied"), total(results, "rows")) == (1, ITEMS - 1, ITEMS - 1)
    assert (results[2].quarantined, results[2].broken) == ({NOT_FINITE: 1}, 1)
    first, second = rows_of(tmp_path / "first"), rows_of(tmp_path / "second")
    assert {item: first[item] for item in second} == second


def test_a_tower_that_takes_no_row(run: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dssm.scoring.files.REFUSED_AT_MOST", 4)

    def other_ids(values: dict[str, Any]) -> None:
        values["item_id"] = [SIZES["item_id"] + 3] * len(values["item_id"])

    source = changed(run, tmp_path / "items", of_file(2, other_ids))
    with pytest.raises(UserError, match=r"part-00002\.parquet: the tower .*item_tower refuses more than 4 rows \(.+\)"):
        score_all(scoring_of(run, tmp_path / "out", source))
    assert list((tmp_path / "out/data").iterdir()) == [
        path for path in (tmp_path / "out/data").iterdir() if NAMES[2] not in path.name
    ]


def test_a_damaged_file(run: Settings, tmp_path: Path) -> None:
    source = changed(run, tmp_path / "items", lambda name, values: None)
    (source / NAMES[0]).write_bytes((source / NAMES[0]).read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part-00000\.parquet: damaged \(.+\); run build_samples again"):
        score_all(scoring_of(run, tmp_path / "out", source))
    pq.write_table(pq.read_table(source / NAMES[2]).drop_columns(["image"]), source / NAMES[0])
    with pytest.raises(UserError, match=r"part-00000\.parquet: no column 'image'; run build_samples again"):
        score_all(scoring_of(run, tmp_path / "out", source))


def test_slices_of_a_packed_column() -> None:
    columns = {"packed": ColumnSpec(dtype="int32", shape=(2,), encoding="packed"), "x": ColumnSpec(dtype="float32")}
    batch = pa.RecordBatch.from_pydict(
        {"id": ["a", "b", "c", "d"], "packed": [b"1" * 8, b"1" * 7, None, b"1" * 8], "x": [1.0, 2.0, None, None]}
    )
    codes, reasons = unreadable(batch, "id", columns)
    assert [reasons[code] if code >= 0 else "" for code in codes] == [
        "", "column 'packed' is not 8 bytes", "column 'packed' is not 8 bytes", "column 'x' is null",
    ]  # fmt: skip
    codes, _ = unreadable(batch.slice(3), "id", columns)
    assert len(codes) == 1
    assert (unreadable(batch.slice(0, 1), "id", columns)[0] == -1).all()


# Tasks that run twice ---------------------------------------------------------------------------------------


def test_what_other_tries_of_a_task_left_is_removed(run: Settings, tmp_path: Path) -> None:
    """A speculative task that ended late, and one that was killed while it wrote."""
    scoring = scoring_of(run, tmp_path)
    score_file(scoring, NAMES[0])
    storage.write_text(f"{tmp_path}/digests/.{NAMES[0]}.killed.tmp", "half")
    score_all(scoring)
    for part in ("data", "digests"):
        assert sorted(path.name for path in (tmp_path / part).iterdir()) == NAMES
    assert len(rows_of(tmp_path)) == ITEMS


def test_a_full_disk_leaves_no_file(run: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dssm.scoring.parquet.VectorWriter._chunk", full)
    with pytest.raises(OSError, match="No space left"):
        score_file(scoring_of(run, tmp_path), NAMES[0])
    assert list((tmp_path / "data").iterdir()) == []
