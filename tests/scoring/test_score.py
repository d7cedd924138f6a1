"""score_items, score_users and rollback on Spark with a real Hive metastore, and a tiny model."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dssm import published, storage
from dssm.errors import GateError, UserError
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths
from dssm.published import Published, VectorType
from dssm.scoring.gates import DRIFT
from dssm.sections import Gate, ItemTable
from tests.datasets import ITEMS
from tests.scoring.runs import USERS, settings_at, write_run
from tests.scoring.tables import (
    DATE,
    VECTORS,
    folders,
    judged,
    maker,
    manifest_of,
    of_vectors,
    reading,
    table_at,
    unit_vectors,
    write_rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def described(spark: SparkSession, table: str, partition: str = "") -> dict[str, str]:
    rows = spark.sql(f"DESCRIBE FORMATTED {table} {partition}").collect()
    # The partition's own lines come first, the table's behind them.
    return {row["col_name"].strip(": "): row["data_type"] for row in reversed(rows)}


def test_items_and_users_are_published(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dssm.scoring.items import score_items
    from dssm.scoring.users import score_users

    settings = settings_at(tmp_path, "both")
    model = write_run(settings)
    made = {"items": score_items(spark, settings)}
    with pytest.raises(UserError, match="no table of users was published from this run"):
        published.run_table(settings.run_folder, "users")
    made["users"] = score_users(spark, settings)
    for part, rows in (("items", ITEMS), ("users", USERS)):
        location = published.run_table(settings.run_folder, part)
        assert published.current(location, DATE) == made[part]
        manifest = made[part].manifest
        assert (manifest.rows, manifest.scored, manifest.model_version) == (rows, rows, model)
        assert manifest.metrics == {"recall@50": 0.4}
        ids, vectors = published.load(made[part])
        found = spark.table(f"both_{part}").filter(f"dt = '{DATE}'").toPandas().set_index(manifest.id_column)
        assert sorted(found.index) == sorted(ids.to_pylist())
        np.testing.assert_array_equal(np.stack(found.loc[ids.to_pylist(), "vector"].to_numpy()), vectors)
        assert set(found["model_version"]) == {model}
    manifest = made["items"].manifest
    table = described(spark, "both_items")
    assert table["Comment"] == (
        f"item vectors, float32, 5 wide. Last published: dt={DATE}, version {manifest.version}, model {model}, "
        f"settings {manifest.settings_digest}, samples' manifest {manifest.samples_digest}, model's manifest "
        f"{manifest.model_digest}"
    )
    users = described(spark, "both_users")["Comment"]
    assert users.startswith("user vectors of users with a positive in the test window, float32, 5 wide. Last published")
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("; users with a positive in the test window") == 1
    partition = described(spark, "both_items", f"PARTITION (dt='{DATE}')")
    assert partition["Location"] == f"file:{made['items'].data}"
    assert f"dssm.version={manifest.version}" in partition["Storage Properties"]
    assert f"dssm.settings={manifest.settings_digest}" in partition["Storage Properties"]

    storage.remove(published.run_table(settings.run_folder, "items"))  # the table's dtype is Hive's to know
    with pytest.raises(UserError) as caught:
        score_items(spark, settings_at(tmp_path, "both", dtype="int8"))
    assert str(caught.value) == (
        "item_table.dtype: both_items holds vector as ARRAY<FLOAT>, int8 vectors are ARRAY<TINYINT>; expected one "
        "dtype for all dates of a table: set it back, or name another table and location"
    )


def test_another_pipelines_table_is_left_alone(spark: SparkSession, tmp_path: Path) -> None:
    """Under another root, or with a name that differs in - and _ alone, a table has the same name in the metastore."""
    from dssm.scoring.items import score_items
    from dssm.scoring.publish import roll_back
    from dssm.scoring.score import hive_of, name_of, table_of

    ours, other = (settings_at(tmp_path / root, "shared") for root in ("ours", "other"))
    spelt = [ours.model_copy(update={"name": name, "item_table": ItemTable()}) for name in ("a-b", "a_b")]
    assert {name_of(settings, "items") for settings in spelt} == {"a_b_items"}
    for settings in (ours, other):
        write_run(settings)
    made = score_items(spark, ours)
    refusal = (
        f"item_table.name: shared_items is a table of file:{ours.table_location}, and this pipeline publishes to "
        f"file://{other.table_location}; expected a table of its own: set another name, or the root or location that "
        "the table has; or drop the table, whose files stay"
    )
    with pytest.raises(UserError) as caught:
        score_items(spark, other)
    assert str(caught.value) == refusal
    assert folders(Path(other.table_location)) == []
    by_path = other.model_copy(update={"item_table": other.item_table.model_copy(update={"kind": "path"})})
    others = score_items(spark, by_path)
    with pytest.raises(UserError) as caught:
        roll_back(table_of(other, "items", hive_of(spark, other, "items")), others.manifest.version)
    assert str(caught.value) == refusal
    assert described(spark, "shared_items", f"PARTITION (dt='{DATE}')")["Location"] == f"file:{made.data}"
    assert score_items(spark, ours) == made


def test_a_worse_model_a_forced_one_and_the_way_back(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.scoring.items import score_items
    from dssm.scoring.publish import roll_back
    from dssm.scoring.score import hive_of, table_of

    settings = settings_at(tmp_path, "worse", incremental=True)
    write_run(settings)
    first = score_items(spark, settings)
    (tmp_path / "tiny").rename(tmp_path / "before")
    (tmp_path / "before/item_table").rename(tmp_path / "item_table")
    write_run(settings, "later", recall=0.35)
    (tmp_path / "item_table").rename(tmp_path / "tiny/item_table")
    with pytest.raises(
        GateError, match=r"gate: the model's recall@50 is 0\.3500, version \w+ of 2024-01-08 had 0\.4000"
    ):
        score_items(spark, settings)
    assert published.current(settings.table_location, DATE) == first
    second = score_items(spark, settings, force=True)
    assert second.manifest.overridden[0].startswith("the model's recall@50 is 0.3500")
    assert (second.manifest.scored, second.manifest.copied) == (0, ITEMS)  # the same rows and model: nothing changed
    assert second.manifest.drift == pytest.approx(1)

    table = table_of(settings, "items", hive_of(spark, settings, "items"))
    statements: list[str] = []
    sql = spark.sql

    def told(statement: str) -> Any:
        statements.append(statement)
        return sql(statement)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(spark), "sql", lambda self, statement: told(statement))
        roll_back(table, first.manifest.version)
    assert sum("LOCATION" in statement for statement in statements) == 1  # the move is one metastore call
    assert table.metastore is not None
    assert table.metastore.location(DATE) == f"file:{first.data}"
    assert published.current(settings.table_location, DATE) == first
    assert spark.table("worse_items").filter(f"dt = '{DATE}'").count() == ITEMS


def version_at(folder: Path, dtype: VectorType = "float32", seed: int = 0, **given: Any) -> Published:
    vectors = unit_vectors(5, 3, seed)
    return Published(str(folder), write_rows(str(folder), vectors, dtype=dtype, **given))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_numbers_in_hive(spark: SparkSession, tmp_path: Path, dtype: VectorType) -> None:
    from dssm.scoring.metastore import HiveMetastore, table_columns

    likes = unit_vectors(5, 2, 7)
    metastore = HiveMetastore(spark, f"small_{dtype}", str(tmp_path), "item_table")
    assert metastore.location(DATE) is None
    metastore.prepare(table_columns("item", ["vector"], dtype), dtype)
    assert metastore.location(DATE) is None
    # A later model has an objective more.
    metastore.prepare(table_columns("item", ["vector", "vector_like"], dtype), dtype)
    made = version_at(tmp_path / "v1", dtype, objectives={"like": likes})
    metastore.move(DATE, made.data)
    assert metastore.rows(DATE) == 5
    rows = spark.table(f"small_{dtype}").orderBy("item_id").collect()
    for name, expected in (("vector", unit_vectors(5, 3)), ("vector_like", likes)):
        if dtype == "float16":
            found = np.stack([np.frombuffer(row[name], "<f2") for row in rows])
        else:
            found = np.stack([np.multiply(row[name], row[name.replace("vector", "scale")]) for row in rows])
        np.testing.assert_allclose(found, expected, atol=0.005)


def test_a_table_without_partitions_takes_other_types(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.scoring.metastore import HiveMetastore, table_columns

    metastore = HiveMetastore(spark, "retyped", str(tmp_path), "item_table")
    floats, bytes_ = (table_columns("item", ["vector"], dtype) for dtype in ("float32", "int8"))
    metastore.prepare(floats, "float32")
    metastore.check(bytes_, "int8")
    assert described(spark, "retyped")["vector"] == "array<float>"  # a look changes nothing
    metastore.prepare(bytes_, "int8")
    assert described(spark, "retyped")["vector"] == "array<tinyint>"
    metastore.move(DATE, version_at(tmp_path / "v1", "int8").data)
    for refuses in (metastore.check, metastore.prepare):
        with pytest.raises(UserError, match="retyped holds vector as ARRAY<TINYINT>, float32 vectors are ARRAY<FLOAT>"):
            refuses(floats, "float32")


def test_a_partition_is_moved_back(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.scoring.metastore import HiveMetastore, table_columns

    root = tmp_path / "a b"
    metastore = HiveMetastore(spark, "moved_back", str(root), "item_table")
    metastore.prepare(table_columns("item", ["vector"], "float32"), "float32")
    first, second = (version_at(root / name) for name in ("v1", "v2"))
    metastore.move(DATE, first.data)
    metastore.restore(DATE, None)
    assert metastore.location(DATE) is None
    assert (metastore.rows(DATE), len(list(Path(first.data).iterdir()))) == (0, 2)
    metastore.move(DATE, first.data)
    before = metastore.location(DATE)
    metastore.move(DATE, second.data)
    metastore.restore(DATE, before)
    assert metastore.location(DATE) == before == f"file:{first.data}"
    assert metastore.rows(DATE) == 5


def seen_by_spark(spark: SparkSession, table: str) -> str:
    rows = spark.table(table).filter(f"dt = '{DATE}'").select("item_id", "vector").collect()
    return of_vectors(np.array([row["vector"] for row in sorted(rows)], np.float32))


@pytest.mark.slow
def test_a_reader_of_hive_sees_whole_versions_during_fifty_publishes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each publish removes the versions that stopped being current longer ago than readers are given."""
    from dssm.scoring.metastore import HiveMetastore
    from dssm.scoring.publish import publish

    grace, count = 3.0, 50
    monkeypatch.setattr("dssm.scoring.retention.GRACE", dt.timedelta(seconds=grace))
    metastore = HiveMetastore(spark, "moving", str(tmp_path / "table"), "item_table")
    table = table_at(tmp_path, metastore=metastore, keep_versions=1, keep_days=0)
    names = [list(VECTORS)[number % len(VECTORS)] for number in range(count)]

    def publish_next(number: int) -> None:
        version = f"{names[number]}-{number}"
        publish(table, version, judged(), ["vector"], maker(VECTORS[names[number]], version))

    publish_next(0)
    with reading(lambda: seen_by_spark(spark, "moving"), grace) as found:
        for number in range(1, count):
            publish_next(number)
    assert set(found) == set(VECTORS)
    assert sum(before != after for before, after in itertools.pairwise(found)) > 10
    left = [name for name in folders(tmp_path / f"table/dt={DATE}") if name.startswith("version=")]
    assert f"version={names[-1]}-{count - 1}" in left
    assert len(left) < 25


@pytest.mark.slow
@pytest.mark.usefixtures("no_grace")
def test_hives_metastore_may_be_lost_at_any_call(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers see the old rows or the new; a rerun ends with the new. Lost after a call is lost before the next one."""
    from pyspark.errors import AnalysisException

    from dssm.scoring.metastore import HiveMetastore
    from dssm.scoring.publish import publish

    table = table_at(
        tmp_path, metastore=HiveMetastore(spark, "lost", str(tmp_path / "table"), "item_table"), keep_versions=1,
        keep_days=0,
    )  # fmt: skip
    asked: list[str] = []

    def publish_next(number: int, lost_at: int | None = None) -> None:
        def call(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
            def answered(session: Any, *given: Any) -> Any:
                if len(asked) == lost_at:
                    raise AnalysisException("MetaException: could not connect to meta store: connection refused")
                asked.append(name)
                return whole(session, *given)

            return answered

        asked.clear()
        name = list(VECTORS)[number % len(VECTORS)]
        make = maker(VECTORS[name], f"{name}-{number}")
        with monkeypatch.context() as patched:
            for kind in ("sql", "table"):
                patched.setattr(type(spark), kind, call(kind, getattr(type(spark), kind)))
            publish(table, f"{name}-{number}", judged(), ["vector"], make)

    publish_next(0)
    publish_next(1)
    calls, found = len(asked), []
    assert calls >= 6
    for number in range(2, 2 + calls):
        with pytest.raises(AnalysisException, match="connection refused"):
            publish_next(number, lost_at=number - 2)
        names = [list(VECTORS)[n % len(VECTORS)] for n in (number - 1, number)]
        found.append(names.index(seen_by_spark(spark, "lost")))
        publish_next(number)
        assert seen_by_spark(spark, "lost") == names[1]
    assert found == sorted(found)
    assert 0 < sum(found) < calls


def test_items_that_build_samples_put_aside_count_at_the_gate(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dssm.scoring.items import score_items

    settings = settings_at(tmp_path, "aside", kind="path", gate=Gate(better_than="none"))
    write_run(settings)
    manifest = Path(RunPaths(settings.run_folder).part("items"), MANIFEST)
    content = json.loads(manifest.read_text())
    content["sources"]["catalogue"] = {
        "place": "items.csv", "rows_read": ITEMS + 1, "used": {"read": ITEMS}, "quarantined": {"no id": 1}
    }  # fmt: skip
    manifest.write_text(json.dumps(content))
    with pytest.raises(
        GateError, match=rf"build_samples could not read 1 of {ITEMS + 1} rows of the catalogue \(1 no id\), item_table"
    ):
        score_items(spark, settings)
    made = score_items(
        spark, settings_at(tmp_path, "aside", kind="path", gate=Gate(better_than="none"), max_quarantine_share=0.1)
    )
    assert made.manifest.not_encoded == {"no id": 1}
    assert "1 rows of the catalogue not encoded (1 no id)" in " ".join(capsys.readouterr().out.split())


def test_gates_that_saw_nothing_are_told(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dssm.scoring.items import score_items

    def told() -> str:
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    settings = settings_at(tmp_path, "blind", kind="path", min_drift_cosine=0.5, gate=Gate(better_than="none"))
    write_run(settings)
    first = score_items(spark, settings)
    found = told()
    assert "has not looked" not in found
    published_as = f"published version {first.manifest.version} of {first.manifest.table}, {first.manifest.date}"
    assert f"{published_as}: 4 gates passed, 2 had nothing to compare with" in found
    (tmp_path / "tiny").rename(tmp_path / "before")
    (tmp_path / "before/item_table").rename(tmp_path / "item_table")
    write_run(settings, "later")
    (tmp_path / "item_table").rename(tmp_path / "tiny/item_table")
    Path(RunPaths(settings.run_folder).evaluation).unlink()
    Path(first.data, first.manifest.files[0].name).write_bytes(b"PAR1")
    second = score_items(spark, settings)
    found = told()
    assert "gate 'no worse than the last version' has not looked: not measured:" in found
    assert "gate 'drift' has not looked: not comparable:" in found
    reason = f"{first.data}/{first.manifest.files[0].name} is missing or damaged"
    assert second.manifest.incomparable == reason
    assert [gate.reason for gate in second.manifest.gates if gate.gate == DRIFT] == [f"not comparable: {reason}"]


def test_why_vectors_can_not_be_compared() -> None:
    from dssm.scoring.score import _incomparable

    last = Published("folder", manifest_of(version="old", date="2024-01-07", vector_dim=2))
    assert _incomparable(last, 3) == "the vectors of dt=2024-01-07/version=old are 2 wide, these 3"
    assert _incomparable(last, 2) == "no row is in the files of dt=2024-01-07/version=old"


def test_a_damaged_sample_file_ends_the_job_with_a_message(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.scoring.items import score_items

    settings = settings_at(tmp_path, "damaged", kind="path")
    write_run(settings)
    broken = Path(RunPaths(settings.run_folder).part("items")) / "part-00002.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"part-00002\.parquet: damaged .*; run build_samples again"):
        score_items(spark, settings)
    assert folders(tmp_path / f"tiny/item_table/dt={DATE}") == []
