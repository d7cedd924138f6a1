"""What needs no metastore; the rest is in test_score, with a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark")

from pyspark.errors import AnalysisException

from dssm.scoring.metastore import HiveMetastore, is_same_place


class _Failing:
    """A session whose statements all end with an error of a class."""

    def __init__(self, error_class: str) -> None:
        self.error_class = error_class

    def sql(self, statement: str) -> Any:
        raise AnalysisException(error_class=self.error_class, message_parameters={})


@pytest.mark.parametrize(
    ("error_class", "there"),
    [
        ("TABLE_OR_VIEW_NOT_FOUND", False),
        ("SCHEMA_NOT_FOUND", False),
        ("PARTITIONS_NOT_FOUND", False),
        ("INSUFFICIENT_PERMISSIONS", True),
    ],
)
def test_only_what_is_missing_counts_as_missing(monkeypatch: pytest.MonkeyPatch, error_class: str, there: bool) -> None:
    """A metastore that can't be asked may well hold the partition: its version must not be removed."""
    monkeypatch.setattr(AnalysisException, "__init__", lambda self, **given: None)
    monkeypatch.setattr(AnalysisException, "getErrorClass", lambda self: error_class)
    metastore = HiveMetastore(_Failing(error_class), "items", "/items", "item_table")  # type: ignore[arg-type]
    if there:
        with pytest.raises(AnalysisException):
            metastore.location("2024-01-08")
    else:
        assert metastore.location("2024-01-08") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("file:/runs/a/items", "file:///runs/a/items", True),
        ("file:/runs/a/items", "file:///runs//a/items/", True),
        ("file:/runs/a b#1?/items", "file:///runs/a b#1?/items", True),
        ("file:/runs/a/items", "file:///runs/b/items", False),
        ("hdfs://name:8020/runs/a", "hdfs:///runs/a", True),
        ("hdfs://name:8020/runs/a", "hdfs://name/runs/a", True),
        ("hdfs://name:8020/runs/a", "hdfs://other:8020/runs/a", False),
        ("hdfs://name:8020/runs/a", "file:///runs/a", False),
        ("s3a://bucket/runs/a", "s3a://bucket/runs/a", True),
        ("s3a://bucket/runs/a", "s3a://bucket2/runs/a", False),
        ("no folder", "file:///runs/a", False),
    ],
)
def test_a_place_is_known_however_it_is_written(one: str, other: str, same: bool) -> None:
    assert is_same_place(one, other) == is_same_place(other, one) == same


def test_a_link_to_a_place_is_that_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert is_same_place(f"file:{tmp_path}/runs/items", f"file://{tmp_path}/link/items")
