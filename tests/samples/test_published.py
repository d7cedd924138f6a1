"""A model's published vectors: which day's are read, and what is said of those that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.errors import UserError
from dssm.manifest import JoinCounts
from dssm.published import VectorType
from dssm.scoring.publish import publish as publish_version
from dssm.scoring.publish import roll_back
from tests.samples.feed import TinyFeed
from tests.scoring.tables import maker, table_at, unit_vectors, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

ITEMS = "samples.negatives.near.items"
FLOATS = pa.list_(pa.float32())


def publish(folder: Path, **columns: Any) -> None:
    usual = {"item_id": ["p1", "p2"], "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], FLOATS)}
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns or usual), folder / "a.parquet")


def read(
    spark: SparkSession, folder: Path, place: str, name: str = ITEMS, width: int | None = None, key: str = "item_id"
) -> tuple[dict[str, list[float]], int]:
    """Reads the vectors as on the 10th of January 2024."""
    from dssm.samples.published import read_published

    found = read_published(spark, TinyFeed(folder).settings(), name, place, key, "vector", width)
    rows = {row["id"]: row["values"] for row in found.frame.collect()}
    assert found.rows == len(rows)
    return rows, found.width


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*args, **options)
    return str(caught.value)


# Which day's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{date}", "{date:%Y%m%d}"])
def test_the_newest_day_before_the_date(spark: SparkSession, tmp_path: Path, form: str) -> None:
    """Neither those of the run's own date nor later ones, which know the test window."""
    for day in (3, 8, 10, 11):
        name = f"2024-01-{day:02}" if form == "{date}" else f"202401{day:02}"
        publish(tmp_path / name, item_id=[f"of {day}"], vector=pa.array([[float(day)]], FLOATS))
    assert read(spark, tmp_path, f"{{data}}/{form}") == ({"of 8": [8.0]}, 1)


def test_how_far_back_is_looked(spark: SparkSession, tmp_path: Path) -> None:
    publish(tmp_path / "2023-11-10")  # 61 days before
    assert refused(spark, tmp_path, "{data}/{date}") == (
        f"{ITEMS}: nothing found at {tmp_path}/2023-11-11 … {tmp_path}/2024-01-09 (60 days); expected a folder of "
        "Parquet files of a day before 2024-01-10; publish one first"
    )
    publish(tmp_path / "2023-11-11")
    assert read(spark, tmp_path, "{data}/{date}") == ({"p1": [1, 2], "p2": [3, 4]}, 2)


def test_a_folder_without_a_date(spark: SparkSession, tmp_path: Path) -> None:
    publish(tmp_path / "vectors")
    assert read(spark, tmp_path, "{data}/vectors", width=2) == ({"p1": [1, 2], "p2": [3, 4]}, 2)
    assert refused(spark, tmp_path, "{data}/none") == (
        f"{ITEMS}: nothing found at {tmp_path}/none; expected a folder of Parquet files"
    )


# Published tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_numbers_of_all_dtypes(spark: SparkSession, tmp_path: Path, dtype: VectorType) -> None:
    vectors = unit_vectors(3, 4)
    write_rows(str(tmp_path / "v"), vectors, dtype=dtype)
    found, width = read(spark, tmp_path, "{data}/v/data")
    assert width == 4
    for number in range(3):
        assert found[f"i{number}"] == pytest.approx(vectors[number].tolist(), abs=0.005)


def test_the_current_version_of_a_table(spark: SparkSession, tmp_path: Path) -> None:
    """As on the 10th: of a date's folder, and of the table's, where the newest date before it counts."""
    wanted = {}
    for number, day in enumerate(("2024-01-05", "2024-01-08", "2024-01-10")):
        table = table_at(tmp_path, day, kind="path")
        for version in ("v1", "v2"):
            vectors = unit_vectors(3, 4, seed=2 * number + (version == "v2"))
            publish_version(table, version, lambda last: [], ["vector"], maker(vectors, version, date=day))
        wanted[day] = {
            f"i{row}": pytest.approx(unit_vectors(3, 4, seed=2 * number + 1)[row].tolist()) for row in range(3)
        }
    assert read(spark, tmp_path, "{data}/table") == (wanted["2024-01-08"], 4)
    assert read(spark, tmp_path, "{data}/table/dt={date}") == (wanted["2024-01-08"], 4)
    assert read(spark, tmp_path, "{data}/table/dt=2024-01-05") == (wanted["2024-01-05"], 4)
    roll_back(table_at(tmp_path, "2024-01-08", kind="path"), "v1")
    assert read(spark, tmp_path, "{data}/table")[0] != wanted["2024-01-08"]


def test_a_table_that_begins_later(spark: SparkSession, tmp_path: Path) -> None:
    table = table_at(tmp_path, "2024-01-10", kind="path")
    publish_version(table, "v1", lambda last: [], ["vector"], maker(unit_vectors(3), "v1"))
    assert refused(spark, tmp_path, "{data}/table") == (
        f"{ITEMS}: {tmp_path}/table has no version of a date before 2024-01-10; publish one first"
    )
    (tmp_path / "table/dt=2024-01-10/_current").unlink()  # as where a publish died before it
    assert refused(spark, tmp_path, "{data}/table/dt=2024-01-10") == (
        f"{ITEMS}: {tmp_path}/table/dt=2024-01-10 holds versions of which none is current; publish one again, or roll "
        "back"
    )


def test_a_file_system_that_spark_alone_knows() -> None:
    from dssm.samples.published import current_data

    assert current_data(ITEMS, "s3a-like://bucket/vectors", "2024-01-10") == "s3a-like://bucket/vectors"


# What does not fit -------------------------------------------------------------------------------------------

VECTORS = pa.array([[1.0, 2.0], [3.0, 4.0]], FLOATS)
KIND = "samples.negatives.near"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"item_id": ["a", "b"], "vector": ["1,2", "3,4"]},
            f"{KIND}.values: 'vector' holds string; expected lists of numbers",
        ),
        (
            {"item_id": ["a", "b"], "vector": [["1", "2"], ["3", "4"]]},
            f"{KIND}.values: 'vector' holds array<string>; expected lists of numbers",
        ),
        (
            {"item_id": ["a", "b"], "vector": [1.0, 2.0]},
            f"{KIND}.values: 'vector' holds double; expected lists of numbers",
        ),
        (
            {"item_id": [1.0, 2.0], "vector": VECTORS},
            f"{KIND}.id: 'item_id' holds double; expected text or integers "
            "(pandas writes integers with nulls as floats)",
        ),
        (
            {"item": ["a", "b"], "vector": VECTORS},
            f"{KIND}.id: no column is named 'item_id' (did you mean 'item'?)",
        ),
        (
            {"item_id": [b"a", b"\xff"], "vector": VECTORS},
            f"{ITEMS}: 1 ids in 'item_id' of FOLDER are not UTF-8 text; expected text or integers",
        ),
        (
            {"item_id": ["a", "b"], "vector": pa.array([[1.0], [1.0, float("nan")]], FLOATS)},
            f"{ITEMS}: FOLDER holds 2 rows of 2 ids, 1 to 2 numbers each, 1 of them null or not finite; "
            "expected one vector an id, of one width",
        ),
    ],
    ids=["text", "lists of text", "a number", "ids as floats", "no column", "no UTF-8", "not one width"],
)
def test_columns_that_do_not_fit(spark: SparkSession, tmp_path: Path, columns: dict[str, Any], expected: str) -> None:
    publish(tmp_path / "vectors", **columns)
    assert refused(spark, tmp_path, "{data}/vectors") == expected.replace("FOLDER", f"{tmp_path}/vectors")


def test_users_of_another_width(spark: SparkSession, tmp_path: Path) -> None:
    publish(tmp_path / "users", who=["7", "8"], vector=VECTORS)
    users = f"{KIND}.users"
    assert read(spark, tmp_path, "{data}/users", users, 2, "who") == ({"7": [1, 2], "8": [3, 4]}, 2)
    assert refused(spark, tmp_path, "{data}/users", users, 3, "who") == (
        f"{users}: the vectors of {tmp_path}/users are 2 wide, the items' 3; expected those of one model"
    )
    assert refused(spark, tmp_path, "{data}/users", users, 2, "wo") == (
        f"{KIND}.user_id: no column is named 'wo' (did you mean 'who'?)"
    )


# The catalogue -----------------------------------------------------------------------------------------------


def counted(spark: SparkSession, folder: Path, ids: list[str]) -> JoinCounts:
    from dssm.samples.published import count_published
    from dssm.samples.sources import ID

    def frame(values: list[str]) -> DataFrame:
        return spark.createDataFrame([(value,) for value in values], f"`{ID}` string")

    feed = TinyFeed(folder)
    feed.config["samples"] |= {"negatives": {"near": {"kind": "hard", "items": "{data}/vectors"}}}
    feed.config["train"] = {"loss": "weighted_bce"}
    return count_published(feed.settings(), "near", frame(["p1", "p2", "p3"]), 3, frame(ids))


def test_ids_of_the_catalogue(spark: SparkSession, tmp_path: Path) -> None:
    join = counted(spark, tmp_path, ["p3", "p1", "gone"])
    assert join == JoinCounts(name="catalogue ⋈ samples.negatives.near", rows=3, matched=2)


def test_users_of_the_training_window(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.samples.published import ModelVectors, count_published_users
    from dssm.samples.sources import ID

    def count(trained: str, known: str) -> list[JoinCounts]:
        users = spark.createDataFrame([(value,) for value in trained.split()], f"`{ID}` string")
        ids = spark.createDataFrame([(value,) for value in known.split()], f"`{ID}` string")
        return count_published_users(feed.settings(), {"near": ModelVectors(ids, ids, 2, 2)}, users)

    feed = TinyFeed(tmp_path)
    near = {"kind": "hard", "items": "{data}/items", "users": "{data}/users", "user_id": "who"}
    feed.config["samples"] |= {"negatives": {"near": near}}
    feed.config["train"] = {"loss": "weighted_bce"}
    assert count("7 8 9", "8 gone") == [JoinCounts(name="users ⋈ samples.negatives.near.users", rows=3, matched=1)]
    with pytest.raises(UserError) as caught:
        count("7 8", "u-7 u-8")
    assert str(caught.value) == (
        f"{KIND}.users: none of the ids in 'who' of {{data}}/users is one of the 2 users with training rows; expected "
        f"the ids that the sources' user columns hold: check {KIND}.user_id, or remove users"
    )


def test_ids_that_no_item_has(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        counted(spark, tmp_path, ["1", "2"])
    assert str(caught.value) == (
        f"{ITEMS}: none of the ids in 'item_id' of {{data}}/vectors is one of the catalogue's 3; "
        f"expected the ids of catalogue.key: check {KIND}.id"
    )
