"""The contract between the jobs: what a dataset folder holds.

A folder without `manifest.json` is not a dataset: the manifest is written last.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dssm import storage
from dssm.config import MADE, Settings
from dssm.errors import UserError
from dssm.features import AnyFeature, DenseFeat, SparseFeat, VarLenSparseFeat
from dssm.sections import Negatives, VectorTable

SCHEMA_VERSION = 2
MANIFEST, SETTINGS = "manifest.json", "settings.json"

# Columns of the rows beside the features; no feature can have such a name. The keys are 64-bit
# hashes of the ids: equal ids, equal keys.
USER_ID, ITEM_ID, EVENT_TIME, SOURCE = "row__user_id", "row__item_id", "row__time", "row__source"
USER_KEY, ITEM_KEY = "row__user_key", "row__item_key"
LABEL, WEIGHT = "row__label", "row__weight"
ITEM_INDEX = "row__item_index"  # place of the item in the catalogue, by item id
ITEM_PROBABILITY = "row__item_probability"  # the item's share of the training rows
ITEM_ROWS = "row__item_rows"  # training rows of the item of a weight above 0, whatever their label
ITEM_POSITIVES = "row__item_positives"  # training positives of the item: its popularity
ITEM_TITLE = "row__title"  # names an item for people, where catalogue.title is set; else there is no such column
UPLOAD_TIME = "row__upload_time"  # Unix ms from which the item exists; ALWAYS where it was there before all events
ALWAYS = -(2**62)
WARM = "row__warm"  # 1 where the user has an event before the test window
CLICKED = "row__clicked"  # item indexes of the user's positives in the test window
SEEN = "row__seen"  # item indexes that the user has an event with before the test window, ascending
POSITIVE, LAST_TIME = "row__positive", "row__last_time"  # beside SEEN: whether one had a positive label; the newest
NEGATIVES = "row__negatives"  # item indexes of the positive's sampled negatives, kind after kind; −1: none was found
NEGATIVE_PROBABILITY = "row__negative_probability"  # chance of each to be drawn; 0 where none was
TARGETS = "row__targets"  # beside SEEN: positives of the tested sources: popularity is of what is to be predicted


NO_ITEM = -1

ListKind = Literal["text", "array"]  # of a column of lists: only a text is parted at the feature's separator


def target_column(name: str) -> str:
    """Name of the column of a further label, scaled to 0…1; NaN where it is not known."""
    return f"row__target_{name}"


def negatives_column(name: str) -> str:
    """Name of the column with the sampled negatives' values of an item feature that changes with the event's time."""
    return f"{name}__negatives"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnSpec(_Frozen):
    """How a column is stored.

    scalar: one number a row · packed: little-endian binary of fixed width, `shape` numbers a row ·
    text: a string · list: a Parquet list.
    """

    dtype: Literal["int32", "int64", "float32", "string"]
    shape: tuple[int, ...] = ()
    encoding: Literal["scalar", "packed", "text", "list"] = "scalar"

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")


class VocabularySpec(_Frozen):
    """The ids of a feature: tokens in a file, hash buckets, a number's buckets, or hours and weekdays."""

    size: int = Field(description="Number of ids, padding and unknown included.")
    digest: str
    rule: Literal["tokens", "hash", "buckets", "time"] = "tokens"

    @property
    def in_words(self) -> str:
        """What the ids are, for messages."""
        kinds = {"tokens": "tokens", "hash": "hash buckets", "buckets": "buckets of a number", "time": "hours or days"}
        return f"{self.size:,} ids of {kinds[self.rule]}"


class Statistics(_Frozen):
    """Of a number over the training window's events that have one."""

    events: int
    mean: float
    deviation: float
    minimum: float
    maximum: float
    boundaries: tuple[float, ...] = Field((), description="Of its quantiles, where a SparseFeat asks for them.")


class FileSpec(_Frozen):
    name: str
    rows: int
    sha256: str | None = Field(None, description="Of the file's bytes; none in datasets written before it was kept.")


class SourceCounts(_Frozen):
    """What became of a table's rows: rows_read = Σ used + Σ filtered + Σ quarantined."""

    place: str
    rows_read: int
    used: dict[str, int] = Field(default_factory=dict)
    filtered: dict[str, int] = Field(default_factory=dict)
    quarantined: dict[str, int] = Field(default_factory=dict)
    missing_days: list[str] = Field(default_factory=list)


class JoinCounts(_Frozen):
    """What a join did: every row of `rows` stays, `matched` of them found a partner."""

    name: str
    rows: int
    matched: int


class NullCounts(_Frozen):
    """Rows of the table that a feature's column is of, and those that have nothing there."""

    rows: int
    nulls: int


class Manifest(_Frozen):
    schema_version: int = SCHEMA_VERSION
    kind: str
    date: str
    build: str = Field(description="Equal in all folders that one run of build_samples wrote.")
    seed: int
    columns: dict[str, ColumnSpec] = Field(default_factory=dict)
    vocabularies: dict[str, VocabularySpec] = Field(default_factory=dict)
    statistics: dict[str, Statistics] = Field(default_factory=dict, description="By feature.")
    lists: dict[str, ListKind] = Field(
        default_factory=dict, description="Of the columns of lists, by feature; empty before it was kept."
    )
    files: list[FileSpec] = Field(default_factory=list)
    sources: dict[str, SourceCounts] = Field(default_factory=dict)
    joins: list[JoinCounts] = Field(default_factory=list)
    nulls: dict[str, NullCounts] = Field(
        default_factory=dict, description="Of features read from profiles and catalogue; empty before it was kept."
    )
    negatives: dict[str, Negatives] = Field(default_factory=dict, description="Kinds of `NEGATIVES`, in their order.")
    users: Literal["window", "all"] | None = Field(None, description="samples.users, in the dataset of users.")
    vocabularies_of: str | None = Field(None, description="Build of the run whose vocabularies were taken.")

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


_Model = TypeVar("_Model", bound=BaseModel)


def write_manifest(folder: str, manifest: Manifest) -> None:
    storage.write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1) + "\n")


def read_manifest(folder: str, made_by: str) -> Manifest:
    """Reads the manifest of a dataset folder.

    Args:
      folder: the dataset.
      made_by: name of the job that writes it, for the message.
    Raises: UserError where there is none, or one of another schema.
    """
    return load_versioned(Manifest, folder, "a finished dataset", made_by)


def write_settings(folder: str, settings: Settings) -> None:
    """Writes what samples were made with. Spark's own settings, which may hold secrets, are left out."""
    storage.write_text(f"{folder}/{SETTINGS}", settings.model_dump_json(indent=1, exclude={"spark"}) + "\n")


def read_settings(folder: str, made_by: str) -> Settings:
    """Reads what samples were made with; see `read_manifest`.

    Raises: UserError where there is no such file, or one of another version of the settings.
    """
    path = f"{folder}/{SETTINGS}"
    if not storage.exists(path):
        raise UserError(f"{path}: not found; without it the samples can't be decoded: run {made_by} again")
    try:
        return Settings.model_validate_json(storage.read_bytes(path), context=MADE)
    except (ValidationError, UserError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f"{path}: settings of another version ({reason}); run {made_by} again") from error


def load_versioned(model: type[_Model], folder: str, what: str, made_by: str) -> _Model:
    """Reads a folder's manifest.json as a model that has a schema_version.

    Args:
      what: what the folder should hold, and `made_by`: the job that writes it, for the message.
    Raises: UserError where there is none, or one of another schema.
    """
    path = f"{folder}/{MANIFEST}"
    try:
        content = storage.read_replaced(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; expected {what}: run {made_by} for this date first") from error
    version = _parsed(_Version, content, path, made_by).schema_version  # first: another version may have other keys
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; run {made_by} again")
    return _parsed(model, content, path, made_by)


class _Version(BaseModel):
    schema_version: int = SCHEMA_VERSION


def _parsed(model: type[_Model], content: bytes, path: str, made_by: str) -> _Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place or 'content'}: {first['msg']}; run {made_by} again") from error


def encoded_columns(feature: AnyFeature, vectors: Mapping[str, VectorTable]) -> dict[str, ColumnSpec]:
    """Returns the columns that a feature is stored in.

    Args:
      feature: the feature.
      vectors: the tables of pretrained vectors, by name.
    """
    if isinstance(feature, SparseFeat):
        return {feature.name: ColumnSpec(dtype="int32")}
    if isinstance(feature, VarLenSparseFeat):
        columns = {feature.name: ColumnSpec(dtype="int32", shape=(feature.maxlen,), encoding="packed")}
        if feature.weighted:
            columns[feature.weight_name] = ColumnSpec(dtype="float32", shape=(feature.maxlen,), encoding="packed")
        return columns
    if feature.pre_embed is None:
        return {feature.name: ColumnSpec(dtype="float32")}
    table = vectors[feature.pre_embed]
    if table.storage == "inline":
        return {feature.name: ColumnSpec(dtype="float32", shape=(table.width,), encoding="packed")}
    # Row numbers of the frozen table, from 1; 0 is no vector.
    if feature.reduce_type == "none":
        return {feature.name: ColumnSpec(dtype="int32")}
    assert feature.maxlen is not None  # the settings' checks ask for it
    return {feature.name: ColumnSpec(dtype="int32", shape=(feature.maxlen,), encoding="packed")}


def negative_columns(
    negatives: Mapping[str, Negatives], features: Mapping[str, AnyFeature], counters: Container[str]
) -> dict[str, ColumnSpec]:
    """Returns the columns of the sampled negatives of a training row.

    An item feature that changes with the event's time (an item's counter, the days since its upload) has its
    values for the negatives beside the row; the others are looked up in the encoded catalogue.
    """
    count = sum(kind.count for kind in negatives.values())
    if count == 0:
        return {}
    packed = ColumnSpec(dtype="float32", shape=(count,), encoding="packed")
    columns = {NEGATIVES: packed.model_copy(update={"dtype": "int32"}), NEGATIVE_PROBABILITY: packed}
    return columns | {negatives_column(f.name): packed for f in changing_item_features(features, counters)}


def changing_item_features(features: Mapping[str, AnyFeature], counters: Container[str]) -> list[DenseFeat]:
    """Returns the item features that depend on the event's time, in the order of the settings."""
    return [
        f
        for f in features.values()
        if isinstance(f, DenseFeat) and f.side == "item" and (f.time is not None or f.source_column in counters)
    ]


def data_files(folder: str, manifest: Manifest) -> list[str]:
    """Returns the paths of a dataset's files: the folder also holds the manifest, which is no Parquet."""
    return [f"{folder}/{file.name}" for file in manifest.files]


def check_columns(manifest: Manifest, expected: Mapping[str, ColumnSpec], folder: str) -> None:
    """Checks that a dataset holds the columns that the settings ask for.

    Raises: UserError that names the first column that differs.
    """
    for name, spec in expected.items():
        found = manifest.columns.get(name)
        if found != spec:
            shown = "none" if found is None else f"{found.dtype}{list(found.shape)} {found.encoding}"
            raise UserError(
                f"{folder}: column '{name}': found {shown}, the settings expect "
                f"{spec.dtype}{list(spec.shape)} {spec.encoding}; run build_samples again with these settings"
            )
