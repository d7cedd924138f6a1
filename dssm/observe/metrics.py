"""The metrics of a job, in Prometheus' text format: a file, and pushed where a gateway is configured."""

from __future__ import annotations

import functools
import http.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, generate_latest, push_to_gateway, pushadd_to_gateway
from prometheus_client.exposition import basic_auth_handler, default_handler
from prometheus_client.parser import text_string_to_metric_families

from dssm import storage
from dssm.attempts import Attempt
from dssm.errors import UserError
from dssm.evaluation import KEPT
from dssm.report.run_facts import TABLE_JOBS, RunFacts
from dssm.secrets import read_secret
from dssm.sections import Observe

PUSHED_AS = "dssm"  # the gateway's own label `job`
LAST_SUCCESS = "dssm_job_last_success_timestamp_seconds"

# Each with its help and its labels beside `pipeline` and `job_name`. docs/operations.md explains them.
METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "dssm_job_exit_status": ("Exit code of the last start: 0 done, 2 mendable, 3 refused by a gate, 1 a defect.", ()),
    "dssm_job_start_timestamp_seconds": ("When the job last began.", ()),
    "dssm_job_end_timestamp_seconds": ("When it ended, well or not.", ()),
    LAST_SUCCESS: ("When it last ended well.", ()),
    "dssm_job_date_timestamp_seconds": ("The date that it ran for, 0 o'clock UTC.", ()),
    "dssm_job_duration_seconds": ("What it took.", ()),
    "dssm_job_peak_memory_bytes": ("Resident memory of its largest process on the driver's host.", ()),
    "dssm_stage_duration_seconds": ("What a step took; of equal steps together.", ("stage",)),
    "dssm_rows_read": ("Rows read of a source.", ("source",)),
    "dssm_rows_filtered": ("Rows of a source that were left out by a rule.", ("source",)),
    "dssm_rows_quarantined": ("Rows of a source that could not be read.", ("source",)),
    "dssm_rows_written": ("Rows of a dataset of the samples.", ("dataset",)),
    "dssm_train_samples_per_second": ("Of all ranks.", ()),
    "dssm_train_loss": ("Of the last epoch, or of the last step that was heard of.", ()),
    "dssm_train_input_wait_ratio": ("Share of the time that ranks waited for batches.", ()),
    "dssm_evaluation_users": ("Users that were ranked for.", ()),
    "dssm_evaluation_metric": ("Of the whole catalogue, seen items kept.", ("ranker", "metric")),
    "dssm_published_rows": ("Rows of the version that readers see.", ("table",)),
    "dssm_published_quarantined_rows": (
        "Rows that this version leaves out: the encoder could not read them, or their vector is not finite.",
        ("table",),
    ),
    "dssm_published_timestamp_seconds": ("When that version was made.", ("table",)),
    "dssm_index_rows": ("Vectors in an engine.", ("sink",)),
    "dssm_index_recall": ("Against exact search.", ("sink", "k")),
    "dssm_index_switched": ("Whether readers of an engine see this version.", ("sink",)),
}


@dataclass(frozen=True)
class Sample:
    """A value of one of METRICS, with its labels in their order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def of_attempt(attempt: Attempt, date_seconds: float) -> list[Sample]:
    """Returns what is known of every start that has ended, well or not."""
    assert attempt.ended is not None
    assert attempt.exit_code is not None
    ended = attempt.ended.timestamp()
    found = [
        Sample("dssm_job_exit_status", attempt.exit_code),
        Sample("dssm_job_start_timestamp_seconds", attempt.began.timestamp()),
        Sample("dssm_job_end_timestamp_seconds", ended),
        Sample("dssm_job_date_timestamp_seconds", date_seconds),
        Sample("dssm_job_duration_seconds", ended - attempt.began.timestamp()),
    ]
    return found if attempt.failed else [*found, Sample(LAST_SUCCESS, ended)]


def of_stages(seconds: Mapping[str, float]) -> list[Sample]:
    return [Sample("dssm_stage_duration_seconds", took, (stage,)) for stage, took in seconds.items()]


def of_measures(measures: Mapping[str, float]) -> list[Sample]:
    """Returns what the job said of itself while it ran; see `dssm.console.measured`."""
    names = {
        "peak_bytes": "dssm_job_peak_memory_bytes",
        "loss": "dssm_train_loss",
        "samples_per_s": "dssm_train_samples_per_second",
        "input_wait": "dssm_train_input_wait_ratio",
    }
    return [Sample(names[name], value) for name, value in measures.items() if name in names]


def of_results(job: str, facts: RunFacts) -> list[Sample]:
    """Returns what a job that ended well has left, from what stands in the run's folder."""
    tables = [table for table, by in TABLE_JOBS.items() if job in (by, "rollback")]
    if tables:
        return [sample for table in tables for sample in _of_table(table, facts)]
    found = {"build_samples": _of_samples, "train": _of_model, "evaluate": _of_evaluation, "index_items": _of_index}
    return found[job](facts) if job in found else []


def _of_samples(facts: RunFacts) -> list[Sample]:
    found = []
    for name, counts in facts.run.manifest.sources.items():
        found += [
            Sample("dssm_rows_read", counts.rows_read, (name,)),
            Sample("dssm_rows_filtered", sum(counts.filtered.values()), (name,)),
            Sample("dssm_rows_quarantined", sum(counts.quarantined.values()), (name,)),
        ]
    return [*found, *(Sample("dssm_rows_written", rows, (part,)) for part, rows in facts.rows.items())]


def _of_model(facts: RunFacts) -> list[Sample]:
    model = facts.model
    if model is None:
        return []
    found = [Sample("dssm_train_samples_per_second", model.rows_per_s)]
    if model.loss:
        found.append(Sample("dssm_train_loss", model.loss[-1]))
    return found


def _of_evaluation(facts: RunFacts) -> list[Sample]:
    if facts.evaluation is None:
        return []
    found = [Sample("dssm_evaluation_users", facts.evaluation["users"])]
    for ranker, metrics in facts.evaluation[KEPT].items():
        for metric, value in metrics.items():
            if "@" in metric and isinstance(value, (int, float)):
                found.append(Sample("dssm_evaluation_metric", value, (ranker, metric)))
    return found


def _of_table(table: str, facts: RunFacts) -> list[Sample]:
    made = facts.tables.get(table)
    if made is None:
        return []
    return [
        Sample("dssm_published_rows", made.manifest.rows, (table,)),
        Sample("dssm_published_quarantined_rows", sum(made.manifest.quarantined.values()), (table,)),
        Sample("dssm_published_timestamp_seconds", made.manifest.at.timestamp(), (table,)),
    ]


def _of_index(facts: RunFacts) -> list[Sample]:
    found = []
    for sink in facts.index.sinks if facts.index is not None else ():
        found += [
            Sample("dssm_index_rows", sink.count, (sink.sink,)),
            Sample("dssm_index_switched", float(sink.switched), (sink.sink,)),
            *(Sample("dssm_index_recall", recall, (sink.sink, str(k))) for k, recall in sink.recall.items()),
        ]
    return found


def registry_of(samples: Iterable[Sample], pipeline: str, job: str) -> CollectorRegistry:
    """Returns the samples as gauges; of one that is there twice the later counts."""
    registry, gauges = CollectorRegistry(), {}
    for sample in samples:
        told, labels = METRICS[sample.name]
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, told, ("pipeline", "job_name", *labels), registry=registry)
        gauges[sample.name].labels(pipeline, job, *sample.labels).set(sample.value)
    return registry


def last_success(text: str) -> list[Sample]:
    """Returns when a job last ended well, by an earlier text of its metrics: a failure must not hide it."""
    families = text_string_to_metric_families(text)
    return [Sample(LAST_SUCCESS, s.value) for family in families if family.name == LAST_SUCCESS for s in family.samples]


def write_metrics(samples: Sequence[Sample], pipeline: str, job: str, places: Iterable[str], failed: bool) -> None:
    """Writes files that nobody reads half of. Of a job that failed, each keeps when it last ended well."""
    for place in places:
        kept = last_success(storage.read_text(place)) if failed and storage.exists(place) else []
        text = generate_latest(registry_of([*samples, *kept], pipeline, job)).decode()
        storage.write_text(place, text)


def push_metrics(samples: Sequence[Sample], pipeline: str, job: str, observe: Observe, failed: bool) -> None:
    """Pushes to the gateway: in place of what the job pushed before, or after a failure over what it says of itself.

    Raises: UserError that names the setting where that fails.
    """
    assert observe.push_gateway is not None
    handler = default_handler
    password = read_secret("observe", observe.push_password_env, observe.push_password_file, "push_password")
    if password is not None:
        handler = functools.partial(basic_auth_handler, username=observe.push_user, password=password)
    push = pushadd_to_gateway if failed else push_to_gateway
    try:
        push(
            observe.push_gateway,
            PUSHED_AS,
            registry_of(samples, pipeline, job),
            {"pipeline": pipeline, "job_name": job},
            observe.push_timeout_s,
            handler,
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"observe.push_gateway: {observe.push_gateway}: {error or type(error).__name__}") from error
