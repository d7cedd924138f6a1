"""The published tables: where they lie, and what must hold before they move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from dssm.strict import StrictModel


class Gate(StrictModel):
    """What `evaluate` must have found before the table moves; exit code 3 otherwise."""

    metric: str = Field("recall@50", description="A metric of evaluation.json, seen items kept.")
    better_than: Literal["popularity", "popularity_recent", "itemcf", "ease", "ease_recent", "none"] = "popularity"


class ItemTable(StrictModel):
    name: str | None = Field(
        None,
        pattern=r"^([A-Za-z_]\w*\.)?[A-Za-z_]\w*$",
        description="Hive table, as [database.]table; default: the pipeline's name and _items.",
    )
    location: str = Field("{root}/{name}/item_table", description="Folder of the table's immutable versions.")
    metastore: str | None = Field(
        "{root}/metastore_db", description="Folder of the embedded Derby metastore; null: the cluster's own Hive."
    )
    gate: Gate = Gate()
    norm_tolerance: FiniteFloat = Field(1e-3, gt=0, description="How far a vector's norm may be from 1.")
