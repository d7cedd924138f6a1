"""What needs no metastore; the rest is in test_score, with a real one."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pyspark")

from pyspark.errors import AnalysisException

from dssm.scoring.metastore import HiveMetastore


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
