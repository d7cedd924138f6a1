"""What follows the training: evaluation, the gate and the item table; and Spark itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, FiniteFloat, PositiveInt, field_validator

from dssm.strict import StrictModel


class Evaluate(StrictModel):
    cutoffs: tuple[PositiveInt, ...] = Field((10, 50, 100), min_length=1, description="K of the metrics.")
    users_per_block: int = Field(512, ge=1, description="Users scored against the catalogue at once.")
    itemcf_neighbours: int = Field(200, ge=1, description="Most similar items of each item that ItemCF adds up.")
    itemcf_max_interactions: int = Field(
        20_000_000,
        ge=0,
        description="Above so many interactions ItemCF and EASE, which the driver computes, are left out, and the "
        "output says so.",
    )
    ease_l2: FiniteFloat = Field(500.0, gt=0, description="λ of EASE: what is added to the diagonal of XᵀX.")
    ease_max_items: int = Field(
        20_000,
        ge=0,
        description="Above so many items EASE is left out, and the output says so: the driver inverts a matrix of "
        "8 · items² bytes.",
    )
    recent_days: int = Field(
        2, ge=1, description="Days before the test window whose positives count as recent popularity."
    )
    oracle: str | None = Field(
        None, description="Folder with a generated feed's planted tastes: adds the best reachable row."
    )


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


class Spark(StrictModel):
    master: str | None = Field(
        None, description="Spark master; the environment's MASTER goes first; default local[*], all cores."
    )
    conf: dict[str, str] = Field(default_factory=dict, description="Further Spark settings, for every job.")

    @field_validator("conf", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key, given in value.items():
            if given is None or isinstance(given, (Mapping, list)):
                raise ValueError(
                    f"'{key}' holds {given!r}; expected a text, a number, true or false, "
                    "and Spark's key in one piece, such as spark.sql.ansi.enabled: false"
                )
        if (zone := value.get("spark.sql.session.timeZone")) is not None:
            raise ValueError(
                f"'spark.sql.session.timeZone' holds '{zone}', but the days are cut in the settings' timezone; "
                "remove it, and set timezone instead"
            )
        return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}
