"""Checks of features, and of names and places, that need no more of the settings than themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import fsspec

from dssm.encoders import Ordered
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat, embedded, of_side
from dssm.sections import Counter, VectorTable


def packed_width(feature: AnyFeature, vectors: Mapping[str, VectorTable]) -> int:
    """Returns the numbers in each value of a feature's packed columns (`manifest.encoded_columns`), 0 without one."""
    if isinstance(feature, VarLenSparseFeat):
        return feature.maxlen
    if not isinstance(feature, DenseFeat) or feature.pre_embed is None:
        return 0
    table = vectors[feature.pre_embed]
    if table.storage == "inline":
        return table.width
    return 0 if feature.reduce_type == "none" else feature.maxlen or 0


def rows_that_fit(row_bytes: int) -> int:
    """Returns the largest rows_per_file whose files' packed columns stay below 2³¹ bytes.

    A file's rows r are drawn, with a deviation of at most √r: room is left for eight of these.

    >>> rows_that_fit(768 * 4)
    692393
    """
    most = (2**31 - 1) // row_bytes
    return max(1, int((math.sqrt(most + 16) - 4) ** 2))  # r + 8√r = most


def check_file_system(key: str, path: str) -> None:
    """Checks that the job's own files can be written with fsspec; Spark's inputs may lie anywhere."""
    scheme, is_url, _ = path.partition("://")
    if is_url:
        try:
            fsspec.get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise UserError(f"{key}: '{path}' is on no known file system ({error})") from error


def check_names(section: str, names: Iterable[str]) -> None:
    """Checks the names that become parts of columns and files.

    Raises: UserError that names the key.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
            hint = " (the log's own column name goes into 'column')" if section == "features" else ""
            raise UserError(
                f"{section}.{name}: not a name; expected letters, digits and single underscores, a letter first{hint}"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"{section}.{name}: differs from '{other}' only by case, which Spark's columns don't know; rename one"
            )


def check_features(features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable]) -> None:
    """Checks the references between features and vectors.

    Raises: UserError that names the key, what was found and what would fit.
    """
    if "row" in features:
        raise UserError(
            "features.row: the name is taken; expected another (the log's own column name goes into 'column')"
        )
    with_table = {feature.name: feature for feature in embedded(features)}
    for feature in with_table.values():
        key = f"features.{feature.name}.share_embedding"
        if feature.share_embedding is None:
            continue
        if feature.share_embedding not in features:
            raise UserError(
                f"{key}: no feature is named '{feature.share_embedding}'"
                + did_you_mean(feature.share_embedding, features)
            )
        owner = with_table.get(feature.share_embedding)
        if owner is None:
            raise UserError(f"{key}: '{feature.share_embedding}' is a DenseFeat and has no embedding")
        if owner is feature:
            raise UserError(f"{key}: names the feature itself; remove it")
        if owner.share_embedding is not None:
            raise UserError(f"{key}: '{owner.name}' itself shares '{owner.share_embedding}'; name that one")
        if feature.changed("hash_buckets"):
            raise UserError(f"features.{feature.name}.hash_buckets: the table of '{owner.name}' has its own; remove it")
        if isinstance(owner, SparseFeat) and (owner.is_bucketised or owner.time is not None):
            raise UserError(f"{key}: the ids of '{owner.name}' are buckets; name a feature of ids")
        if isinstance(feature, TextFeat) != isinstance(owner, TextFeat):
            raise UserError(f"{key}: trigrams and ids share no table; name another {feature.kind}")
        if feature.dim != owner.dim:
            raise UserError(
                f"features.{feature.name}.dim: {feature.dim}, but the table of '{owner.name}' is {owner.dim} wide; "
                f"set it to {owner.dim}"
            )
    for given in features.values():
        if isinstance(given, DenseFeat) and given.pre_embed is not None and given.pre_embed not in vectors:
            raise UserError(
                f"features.{given.name}.pre_embed: no vectors are named '{given.pre_embed}'"
                + did_you_mean(given.pre_embed, vectors)
            )
        if not isinstance(given, DenseFeat) or given.pre_embed is None or given.reduce_type == "none":
            continue
        if vectors[given.pre_embed].storage == "table" and given.maxlen is None:
            raise UserError(
                f"features.{given.name}.maxlen: vectors '{given.pre_embed}' are of storage: table, so that samples "
                "hold lists of row numbers; expected the entries to keep, such as 50"
            )
    for side in ("user", "item"):
        if not of_side(features, side):
            raise UserError(f"features: the {side} tower has none; give at least one feature with side: {side}")


def check_of_history(feature: AnyFeature, features: Mapping[str, AnyFeature]) -> None:
    """Checks a feature whose column is a history. Raises: UserError that names the key."""
    key = f"features.{feature.name}"
    if feature.side != "user":
        raise UserError(f"{key}.side: a history is the user's; expected 'user'")
    # Favourites come with the largest shares first: for them the first are the heaviest.
    favourites = isinstance(feature, VarLenSparseFeat) and feature.of is not None and feature.weighted
    if getattr(feature, "keep", "first") not in (("first", "heaviest") if favourites else ("first",)):
        raise UserError(f"{key}.keep: a history is newest first; expected keep: first")
    # With `of` it parts what is sent to the raw tower as one text.
    if hasattr(feature, "separator") and getattr(feature, "of", None) is None and feature.changed("separator"):
        raise UserError(
            f"{key}.separator: found {feature.separator!r}, but a history is a list of items, and no text that it "
            "parts; remove it"
        )
    encoder = getattr(feature, "encoder", None)
    if isinstance(encoder, Ordered) and encoder.order != "newest_first" and not favourites:
        raise UserError(f"{key}.encoder.order: found {encoder.order}, but a history is newest first; remove it")
    if isinstance(feature, VarLenSparseFeat) and feature.of is not None:
        counted = features.get(feature.of)
        if counted is None or counted.side != "item":
            items = [f.name for f in of_side(features, "item")]
            raise UserError(f"{key}.of: no item feature is named '{feature.of}'" + did_you_mean(feature.of, items))
        if isinstance(counted, (DenseFeat, TextFeat)):
            raise UserError(f"{key}.of: '{feature.of}' is a {counted.kind} and has no ids to list")
        if isinstance(counted, SparseFeat) and counted.is_bucketised:
            raise UserError(
                f"{key}.of: the ids of '{feature.of}' are the buckets of a number, whose table can't be shared; "
                "expected an item feature of ids"
            )
        if feature.share_embedding != counted.vocabulary:
            raise UserError(
                f"{key}.share_embedding: found {feature.share_embedding!r}, but the ids are those of '{feature.of}'; "
                f"set it to {counted.vocabulary}"
            )
        return
    is_list = isinstance(feature, VarLenSparseFeat) or (
        isinstance(feature, DenseFeat) and feature.pre_embed is not None and feature.reduce_type != "none"
    )
    if not is_list or isinstance(feature, TextFeat) or getattr(feature, "weighted", False):
        raise UserError(
            f"{key}.column: '{feature.source_column}' is a history, a list without weights; "
            "expected a VarLenSparseFeat without weights or with 'of', or a DenseFeat with pre_embed and a reduce_type"
        )


def check_of_counter(feature: AnyFeature, counter: Counter) -> None:
    """Checks a feature whose column is a counter. Raises: UserError that names the key."""
    key = f"features.{feature.name}"
    if feature.side != counter.side:
        raise UserError(f"{key}.side: the counter '{feature.source_column}' is the {counter.side}'s; set it to that")
    is_number = isinstance(feature, DenseFeat) and feature.is_number and feature.time is None
    if not is_number or getattr(feature, "transform", "") in ("minmax", "standard"):
        raise UserError(
            f"{key}.column: '{feature.source_column}' is a counter, a number that changes with each event; "
            "expected a DenseFeat with transform raw or log1p"
        )
    if isinstance(feature, DenseFeat) and feature.null is not None:
        raise UserError(f"{key}.null: found {feature.null:g}, but a counter is 0 or its prior, never null; remove it")
