"""The contract between the jobs: what a dataset folder holds.

A folder without `manifest.json` is not a dataset: the manifest is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dssm import storage
from dssm.errors import UserError
from dssm.features import AnyFeature, SparseFeat, VarLenSparseFeat

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

# Columns of the rows beside the features; no feature can have such a name. The keys are 64-bit
# hashes of the ids: equal ids, equal keys.
USER_ID, ITEM_ID, EVENT_TIME, SOURCE = "row__user_id", "row__item_id", "row__time", "row__source"
USER_KEY, ITEM_KEY = "row__user_key", "row__item_key"
LABEL, WEIGHT = "row__label", "row__weight"
ITEM_INDEX = "row__item_index"  # place of the item in the catalogue, by item id
ITEM_PROBABILITY = "row__item_probability"  # the item's share of the training rows
WARM = "row__warm"  # 1 where the user has an event before the test window
CLICKED = "row__clicked"  # item indexes of the user's positives in the test window
POSITIVE, LAST_TIME = "row__positive", "row__last_time"
TARGETS = "row__targets"  # positives of the sources that are tested on: popularity counts what is to be predicted


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
    size: int = Field(description="Number of ids, padding and unknown included.")
    digest: str


class FileSpec(_Frozen):
    name: str
    rows: int


class SourceCounts(_Frozen):
    """What became of a table's rows: rows_read = Σ used + Σ filtered + Σ quarantined."""

    place: str
    rows_read: int
    used: dict[str, int] = Field(default_factory=dict)
    filtered: dict[str, int] = Field(default_factory=dict)
    quarantined: dict[str, int] = Field(default_factory=dict)
    missing_days: list[str] = Field(default_factory=list)


class Manifest(_Frozen):
    schema_version: int = SCHEMA_VERSION
    kind: str
    date: str
    build: str = Field(description="Equal in all folders that one run of build_samples wrote.")
    seed: int
    columns: dict[str, ColumnSpec] = Field(default_factory=dict)
    vocabularies: dict[str, VocabularySpec] = Field(default_factory=dict)
    files: list[FileSpec] = Field(default_factory=list)
    sources: dict[str, SourceCounts] = Field(default_factory=dict)

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


def load_versioned(model: type[_Model], folder: str, what: str, made_by: str) -> _Model:
    """Reads a folder's manifest.json as a model that has a schema_version.

    Args:
      what: what the folder should hold, and `made_by`: the job that writes it, for the message.
    Raises: UserError where there is none, or one of another schema.
    """
    path = f"{folder}/{MANIFEST}"
    if not storage.exists(path):
        raise UserError(f"{path}: not found; expected {what}: run {made_by} for this date first")
    content = storage.read_bytes(path)
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


def encoded_columns(feature: AnyFeature, vector_widths: Mapping[str, int]) -> dict[str, ColumnSpec]:
    """Returns the columns that a feature is stored in.

    Args:
      feature: the feature.
      vector_widths: width of each table of pretrained vectors.
    """
    if isinstance(feature, SparseFeat):
        return {feature.name: ColumnSpec(dtype="int32")}
    if isinstance(feature, VarLenSparseFeat):
        columns = {feature.name: ColumnSpec(dtype="int32", shape=(feature.maxlen,), encoding="packed")}
        if feature.weighted:
            columns[feature.weight_name] = ColumnSpec(dtype="float32", shape=(feature.maxlen,), encoding="packed")
        return columns
    if feature.pre_embed is not None:
        width = vector_widths[feature.pre_embed]
        return {feature.name: ColumnSpec(dtype="float32", shape=(width,), encoding="packed")}
    return {feature.name: ColumnSpec(dtype="float32")}


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
