"""How many rows of each table find a pretrained vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dssm.manifest import SourceCounts
from tests.samples.feed import TinyFeed

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def test_each_feature_is_counted_by_its_own_column(spark: SparkSession, tmp_path: Path) -> None:
    from dssm.samples.inputs import InputTables
    from dssm.samples.sources import ID
    from dssm.samples.tables import VALID_FROM
    from dssm.samples.vector_joins import count_vectors

    feed = TinyFeed(tmp_path)
    dense: dict[str, Any] = {"kind": "DenseFeat", "pre_embed": "post"}
    feed.config["features"] |= {
        "author_vector": {**dense, "side": "item", "column": "author"},
        "tag_vectors": {**dense, "side": "item", "column": "tags", "reduce_type": "mean", "separator": "|"},
        "friend_vectors": {**dense, "side": "user", "column": "friends", "reduce_type": "sum"},
        "own_vector": {**dense, "side": "user", "column": "client_id"},
    }
    catalogue = spark.createDataFrame(
        [("p1", 5, "a|v1"), ("p2", 6, "v1 | v2"), ("p3", None, "b"), ("p4", 5, None)],
        f"`{ID}` string, author bigint, tags string",
    )
    friends = [("7", 0, ["v1", None, "v2"]), ("7", 9, ["v1"]), ("8", 0, ["x"]), ("9", 0, None)]
    clients = spark.createDataFrame(friends, f"`{ID}` string, `{VALID_FROM}` bigint, friends array<string>")
    of_columns = {"author": "catalogue", "friends": "profiles.clients", "client_id": "user", "clicks": "history"}
    tables = InputTables({"clients": clients}, catalogue, catalogue, of_columns, [])
    vectors = spark.createDataFrame([("p1",), ("p3",), ("p4",), ("5",), ("v1",), ("v2",)], "id string")
    counts = {
        name: SourceCounts(place="", rows_read=rows, used={"read": rows})
        for name, rows in (("catalogue", 4), ("profiles.clients", 4))
    }
    joins = count_vectors(feed.settings(), tables, counts, {"post": vectors})
    # That of the items' own ids is of the history, too; the user's own id is of no table.
    assert [(join.name, join.rows, join.matched) for join in joins] == [
        ("catalogue ⋈ vectors.post", 4, 3),
        ("catalogue.author ⋈ vectors.post", 4, 2),
        ("catalogue.tags ⋈ vectors.post", 4, 2),
        ("profiles.clients.friends ⋈ vectors.post", 4, 2),
    ]
