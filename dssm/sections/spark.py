"""Spark itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from dssm.strict import StrictModel


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
