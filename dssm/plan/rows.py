"""Bytes of a row: in the samples' files, and on the wire while they are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dssm.config import Settings
from dssm.features import AnyFeature, DenseFeat, VarLenSparseFeat, of_side
from dssm.manifest import ColumnSpec, encoded_columns, negative_columns, negatives_column
from dssm.plan.constants import Parquet

WORD = 4  # bytes of a number between the tasks
ID_BYTES = 12  # of a user's id as text, with its length
# Beside the targets: keys and times of 8 bytes, codes, labels and weights of 4; see dssm.samples.pass_columns.
EVENT_BYTES = ID_BYTES + 3 * 8 + 6 * WORD + 1
SAMPLE_BYTES = ID_BYTES + 3 * 8 + 6 * WORD
PAIR_BYTES = 4 * 3 + 8


def column_kind(name: str, spec: ColumnSpec, features: Mapping[str, AnyFeature]) -> str | None:
    """Returns which constant of `Parquet` says what a number of a feature's column takes; None of another column."""
    feature = features.get(name)
    if feature is None:
        weights = {f.weight_name for f in features.values() if isinstance(f, VarLenSparseFeat) and f.weighted}
        changing = {negatives_column(f) for f in features}
        return "list_number" if name in weights | changing else None
    if spec.dtype == "int32":
        return "list_id" if spec.shape else "id"
    return "vector" if isinstance(feature, DenseFeat) and feature.pre_embed is not None else "number"


def numbers_of(spec: ColumnSpec) -> int:
    return spec.shape[0] if spec.shape else 1


def features_bytes(settings: Settings, features: Iterable[AnyFeature], parquet: Parquet) -> float:
    """Returns the bytes of a row's features in a file."""
    found = 0.0
    for feature in features:
        for name, spec in encoded_columns(feature, settings.vectors).items():
            kind = column_kind(name, spec, settings.features)
            assert kind is not None
            found += numbers_of(spec) * float(getattr(parquet, kind))
    return found


def sample_bytes(settings: Settings, parquet: Parquet, part: str = "train") -> float:
    """Returns the bytes of a sample in a file."""
    found = parquet.sample_row + features_bytes(settings, settings.features.values(), parquet)
    found += parquet.number * len(settings.target_names)
    if part == "train":
        drawn = negative_columns(settings.samples.negatives, settings.features, settings.counters)
        found += sum(
            numbers_of(spec) * (parquet.list_id if spec.dtype == "int32" else parquet.list_number)
            for spec in drawn.values()
        )
    return found


def user_bytes(settings: Settings, parquet: Parquet) -> float:
    return parquet.user_row + features_bytes(settings, of_side(settings.features, "user"), parquet)


def item_bytes(settings: Settings, parquet: Parquet) -> float:
    return parquet.item_row + features_bytes(settings, of_side(settings.features, "item"), parquet)


def event_wire_bytes(settings: Settings) -> int:
    """Returns the bytes of an event on its way to its user."""
    return EVENT_BYTES + WORD * len(settings.target_names)


def item_wire_bytes(settings: Settings) -> int:
    """Returns the bytes of an encoded item on its way to its file, and of its pretrained vectors to theirs."""
    features = of_side(settings.features, "item")
    numbers = sum(numbers_of(s) for f in features for s in encoded_columns(f, settings.vectors).values())
    return SAMPLE_BYTES + WORD * (numbers + sum(table.width for table in settings.vectors.values()))


def sample_wire_bytes(settings: Settings) -> int:
    """Returns the bytes of a sample on its way to its file, at most: histories travel as places in the catalogue, what
    profiles say is encoded, and the item's columns are looked up behind the shuffle.
    """
    histories = sum(history.last for history in settings.histories.values())
    words = sum(
        numbers_of(spec)
        for feature in of_side(settings.features, "user")
        if feature.source_column not in settings.histories
        for spec in encoded_columns(feature, settings.vectors).values()
    )
    negatives = 2 * sum(kind.count for kind in settings.samples.negatives.values())
    numbers = histories + words + negatives + len(settings.target_names)
    return SAMPLE_BYTES + WORD * numbers


def wire_bytes(settings: Settings, events: int, samples: int, pairs: int, items: int) -> int:
    """Returns the bytes of all rows on their ways between tasks, before they are compressed."""
    return (
        events * event_wire_bytes(settings)
        + samples * sample_wire_bytes(settings)
        + pairs * PAIR_BYTES
        + items * item_wire_bytes(settings)
    )
