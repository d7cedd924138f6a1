"""A tower over a dataset of the samples, on the executors, into a version of a table: for items and users alike."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyspark.sql import SparkSession

from dssm import published, storage
from dssm.config import Settings
from dssm.console import out, warn
from dssm.decisions import tally, unheard
from dssm.errors import UserError
from dssm.evaluation import KEPT, MODEL
from dssm.manifest import ITEM_ID, MANIFEST, SCHEMA_VERSION, USER_ID, Manifest, SourceCounts, read_manifest
from dssm.model.kept import version_in
from dssm.model.manifest import ModelManifest, read_model_manifest
from dssm.paths import RunPaths
from dssm.published import DIGESTS, SIDES, VECTOR, GateDecision, Published, PublishedManifest, VectorType
from dssm.scoring import gates
from dssm.scoring.earlier import Earlier, files_of_rows
from dssm.scoring.files import FileResult, Scoring
from dssm.scoring.metastore import HiveMetastore, Metastore
from dssm.scoring.publish import Measured, publish
from dssm.scoring.table import Table
from dssm.scoring.tasks import commit_files, measured_rows, run_files
from dssm.scoring.vectors import check_model_fits, check_not_replaced, task_threads
from dssm.sections.publishing import PublishedTable

Part = Literal["items", "users"]

IDS: dict[Part, str] = {"items": ITEM_ID, "users": USER_ID}
USERS = {"window": "with a positive in the test window", "all": "with a positive in the test window or an event before"}


def publish_vectors(spark: SparkSession, settings: Settings, part: Part, force: bool = False) -> Published:
    """Publishes the partition dt = date of a table: a vector for every row of a dataset of the samples.

    A rerun makes nothing new; see `version_of`.

    Args:
      part: the dataset, `items` or `users`.
      force: publish whatever the gates say.
    Raises: GateError where a gate refuses; UserError where the samples, the model or the evaluation are missing or
      do not belong together; ReplacedError where samples or model were replaced meanwhile.
    """
    run = _Run.read(settings, part)
    is_hive = section_of(settings, part).kind == "hive"
    table = table_of(settings, part, hive_of(spark, settings, part) if is_hive else None, force)
    version = version_of(table.date, run.model.model_version, run.samples.build, table.section.dtype)

    def judge(last: PublishedManifest | None) -> list[GateDecision]:
        return gates.recall_gates(table.section.gate, table.setting, run.kept, last, run.paths.evaluation)

    def make(folder: str, last: Published | None) -> PublishedManifest:
        if (unusable := _unusable(last) if last is not None else None) is not None:
            warn(f"  {unusable}: nothing is taken from that version")
        scoring = run.scoring(table, folder, last if unusable is None else None, task_threads(spark))
        results = run.score(spark, scoring)
        commit_files(folder, results)
        measured = measured_rows(folder, results, scoring.norm)
        if (unread := _unread(results)) is not None:
            warn(f"  {unread}: nothing is taken from there")
        if last is not None and measured["drift"] is None:
            measured["incomparable"] = unusable or unread or _incomparable(last, measured["vector_dim"])
        return run.manifest(table, version, last, measured)

    done = publish(table, version, judge, vector_columns(run.model), make, run.measured)
    for told in unheard(done.manifest.gates):
        warn(f"  {told}")
    told = f"published version {version} of {table.name}, {table.date}: {tally(done.manifest.gates)}"
    if done.manifest.users:
        told += f"; users {done.manifest.users}"
    out.print(f"  {told}", markup=False)
    published.write_run_tables(settings.run_folder, {part: table.location})
    return done


def version_of(date: str, model_version: str, samples_build: str, dtype: VectorType) -> str:
    """Returns a version's name: a digest of what it is made of, and of how it is written.

    A folder of that name with a manifest of another schema, which could not be read, would be taken for a damaged one.
    """
    return storage.digest(str(SCHEMA_VERSION), date, model_version, samples_build, dtype)


@dataclass(frozen=True)
class _Run:
    """What a version is made of.

    Attributes:
      samples: the manifest of the dataset `part`.
      model_digest, samples_digest: of the two manifests' files.
      kept: metrics of each ranker, seen items kept; None where there are none of this model, and none needed.
    """

    settings: Settings
    part: Part
    paths: RunPaths
    model: ModelManifest
    samples: Manifest
    model_digest: str
    samples_digest: str
    kept: Mapping[str, dict[str, float | None]] | None

    @classmethod
    def read(cls, settings: Settings, part: Part) -> _Run:
        """Raises: UserError where something is missing, or does not belong to the rest."""
        paths = RunPaths(settings.run_folder)
        model = read_model_manifest(paths.model)
        samples = read_manifest(paths.part(part), "build_samples")
        model_digest, samples_digest = _manifest_digest(paths.model), _manifest_digest(paths.part(part))
        columns = model.item_columns if part == "items" else model.user_columns
        check_model_fits(model, samples, columns, paths.part(part))
        kept = _evaluated(settings, part, paths, model, samples)
        return cls(settings, part, paths, model, samples, model_digest, samples_digest, kept)

    @property
    def measured(self) -> Measured:
        if self.kept is None:
            return Measured()
        return Measured(self.kept[MODEL], section_of(self.settings, self.part).gate.metric)

    def scoring(self, table: Table, folder: str, last: Published | None, threads: int) -> Scoring:
        same_model = last is not None and last.manifest.model_version == self.model.model_version
        return Scoring(
            source=self.paths.part(self.part),
            target=folder,
            id_source=IDS[self.part],
            id_column=f"{table.side}_id",
            columns=self.model.item_columns if self.part == "items" else self.model.user_columns,
            tower=f"{self.paths.model}/{table.side}_tower",
            model_version=self.model.model_version,
            threads=threads,
            dtype=table.section.dtype,
            norm=self.model.vector_norm,
            own_norm=own_norm(self.model),
            digests=table.section.incremental,
            earlier=_earlier(last, self.samples),
            copies=table.section.incremental and same_model,
        )

    def score(self, spark: SparkSession, scoring: Scoring) -> list[FileResult]:
        """Scores the files; see `run_files`.

        Raises: ReplacedError where they may not all be of this run: tasks read model and samples when they need them.
        """
        try:
            return run_files(spark, scoring, self.samples)
        finally:  # also where a file was gone, or had other rows
            self._check_not_replaced()

    def _check_not_replaced(self) -> None:
        model, samples, found = self.paths.model, self.paths.part(self.part), None
        check_not_replaced(model, version_in(model), self.model.model_version, "train")
        with contextlib.suppress(UserError):  # nothing is there while it is being replaced
            found = read_manifest(samples, "build_samples").build
        check_not_replaced(samples, found, self.samples.build, "build_samples")

    @property
    def _catalogue(self) -> SourceCounts | None:
        """What became of the catalogue's rows, for a table of items."""
        return self.samples.sources.get("catalogue") if self.part == "items" else None

    def manifest(
        self, table: Table, version: str, last: Published | None, measured: Mapping[str, Any]
    ) -> PublishedManifest:
        """Args: measured: of the rows; see `measured_rows`."""
        return PublishedManifest(
            table=table.name,
            side=table.side,
            version=version,
            date=table.date,
            at=dt.datetime.now(dt.UTC),
            model_version=self.model.model_version,
            samples_build=self.samples.build,
            settings_digest=settings_digest(self.settings),
            samples_digest=self.samples_digest,
            model_digest=self.model_digest,
            samples_rows=self.samples.rows,
            users=USERS.get(self.samples.users or "", "") if self.part == "users" else "",
            catalogue_rows=0 if self._catalogue is None else self._catalogue.rows_read,
            not_encoded={} if self._catalogue is None else dict(self._catalogue.quarantined),
            dtype=table.section.dtype,
            norm=self.model.vector_norm,
            previous=last and f"dt={last.manifest.date}/version={last.manifest.version}",
            metrics=self.measured.metrics,
            metric=self.measured.metric,
            **measured,
        )


# The table of the settings ---------------------------------------------------------------------------


def section_of(settings: Settings, part: Part) -> PublishedTable:
    return settings.item_table if part == "items" else settings.user_table


def setting_of(part: Part) -> str:
    return f"{SIDES[part]}_table"


def name_of(settings: Settings, part: Part) -> str:
    return section_of(settings, part).name or f"{settings.name.replace('-', '_')}_{part}"


def location_of(settings: Settings, part: Part) -> str:
    return storage.absolute(settings.in_root(section_of(settings, part).location))


def hive_of(spark: SparkSession, settings: Settings, part: Part) -> HiveMetastore:
    return HiveMetastore(spark, name_of(settings, part), location_of(settings, part), setting_of(part))


def table_of(settings: Settings, part: Part, metastore: Metastore | None = None, forced: bool = False) -> Table:
    other: Part = "users" if part == "items" else "items"
    return Table(
        side=SIDES[part],
        section=section_of(settings, part),
        setting=setting_of(part),
        name=name_of(settings, part),
        location=location_of(settings, part),
        date=settings.date.isoformat(),
        metastore=metastore,
        runs=posixpath.dirname(settings.run_folder),
        beside=[location_of(settings, other)],
        forced=forced,
    )


def settings_digest(settings: Settings) -> str:
    """Returns a digest of all settings but Spark's own, which may hold secrets."""
    return storage.digest(settings.model_dump_json(exclude={"spark"}))


def vector_columns(model: ModelManifest) -> list[str]:
    """Returns the names of a table's vector columns: the combined one, and of several objectives each one's own."""
    return [VECTOR, *(published.vector_column(name) for name in model.objectives if len(model.objectives) > 1)]


def own_norm(model: ModelManifest) -> float | None:
    """Returns the norm that each objective's own vectors should have; None where the model sets none.

    The combined vector holds the own ones times the roots of their shares.
    """
    shares = sum(model.objectives.values())
    return model.vector_norm / shares**0.5 if model.vector_norm is not None and shares else None


def _manifest_digest(folder: str) -> str:
    return storage.digest(storage.read_replaced(f"{folder}/{MANIFEST}"))


def _evaluated(
    settings: Settings, part: Part, paths: RunPaths, model: ModelManifest, samples: Manifest
) -> dict[str, dict[str, float | None]] | None:
    """Returns the metrics of each ranker, seen items kept; None where there are none of this model, and none needed."""
    setting, gate = setting_of(part), section_of(settings, part).gate
    needed = gate.better_than != "none"
    if not storage.exists(paths.evaluation):
        if needed:
            raise UserError(
                f"{paths.evaluation}: not found; run evaluate first, or set {setting}.gate.better_than to none"
            )
        return None
    evaluation = json.loads(storage.read_text(paths.evaluation))
    of_model = evaluation.get("model_version") == model.model_version
    of_samples = evaluation.get("samples_build") == samples.build
    if needed and not of_model:
        raise UserError(
            f"{paths.evaluation}: of model {evaluation.get('model_version')}, but {paths.model} holds "
            f"{model.model_version}; run evaluate again"
        )
    if needed and not of_samples:
        raise UserError(f"{paths.evaluation}: of other samples than {paths.samples}; run evaluate again")
    kept: dict[str, dict[str, float | None]] = evaluation[KEPT]
    return kept if of_model and of_samples else None


def _earlier(last: Published | None, samples: Manifest) -> Earlier | None:
    """Returns what tasks may read of the version published last."""
    if last is None:
        return None
    made = last.manifest
    widths = {VECTOR: made.vector_dim} | {published.vector_column(name): w for name, w in made.objectives.items()}
    names = files_of_rows([file.name for file in samples.files], [file.name for file in made.files])
    return Earlier(last.folder, names, widths, made.dtype, made.model_version, made.norm_off or 0.0)


def _unusable(last: Published) -> str | None:
    """Returns why nothing can be taken from the version published last; None where it is whole."""
    damaged = published.damaged_files(last)
    if damaged:
        return f"{damaged[0]} is missing or damaged"
    digests = f"{last.folder}/{DIGESTS}"
    return None if storage.exists(digests) else f"{digests} is missing"


def _unread(results: Sequence[FileResult]) -> str | None:
    """Returns which files of the version published last could not be read; None where all could."""
    told = list(dict.fromkeys(path for result in results for path in result.unread))
    others = f" and {len(told) - 1:,} more files" if len(told) > 1 else ""
    return f"{told[0]}{others} can't be read" if told else None


def _incomparable(last: Published, width: int) -> str:
    """Returns why no row could be compared with its vector in the version published last, which is whole."""
    name, before = f"dt={last.manifest.date}/version={last.manifest.version}", last.manifest.vector_dim
    if before != width:
        return f"the vectors of {name} are {before} wide, these {width}"
    return f"no row is in the files of {name}"
