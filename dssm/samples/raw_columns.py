"""Where each raw column comes from that features read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.config import Settings
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat, of_side, takes_list
from dssm.manifest import UPLOAD_TIME, ListKind, changing_item_features
from dssm.samples.lookups import groups_of
from dssm.samples.sources import ID, need_columns, quoted
from dssm.samples.tables import VALID_FROM

RAW = "raw__"  # prefix of raw columns between join and encoding: they can't clash with our own
HISTORY, COUNTER, USER = "history", "counter", "user"  # providers of columns beside the profiles


def user_columns(settings: Settings, profiles: Mapping[str, DataFrame]) -> dict[str, str]:
    """Finds where each column that the user features and histories read comes from.

    Returns: column → `profiles.NAME`, or `history`, `counter`, or `user` for the user id itself.
    Raises: UserError where nothing has the column, or two tables have it.
    """
    ids = settings.user_keys
    of_user = [f for f in of_side(settings.features, "user") if getattr(f, "time", None) is None]
    wanted = {f"features.{f.name}.column": f.source_column for f in of_user}
    wanted |= {f"histories.{name}.then": h.then for name, h in settings.histories.items() if h.then is not None}
    providers = {}
    for key, column in wanted.items():
        found = [f"profiles.{name}" for name, profile in profiles.items() if column in profile.columns]
        if column in settings.histories:
            found = [*found, HISTORY]
        if column in settings.counters:
            found = [*found, COUNTER]
        if column in ids:
            found = [USER]
        if len(found) > 1:
            raise UserError(f"{key}: column '{column}' stands in {' and '.join(found)}; rename it in one of them")
        if not found:
            ours = (ID, VALID_FROM)
            known = {*settings.histories, *settings.counters, *ids}
            known |= {c for p in profiles.values() for c in p.columns if c not in ours}
            raise UserError(f"{key}: no profile or history has a column '{column}'" + did_you_mean(column, known))
        providers[column] = found[0]
    return providers


def check_item_columns(settings: Settings, catalogue: DataFrame) -> None:
    """Checks that the catalogue has what the item features and the grouped negatives read.

    Raises: UserError that names the key.
    """
    known = [column for column in catalogue.columns if column not in (ID, UPLOAD_TIME)]
    for feature in raw_item_features(settings):
        if feature.source_column not in known:
            raise UserError(
                f"features.{feature.name}.column: the catalogue has no column '{feature.source_column}'"
                + did_you_mean(feature.source_column, known)
            )
    title = settings.catalogue.title
    if title is not None and title not in known:
        raise UserError(f"catalogue.title: no column is named '{title}'" + did_you_mean(title, known))
    for name, column in groups_of(settings.samples.negatives).items():
        need_columns(f"samples.negatives.{name}", catalogue.select(*map(quoted, known)), {"column": column})
        group = catalogue.schema[column].dataType
        if isinstance(group, (T.ArrayType, T.MapType, T.StructType)):
            raise UserError(
                f"samples.negatives.{name}.column: '{column}' holds {group.simpleString()}; "
                "expected a column with one value an item"
            )


def raw_item_features(settings: Settings) -> list[AnyFeature]:
    """Returns the item features that are read from the catalogue: the others change with the event's time."""
    changing = {feature.name for feature in changing_item_features(settings.features, settings.counters)}
    return [feature for feature in of_side(settings.features, "item") if feature.name not in changing]


def provided_features(settings: Settings, providers: Mapping[str, str], provider: str) -> list[AnyFeature]:
    """Returns the user features whose column comes from one provider."""
    return [
        f
        for f in of_side(settings.features, "user")
        if getattr(f, "time", None) is None and providers[f.source_column] == provider
    ]


def list_kinds(
    settings: Settings, catalogue: DataFrame, profiles: Mapping[str, DataFrame], providers: Mapping[str, str]
) -> dict[str, ListKind]:
    """Returns what the columns of lists hold, by feature.

    Args:
      providers: of `user_columns`; features of a history are left out, as nothing parts its items.
    """
    of_provider = {f"profiles.{name}": profile for name, profile in profiles.items()}
    kinds: dict[str, ListKind] = {}
    for feature in filter(takes_list, settings.features.values()):
        column = feature.source_column
        frame = catalogue if feature.side == "item" else of_provider.get(providers[column])
        if frame is not None:
            kinds[feature.name] = "array" if isinstance(frame.schema[column].dataType, T.ArrayType) else "text"
    return kinds


def universe_features(settings: Settings) -> tuple[AnyFeature, ...]:
    """Returns the features of histories that go on with a profile's list: its items may lack in the catalogue.

    Of those only what a vocabulary of tokens or vectors hold has a place; to a hashed table the others are unknown.
    """
    longer = [name for name, history in settings.histories.items() if history.then is not None]
    return tuple(f for f in settings.features.values() if f.source_column in longer and getattr(f, "of", None) is None)


def as_raw(features: Sequence[AnyFeature]) -> list[Column]:
    """Returns the columns that features read, under names of their own."""
    return [quoted(column).alias(f"{RAW}{column}") for column in _raw_names(features)]


def _raw_names(features: Sequence[AnyFeature]) -> list[str]:
    columns = [f.source_column for f in features]
    columns += [f.weight_column for f in features if isinstance(f, VarLenSparseFeat) and f.weight_column is not None]
    return list(dict.fromkeys(columns))


def ids_as_text(rows: DataFrame, features: Sequence[AnyFeature]) -> DataFrame:
    """Casts the columns of single ids and texts, which may be numbers."""
    ids = [
        f.source_column
        for f in features
        if (isinstance(f, SparseFeat) and not f.is_bucketised)
        or isinstance(f, TextFeat)
        or (isinstance(f, DenseFeat) and not f.is_number and f.reduce_type == "none")
    ]
    return rows.withColumns({f"{RAW}{c}": F.col(f"`{RAW}{c}`").cast("string") for c in dict.fromkeys(ids)})
