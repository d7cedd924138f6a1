"""Spark itself: where the jobs run, with which Python, GPUs and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dssm.secrets import is_secret, read_secret
from dssm.strict import StrictModel


class Secret(StrictModel):
    """Where a secret stands: in the environment of the driver, or in a file that it can read."""

    env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", description="Environment variable that holds it.")
    file: str | None = Field(None, description="File that holds it, instead.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("env, file: give one of them")
        return self

    def read(self, setting: str) -> str:
        """Returns the secret. Raises: UserError where its place is not there, or is empty."""
        found = read_secret(setting, self.env, self.file, "")
        assert found is not None
        return found


class Environment(StrictModel):
    """The Python of a cluster's executors: this one, packed once by venv-pack, or one that the hosts have."""

    folder: str = Field(
        "~/.cache/dssm", description="Where environments are packed, each once by the digest of what it holds."
    )
    unpacked: bool = Field(
        False,
        description="All hosts see `folder`: an environment is unpacked there once, and executors run it from there; "
        "default: each executor gets and unpacks its own copy.",
    )
    python_prefix: str | None = Field(
        None,
        pattern="^/",
        description="Where the hosts have Python 3.11, such as /usr for /usr/bin/python3.11; default: where this "
        "environment has it.",
    )
    python: str | None = Field(
        None, description="A Python on every host that has all packages already: none is packed."
    )


class Security(StrictModel):
    """Authenticated and encrypted connections, and encrypted local files, between the processes of a job."""

    secret: Secret | None = Field(
        None,
        description="The secret that a standalone cluster's master and workers know; YARN and Kubernetes make one.",
    )
    interfaces: str | None = Field(
        None,
        description="The cluster's network interfaces, such as eth0: the driver and a training's rendezvous listen "
        "there alone, and ranks talk over them (train.interfaces goes first); default: all. It binds "
        "neither horovodrun's rendezvous nor a driver on the cluster (deploy_mode).",
    )


class Spark(StrictModel):
    master: str | None = Field(
        None, description="Spark master; the environment's MASTER goes first; default local[*], all cores."
    )
    deploy_mode: Literal["client", "cluster"] = Field(
        "client", description="Where the driver runs: here, or on the cluster (YARN and Kubernetes)."
    )
    environment: Environment = Environment()
    gpus: int = Field(
        0, ge=0, description="GPUs that a rank of `train` asks a cluster for; no other job asks for any. Locally: none."
    )
    security: Security | None = Field(None, description="Default: as the cluster is set.")
    secrets: dict[str, Secret] = Field(
        default_factory=dict,
        description="Spark settings whose values are read by the driver and stand in no command, file or page, such "
        "as spark.hadoop.fs.s3a.secret.key: {env: S3_KEY}.",
    )
    conf: dict[str, str] = Field(
        default_factory=dict,
        description="Further Spark settings, for every job; one that is a secret by its name belongs in `secrets`.",
    )

    @field_validator("conf", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key, given in value.items():
            if is_secret(str(key)):
                raise ValueError(
                    f"'{key}' is a secret by its name; name its place in spark.secrets: {{{key}: {{env: …}}}}"
                )
            if given is None or isinstance(given, (Mapping, list)):
                # Not the value: a secret may be in it.
                held = "nothing" if given is None else "a list" if isinstance(given, list) else "a mapping"
                raise ValueError(
                    f"'{key}' holds {held}; expected a text, a number, true or false, "
                    "and Spark's key in one piece, such as spark.sql.ansi.enabled: false"
                )
        if (zone := value.get("spark.sql.session.timeZone")) is not None:
            raise ValueError(
                f"'spark.sql.session.timeZone' holds '{zone}', but the days are cut in the settings' timezone; "
                "remove it, and set timezone instead"
            )
        return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}

    @model_validator(mode="after")
    def _secrets_stand_once(self) -> Self:
        for key in self.secrets:
            if not key.startswith("spark."):
                raise ValueError(f"secrets: '{key}' is no setting of Spark's; expected spark.… or spark.hadoop.…")
            if key in self.conf:
                raise ValueError(f"secrets: '{key}' stands in conf too; remove it there")
        return self

    def read_secrets(self) -> dict[str, str]:
        """Returns Spark's settings that are secret, those of `secrets` and of `security`.

        Raises: UserError where a place is not there, or is empty.
        """
        found = {key: place.read(f"spark.secrets.{key}") for key, place in self.secrets.items()}
        if self.security is not None and self.security.secret is not None:
            found["spark.authenticate.secret"] = self.security.secret.read("spark.security.secret")
        return found
