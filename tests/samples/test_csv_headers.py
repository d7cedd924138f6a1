"""The header of a CSV: read without a job of Spark's, where that finds the same columns."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

PLAIN = {
    "plain": b"id,city\n1,a\n",
    "one column": b"id\n1\n",
    "blanks within": b" id,the city ,age\t\n1,2,3\n",
    "Windows": b"id,city\r\n1,a\r\n",
    "old Macs": b"id,city\r1,a\r",
    "mark of the byte order": b"\xef\xbb\xbfid,city\n1,a\n",
    "blank lines before": b"\n  \nid,city\n1,a\n",
    "no rows": b"id,city",
    "other letters": "id,城市\n1,a\n".encode(),
    "dots and ticks": b"a.b,`c`\n1,2\n",
}
SPARKS_OWN = {
    "quotes": b'id,"city"\n1,a\n',
    "a comma in quotes": b'id,"city, or town"\n1,a\n',
    "no name": b"id,,city\n1,2,3\n",
    "twice": b"id,city,id\n1,a,2\n",
    "twice but for case": b"id,city,ID\n1,a,2\n",
}


def read(spark: SparkSession, file: Path) -> tuple[list[str], bool]:
    """Returns the columns, and whether Spark was asked for them."""
    from dssm.samples import sources

    with mock.patch.object(sources, "plain_header", side_effect=sources.plain_header) as found:
        columns = sources._read_csv(spark, "sources.feed", [str(file)]).columns
    assert columns.pop() == sources.CORRUPT
    return columns, sources.plain_header(*found.call_args.args) is None


def by_spark(spark: SparkSession, file: Path) -> list[str]:
    return spark.read.options(header=True, quote='"', escape='"').csv(str(file)).columns


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_a_plain_header_is_what_spark_finds(spark: SparkSession, tmp_path: Path, content: bytes) -> None:
    for file, data in ((tmp_path / "a.csv", content), (tmp_path / "a.csv.gz", gzip.compress(content))):
        file.write_bytes(data)
        assert read(spark, file) == (by_spark(spark, file), False)


@pytest.mark.parametrize("content", SPARKS_OWN.values(), ids=SPARKS_OWN)
def test_any_other_header_is_read_by_spark(spark: SparkSession, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    assert read(spark, file) == (by_spark(spark, file), True)


def test_a_folder_is_read_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.csv" / "part-0.csv").write_bytes(PLAIN["plain"])
    assert read(spark, tmp_path / "a.csv") == (["id", "city"], True)


def test_empty_files_before_the_first_line(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("a.csv", "a.csv.gz"):
        (tmp_path / name).touch()
    (tmp_path / "b.csv").write_bytes(PLAIN["plain"])
    assert read(spark, tmp_path / "*.csv*") == (["id", "city"], False)


def test_spark_says_which_files_are_hidden(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "_a.csv").write_bytes(b"hidden\n")
    (tmp_path / "b.csv").write_bytes(PLAIN["plain"])
    assert read(spark, tmp_path / "*.csv") == (["id", "city"], True)


def test_spark_reads_what_this_process_can_not(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.spark import first_line

    (tmp_path / "a.csv.gz").write_bytes(PLAIN["plain"])
    assert first_line(spark, str(tmp_path / "a.csv.gz")) is None
