"""What a raw tower asks a service for: an input a feature, in the form that the service has it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from dssm.features import AnyFeature, DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.model.raw.lookup import any_token_holds
from dssm.samples.lookup_tables import Tables
from dssm.sections import History


class RawInput(BaseModel):
    """An input: `says` tells what to send, and what for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["string", "float64", "int64"]
    is_list: bool = False
    says: str

    @property
    def spec(self) -> tf.TensorSpec:
        """(batch,), or for a list (batch, entries)."""
        return tf.TensorSpec([None, None] if self.is_list else [None], self.dtype)


def raw_inputs(features: Sequence[AnyFeature], histories: Mapping[str, History], tables: Tables) -> dict[str, RawInput]:
    """Returns the inputs of some features, in their order.

    Args:
      features: of one tower.
      histories: by name; a feature of such a column takes item ids.
      tables: what ids are looked up in.
    """
    inputs: dict[str, RawInput] = {}
    for feature in features:
        if isinstance(feature, SparseFeat):
            inputs[feature.name] = _of_one_id(feature)
        elif isinstance(feature, TextFeat):
            inputs[feature.name] = RawInput(dtype="string", says='a text; "" for none')
        elif isinstance(feature, VarLenSparseFeat):
            inputs |= _of_list(feature, histories, tables)
        elif feature.pre_embed is None:
            inputs[feature.name] = RawInput(dtype="float64", says=f"{_number_of(feature)}; NaN for null")
        elif feature.reduce_type == "none":
            inputs[feature.name] = RawInput(
                dtype="string", says=f'an id of the vectors {feature.pre_embed}; "" for none'
            )
        else:
            says = f"ids of the vectors {feature.pre_embed}{_form(entry_separator(feature, histories, tables))}"
            inputs[feature.name] = RawInput(dtype="string", is_list=True, says=says)
    return inputs


def entry_separator(
    feature: VarLenSparseFeat | DenseFeat, histories: Mapping[str, History], tables: Tables
) -> str | None:
    """Returns what parts the entries of a list's input; None: they are taken as they are.

    A column of text and one of arrays are the same to a feature: `tables.lists` tells them apart. Ids of a history,
    of an array and of a list with weights apart are sent one by one. Where nothing tells, as of a SparseFeat's ids
    that `of` lists, so are ids where one that is known holds the separator: it can't be from a text.
    """
    of = getattr(feature, "of", None)
    kind = tables.lists.get(of or feature.name)
    apart = isinstance(feature, VarLenSparseFeat) and feature.weight_column is not None
    if apart or kind == "array" or is_history(feature, histories):
        return None
    if kind == "text" and of is None:
        return feature.separator
    if isinstance(feature, DenseFeat):
        assert feature.pre_embed is not None
        known = tables.vectors[feature.pre_embed].ids
    else:
        known = tables.vocabularies.get(feature.vocabulary)
    return None if known is not None and any_token_holds(known, feature.separator) else feature.separator


def is_history(feature: AnyFeature, histories: Mapping[str, History]) -> bool:
    """Whether the feature's input is the item ids of a history: with `of` it is those of another feature."""
    return feature.source_column in histories and getattr(feature, "of", None) is None


def _of_one_id(feature: SparseFeat) -> RawInput:
    if feature.is_bucketised:
        return RawInput(dtype="float64", says="a number; NaN for null")
    if feature.time == "hour":
        return RawInput(dtype="int64", says="the request's hour, 0 to 23, in the pipeline's time zone")
    if feature.time == "weekday":
        says = "the request's weekday, 0 (Monday) to 6, in the pipeline's time zone"
        return RawInput(dtype="int64", says=says)
    return RawInput(dtype="string", says='an id; "" for none')


def _number_of(feature: DenseFeat) -> str:
    return "days since the item's upload" if feature.time is not None else "a number"


def _of_list(feature: VarLenSparseFeat, histories: Mapping[str, History], tables: Tables) -> dict[str, RawInput]:
    form = _form(entry_separator(feature, histories, tables))
    if is_history(feature, histories):
        says = f"item ids, the newest first{form}"
    elif feature.of is not None and feature.weighted:
        says = f"id:count of the ids of '{feature.of}' of the history's items{form}"
    elif feature.of is not None:
        says = f"ids of '{feature.of}' of the history's items, the newest first{form}"
    elif feature.weighted and feature.weight_column is None:
        says = f"entries id:weight{form}"
    else:
        says = f"ids{form}"
    inputs = {feature.name: RawInput(dtype="string", is_list=True, says=says)}
    if feature.weight_column is not None:
        says = f"weights of the ids of {feature.name}, in their order; NaN for null"
        inputs[feature.weight_name] = RawInput(dtype="float64", is_list=True, says=says)
    return inputs


def _form(separator: str | None) -> str:
    if separator is None:
        return ', one a place; "" fills a row up'
    return f', one a place or as one text with {separator!r} between; "" fills a row up'
