"""What a run's folder holds for its report: each part as its job left it, and why others are not there."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dssm import locks, published, storage
from dssm.config import MADE, Settings
from dssm.errors import UserError
from dssm.manifest import MANIFEST, Manifest, Statistics, VocabularySpec
from dssm.paths import DATASETS, RunPaths
from dssm.published import GateDecision, Published
from dssm.report.card_parts import PartCard, PredictionCard, SignatureCard
from dssm.report.dataset import Run, open_run
from dssm.usage import Usage, read_usage

INDEX, EXAMPLES, REFUSALS = "index.json", "examples.json", "refusals.json"
JOBS = ("build_samples", "train", "evaluate", "score_items", "score_users", "index_items")  # in their order
TABLE_JOBS = {"items": "score_items", "users": "score_users"}


class _Read(BaseModel):
    """Part of what another job wrote: further keys are let be."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class TrainedModel(_Read):
    """What the report shows of a model's manifest; see dssm.model.manifest.ModelManifest."""

    model_version: str
    samples_build: str
    vector_dim: int
    vector_norm: float | None = None
    objectives: dict[str, float] = {}
    ranks: int
    epochs: int
    best_epoch: int | None = None
    steps: int
    rows_per_epoch: int
    rows_per_s: float
    input_wait: float | None = None
    bytes_per_step: float | None = None
    expected_bytes_per_step: float | None = None
    loss: list[float]
    metrics: list[dict[str, float | None]] = []
    validation: list[dict[str, float | None]] = []


class CardFacts(_Read):
    """What the report shows of a model's card; see dssm.model.card.ModelCard."""

    model_version: str
    samples_build: str
    vocabularies_of: str | None = None
    parts: dict[str, PartCard]
    vocabularies: dict[str, VocabularySpec]
    statistics: dict[str, Statistics] = {}
    predictions: dict[str, PredictionCard] = {}
    towers: dict[str, SignatureCard]
    scorer: SignatureCard | None = None


class SinkFacts(_Read):
    """What the report shows of a sink; see dssm.retrieval.index.SinkReport."""

    sink: str
    kind: str
    objective: str | None = None
    count: int
    how: str = "index"
    build_seconds: float | None = None
    queries_per_s: dict[int, float]
    recall: dict[int, float]
    min_recall: dict[int, float] = {}
    failures: list[str] = []
    switched: bool = False


class IndexFacts(_Read):
    """What the report shows of index.json."""

    version: str
    model_version: str
    rows: int
    queries: int
    queries_of: str
    exact_queries_per_s: float
    sinks: list[SinkFacts]


class NamedItem(_Read):
    """An item of an example user; `title` where the catalogue has titles."""

    item: str
    title: str | None = None

    @property
    def name(self) -> str:
        return self.title or self.item


class Clicked(NamedItem):
    seen: bool = False


class Recommended(NamedItem):
    score: float
    hit: bool


class ExampleUser(_Read):
    """A user of examples.json: the history newest first, what was recommended best first."""

    user: str
    items_before: int
    history: list[NamedItem]
    clicked: list[Clicked]
    recommended: list[Recommended]


class Examples(_Read):
    """What the report shows of examples.json."""

    model_version: str
    users: list[ExampleUser]


class Refusal(BaseModel):
    """Why a gate last refused what a job had made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: dt.datetime
    reason: str
    gates: list[GateDecision] = Field(default_factory=list, description="Those that had looked by then.")


_REFUSALS = TypeAdapter(dict[str, Refusal])


@dataclass(frozen=True)
class Missing:
    """A part that the report leaves out, and the job that would make it. Args: to_come: the job has not run yet."""

    what: str
    job: str
    why: str
    to_come: bool = False


@dataclass
class RunFacts:
    """All that the report is made of but the vectors themselves.

    Attributes:
      rows: of the samples' datasets, by name.
      data: digest of each dataset's manifest.
      evaluation: evaluation.json, where it is of the run's model.
      tables: what is published of items and users.
      used: what the jobs took, by name.
      refusals: what gates have last refused, by job.
      warnings: parts that do not belong together.
    """

    run: Run
    settings: Settings
    rows: dict[str, int]
    data: dict[str, str]
    model: TrainedModel | None = None
    card: CardFacts | None = None
    evaluation: Mapping[str, Any] | None = None
    tables: dict[str, Published] = field(default_factory=dict)
    index: IndexFacts | None = None
    examples: Examples | None = None
    used: dict[str, Usage] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def paths(self) -> RunPaths:
        return self.run.paths

    @property
    def items(self) -> Published | None:
        return self.tables.get("items")


def read_facts(paths: RunPaths, settings: Settings | None = None) -> RunFacts:
    """Reads what a run's folder holds.

    Args:
      settings: of the job that asks; else those that the model was trained with, else those of the samples.
    Raises: UserError where there are no finished samples. Whatever else is missing or damaged is told as missing.
    """
    run = open_run(paths)
    manifests = {part: f"{paths.part(part)}/{MANIFEST}" for part in DATASETS}
    contents = {part: storage.read_bytes(path) for part, path in manifests.items() if storage.exists(path)}
    facts = RunFacts(
        run=run,
        settings=settings or _settings_of_model(paths) or run.settings,
        rows={part: Manifest.model_validate_json(content).rows for part, content in contents.items()},
        data={part: storage.digest(content) for part, content in contents.items()},
        used={usage.job: usage for usage in _usage(paths)},
    )
    refusals = read_refusals(paths)
    facts.refusals = {job: refusal for job, refusal in refusals.items() if not _is_past(facts, job, refusal)}
    _add_model(facts)
    _add_evaluation(facts)
    for table in TABLE_JOBS:
        _add_table(facts, table)
    _add_index(facts)
    return facts


def _settings_of_model(paths: RunPaths) -> Settings | None:
    """Returns the settings in the model's card; None where there is none, or one of other settings."""
    try:
        return Settings.model_validate(json.loads(storage.read_text(paths.card))["settings"], context=MADE)
    except (OSError, KeyError, ValueError, UserError):
        return None


def _usage(paths: RunPaths) -> list[Usage]:
    try:
        return read_usage(paths.folder)
    except ValueError:  # of another version: the picture goes without times
        return []


def read_refusals(paths: RunPaths) -> dict[str, Refusal]:
    """Returns what gates have last refused, by job; see `note_refusal`."""
    try:
        return _REFUSALS.validate_json(storage.read_replaced(f"{paths.folder}/{REFUSALS}"))
    except (FileNotFoundError, ValueError):
        return {}


def note_refusal(paths: RunPaths, job: str, reason: str | None, gates: Sequence[GateDecision] = ()) -> None:
    """Keeps in the run's folder that a gate refused what a job had made; None: that it let it through.

    One process at a time, by the folder's lock: another job of the run may end at the same moment.
    """
    if reason is None and job not in read_refusals(paths):
        return
    with locks.locked(paths.folder):
        known = read_refusals(paths)
        known.pop(job, None)
        if reason is not None:
            known[job] = Refusal(at=dt.datetime.now(dt.UTC), reason=reason, gates=list(gates))
        storage.write_text(f"{paths.folder}/{REFUSALS}", _REFUSALS.dump_json(known, indent=1).decode() + "\n")


def _is_past(facts: RunFacts, job: str, refusal: Refusal) -> bool:
    """Whether a job before this one has begun again since, so that what was refused is no more."""
    before = JOBS[: JOBS.index(job)] if job in JOBS else ()
    return any(name in facts.used and facts.used[name].began > refusal.at for name in before)


def _add_model(facts: RunFacts) -> None:
    what = "loss and metric curves"
    facts.model = _part(facts, TrainedModel, f"{facts.paths.model}/{MANIFEST}", what, "train")
    if facts.model is not None:
        what = "model card"
        card = _part(facts, CardFacts, facts.paths.card, what, "train")
        if card is not None and _is_of_model(facts, card.model_version, what, "train"):
            facts.card = card
    if facts.model is not None and facts.model.samples_build != facts.run.manifest.build:
        facts.warnings.append("The model was trained on other samples than now lie here: run train again.")


def _add_evaluation(facts: RunFacts) -> None:
    path, recall = facts.paths.evaluation, "recall against the baselines"
    found = _json(facts, path, recall, "evaluate")
    if found is not None and _is_of_model(facts, found.get("model_version"), recall, "evaluate"):
        facts.evaluation = found
    elif found is not None and facts.model is not None:
        facts.warnings.append(
            f"The evaluation is of model {found.get('model_version')}, the model is now {facts.model.model_version}: "
            "run evaluate again."
        )
    path, what = f"{facts.paths.folder}/{EXAMPLES}", "example users"
    examples = _part(facts, Examples, path, what, "evaluate")
    if examples is not None and _is_of_model(facts, examples.model_version, what, "evaluate"):
        facts.examples = examples


def _is_of_model(facts: RunFacts, version: str | None, what: str, job: str) -> bool:
    """Whether a part is of the run's model; where it is not, it is missing."""
    now = facts.model.model_version if facts.model is not None else None
    if version != now:
        facts.missing.append(Missing(what, job, f"it is of model {version}, the run's is {now}"))
    return version == now


def _add_table(facts: RunFacts, table: str) -> None:
    """Adds what is published. Not every pipeline publishes its users' vectors: they are not missing."""
    what = {"items": "map of the item vectors, hubs, norms and gates", "users": "published user vectors"}[table]
    job, known = TABLE_JOBS[table], _table_names(facts.paths)
    if table not in known:
        if table == "items":
            facts.missing.append(Missing(what, job, "nothing is published from this run", to_come=True))
        return
    location, date = published.run_table(facts.paths.folder, table), facts.run.manifest.date
    try:
        found = published.current(location, date)
    except UserError as error:
        facts.missing.append(Missing(what, job, str(error)))
        return
    if found is None:
        if table == "items":
            facts.missing.append(Missing(what, job, f"nothing is published for {date}", to_come=True))
        return
    facts.tables[table] = found
    if facts.model is not None and found.manifest.model_version != facts.model.model_version:
        left = _rolled_back(location, date, facts.model.model_version)
        told = f"run {job} again" if left is None else f"version {left} was rolled back"
        facts.warnings.append(
            f"The {table} published are of model {found.manifest.model_version}, not of the run's "
            f"{facts.model.model_version}: {told}."
        )


def _rolled_back(location: str, date: str, model_version: str) -> str | None:
    """Returns the version of a model that a rollback has left; None where there is none any more."""
    pointer = published.read_pointer(location, date)
    if pointer is None or not pointer.rolled_back:
        return None
    of_model = (
        made.manifest.version
        for made in reversed(published.versions(location, date))
        if made.manifest.version in pointer.rolled_back and made.manifest.model_version == model_version
    )
    return next(of_model, None)


def _table_names(paths: RunPaths) -> list[str]:
    return list(json.loads(storage.read_text(paths.tables))) if storage.exists(paths.tables) else []


def _add_index(facts: RunFacts) -> None:
    facts.index = _part(facts, IndexFacts, f"{facts.paths.folder}/{INDEX}", "indexes and their recall", "index_items")
    items = facts.items
    if facts.index is not None and items is not None and facts.index.version != items.manifest.version:
        facts.warnings.append(
            f"The indexes hold version {facts.index.version}, but {items.manifest.version} is published: "
            "run index_items again."
        )


_Model = TypeVar("_Model", bound=BaseModel)


def _part(facts: RunFacts, model: type[_Model], path: str, what: str, job: str) -> _Model | None:
    """Reads a JSON file as a model; where that fails, the part is missing."""
    return _read(facts, model.model_validate_json, path, what, job)


def _json(facts: RunFacts, path: str, what: str, job: str) -> dict[str, Any] | None:
    def parsed(content: bytes) -> dict[str, Any]:
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("expected an object")  # noqa: TRY004  (what the caller takes for damage)
        return found

    return _read(facts, parsed, path, what, job)


_Parsed = TypeVar("_Parsed")


def _read(facts: RunFacts, parsed: Callable[[bytes], _Parsed], path: str, what: str, job: str) -> _Parsed | None:
    if not storage.exists(path):
        facts.missing.append(Missing(what, job, "it has not run", to_come=True))
        return None
    try:
        return parsed(storage.read_bytes(path))
    except ValueError as error:
        facts.missing.append(Missing(what, job, f"{path} can't be read ({str(error).splitlines()[0]})"))
        return None
