"""The columns of each dataset of a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dssm.config import Settings
from dssm.features import AnyFeature, of_side
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_POSITIVES,
    ITEM_PROBABILITY,
    ITEM_ROWS,
    ITEM_TITLE,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SEEN,
    SOURCE,
    TARGETS,
    UPLOAD_TIME,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    encoded_columns,
    negative_columns,
    target_column,
)
from dssm.samples.lookups import group_column, groups_of

NUMBER, TEXT = ColumnSpec(dtype="float32"), ColumnSpec(dtype="string", encoding="text")
KEY = ColumnSpec(dtype="int64")
INDEX_LIST = ColumnSpec(dtype="int32", encoding="list")
SAMPLE_COLUMNS = {
    USER_ID: TEXT,
    ITEM_ID: TEXT,
    EVENT_TIME: KEY,
    SOURCE: TEXT,
    USER_KEY: KEY,
    ITEM_KEY: KEY,
    LABEL: NUMBER,
    WEIGHT: NUMBER,
    ITEM_PROBABILITY: NUMBER,
}
USER_COLUMNS = {USER_ID: TEXT, WARM: ColumnSpec(dtype="int32"), CLICKED: INDEX_LIST}
INTERACTION_COLUMNS = {
    USER_ID: TEXT,
    SEEN: INDEX_LIST,
    POSITIVE: INDEX_LIST,
    TARGETS: INDEX_LIST,
    LAST_TIME: ColumnSpec(dtype="int64", encoding="list"),
}

Dataset = tuple[Mapping[str, ColumnSpec], list[FileSpec]]
"""Its columns and files."""


def feature_columns(settings: Settings, features: Sequence[AnyFeature]) -> dict[str, ColumnSpec]:
    return {name: spec for f in features for name, spec in encoded_columns(f, settings.vectors).items()}


def item_columns(settings: Settings) -> dict[str, ColumnSpec]:
    """Returns the columns of the items' dataset."""
    return {
        ITEM_ID: TEXT,
        **({ITEM_TITLE: TEXT} if settings.catalogue.title is not None else {}),
        ITEM_INDEX: ColumnSpec(dtype="int32"),
        ITEM_KEY: KEY,
        ITEM_PROBABILITY: NUMBER,
        ITEM_ROWS: KEY,
        ITEM_POSITIVES: KEY,
        UPLOAD_TIME: KEY,
        **{group_column(name): KEY for name in groups_of(settings.samples.negatives)},
        **feature_columns(settings, of_side(settings.features, "item")),
    }


def sample_columns(settings: Settings) -> dict[str, dict[str, ColumnSpec]]:
    """Returns the columns of each dataset that the user pass makes."""
    users = feature_columns(settings, of_side(settings.features, "user"))
    features = feature_columns(settings, list(settings.features.values()))
    targets = {target_column(name): NUMBER for name in settings.target_names}
    samples = {**SAMPLE_COLUMNS, **targets, **features}
    drawn = negative_columns(settings.samples.negatives, settings.features, settings.counters)
    return {
        "train": {**samples, **drawn},
        "test": samples,
        "users": {**USER_COLUMNS, **users},
        "interactions": INTERACTION_COLUMNS,
    }
