"""Where a run's files lie: runs/NAME/DATE/."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from dssm import storage
from dssm.config import Settings

SPARK_LOG, SPARK_LEVEL = "dssm.sparkLog", "dssm.sparkLevel"  # of the JVM: what conf/spark/log4j2.properties reads
DATASETS = ("train", "test", "users", "items", "interactions")  # of build_samples
CARD = "model.json"  # in a model's folder
VOCABULARIES = "vocabularies"  # the folder of them, in that of the samples


@dataclass(frozen=True)
class RunPaths:
    """The folders and files of one run.

    Attributes: model_version: of a model that train has set aside, which `model` then is; None: the newest.
    """

    folder: str
    model_version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", storage.absolute(self.folder))

    @property
    def samples(self) -> str:
        return f"{self.folder}/samples"

    def part(self, name: str) -> str:
        """The folder of one of DATASETS."""
        return f"{self.samples}/{name}"

    @property
    def model(self) -> str:
        return f"{self.folder}/model" if self.model_version is None else f"{self.models}/{self.model_version}"

    @property
    def card(self) -> str:
        return f"{self.model}/{CARD}"

    @property
    def models(self) -> str:
        """The models before the newest, by their versions; see `dssm.model.kept`."""
        return f"{self.folder}/models"

    @property
    def checkpoints(self) -> str:
        """The states of a training that is going on; they are gone when the model is there."""
        return f"{self.folder}/checkpoints"

    @property
    def launches(self) -> str:
        """What launchers and ranks of a training tell each other: hosts share this, not the driver's /tmp."""
        return f"{self.folder}/.launch"

    @property
    def timeline(self) -> str:
        """Horovod's timeline of a training with --profile, for chrome://tracing."""
        return f"{self.folder}/profile/timeline.json"

    @property
    def logs(self) -> str:
        """TensorBoard's event files."""
        return f"{self.folder}/logs"

    @property
    def jobs(self) -> str:
        """What is known of the jobs themselves: logs, metrics, what they used, how they ended."""
        return f"{self.folder}/jobs"

    def job_log(self, job: str) -> str:
        """JSON lines; see `dssm.observe.records`."""
        return f"{self.jobs}/{job}.jsonl"

    def spark_log(self, job: str) -> str:
        """What Spark's driver logs."""
        return f"{self.jobs}/{job}.spark.log"

    def metrics(self, job: str) -> str:
        """In Prometheus' text format."""
        return f"{self.jobs}/{job}.prom"

    @property
    def evaluation(self) -> str:
        return f"{self.folder}/evaluation.json"

    @property
    def report(self) -> str:
        return f"{self.folder}/report.html"

    @property
    def report_map(self) -> str:
        """Where the report draws the published items; see `dssm.report.kept_map`."""
        return f"{self.folder}/report_map.json"

    @property
    def tables(self) -> str:
        """Where the run's published tables lie; see `dssm.published.run_table`."""
        return f"{self.folder}/tables.json"

    def quarantine(self, table: str) -> str:
        """Rows that could not be scored, with their reasons, of the version of a table that a gate refused last.

        Args: table: `items` or `users`.
        """
        return f"{self.folder}/quarantine/{table}"


def vocabulary_path(samples: str, name: str) -> str:
    """Returns the Parquet file of a vocabulary's tokens. Args: samples: a run's folder of them."""
    return f"{samples}/{VOCABULARIES}/{name}.parquet"


def vectors_path(samples: str, name: str) -> str:
    """Returns the Parquet file of frozen vectors. Args: samples: a run's folder of them."""
    return f"{samples}/vectors/{name}/vectors.parquet"


def earlier_run(root: str, run: str) -> RunPaths:
    """Returns where an earlier run's files lie. Args: run: its folder, or NAME/DATE below root."""
    inside = f"{root}/{run}"
    return RunPaths(inside if storage.exists(inside) else run)


def spark_log_file(settings: Settings, job: str) -> str:
    """Returns the local file that Spark's driver logs to: in the run's folder, where that is local."""
    kept = RunPaths(settings.run_folder).spark_log(job)
    local = kept.removeprefix("file://")  # whatever else has :// is not asked: that would connect to it
    if "://" not in local:
        return local
    return f"{tempfile.gettempdir()}/dssm_{settings.name}_{settings.date.isoformat()}_{job}.spark.log"
