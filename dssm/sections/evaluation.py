"""The evaluation over the whole catalogue."""

from __future__ import annotations

from pydantic import Field, FiniteFloat, PositiveInt

from dssm.strict import StrictModel


class Evaluate(StrictModel):
    cutoffs: tuple[PositiveInt, ...] = Field((10, 50, 100), min_length=1, description="K of the metrics.")
    users_per_block: int = Field(512, ge=1, description="Users scored against the catalogue at once.")
    bootstrap: int = Field(
        500,
        ge=0,
        le=10_000,
        description="Replicates of the users, behind the 95 % intervals and the significance that compare prints; "
        "0: none of them.",
    )
    examples: int = Field(
        6, ge=0, le=100, description="Users with an event before the window, of every activity, in examples.json."
    )
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
