"""What is shown of a run, and where it is logged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dssm.strict import StrictModel


class Report(StrictModel):
    """report.html, one file a run."""


class Tracking(StrictModel):
    """Where parameters, metrics and the report of a run are logged."""

    kind: Literal["none", "mlflow"] = Field("none", description="mlflow needs the extra of that name.")
