"""The training: launch, loss, optimizer, reading."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from dssm.sections.losses import InBatchSoftmax, Loss
from dssm.sections.optimizers import Adam, Clip, Constant, Optimizer, Schedule
from dssm.strict import StrictModel


class Recent(StrictModel):
    """A last pass over the newest rows alone."""

    days: int = Field(ge=1, description="Days before the test window.")
    epochs: int = Field(1, ge=1, description="After those over all rows.")


class Train(StrictModel):
    launch: Literal["spark", "horovodrun", "single"] = Field(
        "spark", description="horovod.spark.run inside the Spark job, horovodrun, or one process."
    )
    ranks: int = Field(1, ge=1, description="Processes that train together; `single` takes 1.")
    hosts: str | None = Field(None, description="Hosts for horovodrun, as host:slots,…; default: this machine.")
    loss: Loss = InBatchSoftmax()
    batch_size: int = Field(1024, ge=1, description="Rows a rank and step.")
    epochs: int = Field(3, ge=1)
    recent: Recent | None = None
    half_life_days: FiniteFloat | None = Field(
        None, gt=0, description="A row's weight halves with so many days between its event and the test window."
    )
    optimizer: Optimizer = Adam()
    learning_rate: FiniteFloat = Field(0.001, gt=0)
    schedule: Schedule = Constant()
    clip: Clip | None = None
    mixed_precision: bool = Field(
        False,
        description="Dense layers compute in bfloat16, for GPUs that have it (since Ampere); variables, vectors and "
        "losses stay float32.",
    )
    reader_threads: int = Field(2, ge=1, le=16, description="Petastorm's reader threads of each rank.")
    prefetch: int = Field(4, ge=1, description="Batches made ahead of the step.")
    threads: int | None = Field(None, ge=1, description="TensorFlow's threads a rank; default: cores / ranks.")
    start_timeout_s: int = Field(300, ge=1, description="Wait for all ranks to start.")
    stall_shutdown_s: int = Field(120, ge=1, description="A rank that is silent for so long ends the job.")
