"""What is shown of a run, and where it is logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.strict import StrictModel


class Report(StrictModel):
    """report.html, one file a run."""

    category: str | None = Field(
        None,
        description="Item feature that colours the map, and stands beside an item's name; default: the items' first "
        "SparseFeat that is not their id.",
    )
    map_items: int = Field(
        2000,
        ge=0,
        le=10_000,
        description="Items on the map of vectors, at most; 0: no map. So many take some 3 s once, 0.25 MB.",
    )
    hub_items: int = Field(
        10_000,
        ge=0,
        le=50_000,
        description="Items whose nearest neighbours are counted, each among all of these, at most; 0: none.",
    )


class Tracking(StrictModel):
    """Where parameters, metrics and the report of a run are logged. `tracking: mlflow` is short for its kind."""

    kind: Literal["none", "mlflow"] = Field("none", description="mlflow needs the extra of that name.")
    uri: str | None = Field(
        None, description="MLflow's tracking URI: a server's, or a local folder; default: mlruns in `root`."
    )
    experiment: str | None = Field(None, min_length=1, description="Default: the pipeline's name.")

    @model_validator(mode="before")
    @classmethod
    def _of_kind(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @field_validator("uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).password:
            raise ValueError(
                "a password stands in the address; remove it, and set the environment's MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return value


def category_feature(
    report: Report, features: Mapping[str, AnyFeature], item_key: str
) -> SparseFeat | VarLenSparseFeat | None:
    """Returns the feature whose words tell the items' categories; None where the items have none.

    Args:
      features: of both towers.
      item_key: the catalogue's key: a feature that reads it is no category.
    Raises: UserError where `report.category` names no such feature.
    """
    known = {
        f.name: f
        for f in features.values()
        if f.side == "item" and isinstance(f, (SparseFeat, VarLenSparseFeat)) and not isinstance(f, TextFeat)
    }
    if report.category is None:
        ids = (f for f in known.values() if isinstance(f, SparseFeat) and f.source_column != item_key)
        return next(ids, None)
    if report.category not in known:
        raise UserError(
            f"report.category: no item feature with ids is named '{report.category}'"
            + did_you_mean(report.category, known)
        )
    return known[report.category]
