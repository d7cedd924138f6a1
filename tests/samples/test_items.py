"""The encoded catalogue, and what the training window says of its items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dssm.manifest import ITEM_ID, ITEM_INDEX, ITEM_POSITIVES, ITEM_PROBABILITY, ITEM_ROWS
from dssm.samples.items import encoded_items, with_item_index
from dssm.samples.log import ITEM_COUNTS
from tests.samples.feed import TinyFeed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def raw_catalogue(spark: SparkSession, ids: list[str]) -> DataFrame:
    rows = [(item, -(2**62), item, "1", 1.0) for item in ids]
    types = "row__id string, row__upload_time bigint, post_id string, topic_id string, length double"
    return with_item_index(spark.createDataFrame(rows, types))


@pytest.mark.spark
def test_an_items_probability_is_its_share_of_the_rows_that_are_candidates(
    spark: SparkSession, tiny_feed: TinyFeed, tmp_path: Any
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dssm.samples.lookups import Lookups

    counts = spark.createDataFrame([(1, 5, 4, 3, 3), (0, 2, 2, 1, 3)], [ITEM_INDEX, *ITEM_COUNTS])
    pq.write_table(pa.table({"token": ["a", "b", "c"]}), tmp_path / "ids.parquet")
    tiny_feed.config["features"].pop("post_embed")
    lookups = Lookups(vocabularies={name: str(tmp_path / "ids.parquet") for name in ("post_id", "topic_id")})
    items = encoded_items(raw_catalogue(spark, ["c", "b", "a"]), counts, 4, lookups, tiny_feed.settings()).collect()
    names = (ITEM_INDEX, ITEM_PROBABILITY, ITEM_ROWS, ITEM_POSITIVES)
    found = {row[ITEM_ID]: tuple(row[name] for name in names) for row in items}
    assert found == {"a": (0, 0.25, 2, 3), "b": (1, 0.75, 4, 3), "c": (2, 0.0, 0, 0)}
