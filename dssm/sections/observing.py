"""What is kept of the jobs themselves: logs and metrics."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, FiniteFloat, model_validator

from dssm.sections.indexing import VARIABLE, no_secret
from dssm.strict import StrictModel


class Observe(StrictModel):
    """Each job leaves a log, JOB.jsonl, Spark's, JOB.spark.log, and its metrics, JOB.prom, in `jobs/` of the run."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level of the log; debug: also the begin of each step."
    )
    spark_level: Literal["info", "warn", "error", "none"] = Field(
        "info", description="Least level of Spark's log, which none leaves out; on the terminal only errors are shown."
    )
    metrics_file: str | None = Field(
        None,
        description="A further file for the metrics, such as /var/lib/node_exporter/{name}_{job}.prom: the folder that "
        "node_exporter's textfile collector reads. May hold {root}, {name} and {job}.",
    )
    push_gateway: str | None = Field(
        None, description="Address of a Prometheus Pushgateway, without a password: http://host:9091."
    )
    push_user: str | None = Field(None, min_length=1, description="User of the Pushgateway, with basic authentication.")
    push_password_env: str | None = Field(
        None, pattern=VARIABLE, description="Environment variable with that user's password."
    )
    push_password_file: str | None = Field(None, description="File with that password, instead.")
    push_timeout_s: FiniteFloat = Field(10.0, gt=0, description="A push that takes longer is given up.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Observe:
        if self.push_gateway is not None:
            place = urlsplit(self.push_gateway)
            if place.scheme not in ("http", "https") or not place.netloc:
                raise ValueError(f"push_gateway: found '{self.push_gateway}'; expected http://host:port")
            no_secret(self.push_gateway, "push_password_env")
        places = [place for place in (self.push_password_env, self.push_password_file) if place is not None]
        if len(places) != (self.push_user is not None):
            raise ValueError("push_user goes with one of push_password_env and push_password_file; give both, or none")
        return self
