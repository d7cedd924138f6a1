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


class Validation(StrictModel):
    """The newest days of the training window, kept back from the epochs, say after which of them the model is best.

    That epoch's weights are taken up again; the last pass over `recent` days, which follows, sees these rows too.
    """

    days: int = Field(1, ge=1, description="Days before the test window.")
    metric: str = Field(
        "recall@100",
        pattern=r"^(loss|recall@[1-9][0-9]*|([A-Za-z]\w*_)?(auc|log_loss|accuracy|precision|recall|mse))$",
        description="loss (that of the epoch's own rows); auc, log_loss, accuracy, precision, recall or mse of the "
        "validation rows, NAME_auc of a further objective, scorer_auc of a scorer; or recall@K: the share of their "
        "positives that stand among the first K of the whole catalogue.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="So many epochs without a better value end them, and a schedule then ends with the last pass; "
        "default: all epochs run.",
    )
    min_gain: FiniteFloat = Field(0.0, ge=0, description="By how much a value must be better.")

    @property
    def cutoff(self) -> int | None:
        """K of recall@K; None for another metric."""
        name, _, places = self.metric.partition("@")
        return int(places) if name == "recall" and places else None

    @property
    def is_better_low(self) -> bool:
        return self.metric == "loss" or self.metric.endswith(("log_loss", "mse"))

    def improves(self, value: float, best: float | None) -> bool:
        if best is None:
            return True
        gain = best - value if self.is_better_low else value - best
        return gain > self.min_gain


class Checkpoint(StrictModel):
    """When the state of a training is written. The same command resumes from it."""

    every_steps: int | None = Field(None, ge=1)
    every_minutes: FiniteFloat | None = Field(10.0, gt=0)
    epoch_minutes: FiniteFloat = Field(
        0.25, ge=0, description="The end of an epoch is written where the last write was so long ago; 0: each one."
    )
    keep: int = Field(2, ge=1, description="Checkpoints that stay until the model is there.")


class Staging(StrictModel):
    """How sample files of a remote store come to local disk, ahead of the reader; local ones stay where they are."""

    cache_bytes: int = Field(4 << 30, ge=1, description="Disk that the copies of a rank take at most.")
    folder: str | None = Field(
        None, description="Where the copies are made; default: the system's temporary folder, in memory on some hosts."
    )
    threads: int = Field(2, ge=1, le=16, description="Files fetched at once.")
    attempts: int = Field(5, ge=1, description="Fetches of a file before it is an error.")
    backoff_s: FiniteFloat = Field(0.5, ge=0, description="Before the second one; each further wait is twice as long.")


class Elastic(StrictModel):
    """A training that goes on with other ranks when some are lost, and with more when some join."""

    min_ranks: int = Field(1, ge=1, description="With fewer it waits, for train.start_timeout_s.")
    max_ranks: int | None = Field(None, ge=1, description="Default: train.ranks.")
    commit_every_steps: int = Field(
        100, ge=1, description="Steps between commits: a lost rank costs those since the last, a new one joins at one."
    )
    hosts_script: str | None = Field(
        None, description="For horovodrun: a program that prints the hosts of the moment, host:slots a line."
    )


class WarmStart(StrictModel):
    """The model of an earlier run, trained further on this run's rows: a day's increment costs a day's data."""

    run: str = Field(
        description="NAME/DATE, or a run's folder; its vocabularies, grown at most, are those of the samples."
    )
    optimizer: Literal["keep", "reset"] = Field("keep", description="The optimizer's state: as it was, or new.")


class Train(StrictModel):
    launch: Literal["spark", "spark-elastic", "horovodrun", "single"] = Field(
        "spark",
        description="horovod.spark.run inside the Spark job, horovod.spark.run_elastic, horovodrun (with `elastic` a "
        "training whose hosts may change), or one process.",
    )
    ranks: int = Field(1, ge=1, description="Processes that train together; `single` takes 1.")
    hosts: str | None = Field(None, description="Hosts for horovodrun, as host:slots,…; default: this machine.")
    interfaces: str | None = Field(
        None,
        description="Network interfaces that the ranks talk over, such as eth0; default: those of spark.security, or "
        "else all that reach them.",
    )
    elastic: Elastic | None = Field(None, description="spark-elastic has it without being asked, with its defaults.")
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
    validation: Validation | None = None
    threshold: FiniteFloat = Field(
        0.5, gt=0, lt=1, description="Chance from which accuracy, precision and recall take a row as positive."
    )
    checkpoint: Checkpoint = Checkpoint()
    warm_start: WarmStart | None = None
    resume: bool = Field(True, description="Go on from the run's last checkpoint, if it is of the same training.")
    deterministic: bool = Field(
        False, description="The same operations in the same order, at some cost: a rerun gives the same bits."
    )
    profile: bool = Field(
        False,
        description="Profile 20 steps of rank 0 into the run's logs, and write Horovod's timeline to the run's "
        "profile/timeline.json, where that is on a local or shared disk.",
    )
    reader_threads: int = Field(2, ge=1, le=16, description="Petastorm's reader threads of each rank.")
    reader_queue_rows: int | None = Field(
        None,
        ge=1,
        description="Rows that a rank's reader holds at most, being read or waiting, whatever the data's size; "
        "default: those of reader_threads + 2 files.",
    )
    staging: Staging = Staging()
    prefetch: int = Field(4, ge=1, description="Batches made ahead of the step.")
    threads: int | None = Field(
        None,
        ge=1,
        description="TensorFlow's threads a rank; default: cores / ranks. For batches of some hundred rows and narrow "
        "towers 1 is faster.",
    )
    start_timeout_s: int = Field(300, ge=1, description="Wait for all ranks to start.")
    stall_shutdown_s: int = Field(
        100, ge=1, description="A rank that is silent for so long ends the job: with the default within two minutes."
    )
    pause_limit_s: int = Field(
        3600,
        ge=1,
        description="The same where no steps are taken: while ranks set up, resume, write the best epoch, or save.",
    )

    @property
    def by_spark(self) -> bool:
        """Whether the ranks start inside a Spark job."""
        return self.launch in ("spark", "spark-elastic")

    @property
    def elasticity(self) -> Elastic | None:
        """How the ranks may change; None where they may not."""
        return self.elastic or (Elastic() if self.launch == "spark-elastic" else None)

    @property
    def most_ranks(self) -> int:
        """How many ranks there may be at once."""
        elastic = self.elasticity
        return self.ranks if elastic is None else elastic.max_ranks or self.ranks
