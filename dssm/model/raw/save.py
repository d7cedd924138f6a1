"""Towers as SavedModels that take what a service has: texts, lists and numbers as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from dssm.config import Settings
from dssm.features import (
    FIRST_TOKEN_ID,
    AnyFeature,
    DenseFeat,
    Side,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    of_side,
)
from dssm.manifest import Manifest
from dssm.model.export import named_outputs, raw_tensors, save_function
from dssm.model.raw.encoder import RawEncoder
from dssm.model.raw.inputs import RawInput
from dssm.paths import vectors_path, vocabulary_path
from dssm.samples.lookup_tables import Tables
from dssm.samples.lookups import load_tokens, load_vectors

EXAMPLE_ENTRIES = 2  # of a list
EXAMPLE_HOUR, EXAMPLE_WEEKDAY = 20, 5


class RawTower(BaseModel):
    """What a raw tower takes, and an example: a row as it is sent, and the same row encoded.

    The example is made of the most frequent values, and of made-up words in the place of users' ids, so that it is no
    person's row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[str, RawInput]
    example: dict[str, Any]
    encoded: dict[str, Any]


def save_raw_tower(
    tower: tf.keras.Model, side: Side, settings: Settings, manifest: Manifest, samples_folder: str, folder: str
) -> RawTower:
    """Writes a SavedModel with the signature `serving_default`: raw inputs → the outputs of `save_tower`.

    Its assets are the vocabularies and the pretrained vectors' ids, as text files, and `inputs.json`: what the inputs
    are, and the statistics that the graph has as constants. Pretrained vectors of storage: inline are variables.

    Args:
      tower: from encoded columns to {objective: (batch, width)}.
      side: of the tower.
      settings: of the run.
      manifest: of its train samples.
      samples_folder: with `vocabularies` and `vectors`.
      folder: a local one, to write to.
    """
    features = of_side(settings.features, side)
    tables = lookup_tables(settings, features, manifest, samples_folder)
    shares = {name: objective.share for name, objective in settings.model.all_objectives.items()}
    with tempfile.TemporaryDirectory(prefix="dssm-tokens-") as scratch:
        encoder = RawEncoder(features, settings.histories, settings.vectors, tables, scratch)

        def serve(raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return named_outputs(tower(encoder(raw), training=False), shares)

        specs = {name: given.spec for name, given in encoder.inputs.items()}
        save_function(serve, specs, [encoder, *tower.variables], folder)
        example = example_row(features, without_users(settings, tables), encoder.inputs)
        encoded = encoder(raw_tensors(specs, [example]))
    row = {name: values[0].numpy().tolist() for name, values in encoded.items()}
    return RawTower(inputs=encoder.inputs, example=example, encoded=row)


def lookup_tables(
    settings: Settings, features: Sequence[AnyFeature], manifest: Manifest, samples_folder: str
) -> Tables:
    """Reads what the features' ids and numbers are looked up in."""
    specs = manifest.vocabularies
    used = {f.vocabulary for f in features if isinstance(f, (SparseFeat, VarLenSparseFeat))}
    vectors = {f.pre_embed for f in features if isinstance(f, DenseFeat) and f.pre_embed is not None}
    return Tables(
        vocabularies={
            name: load_tokens(vocabulary_path(samples_folder, name)) for name in used if specs[name].rule == "tokens"
        },
        buckets={name: specs[name].size - FIRST_TOKEN_ID for name in used if specs[name].rule == "hash"},
        statistics=manifest.statistics,
        lists=manifest.lists,
        vectors={name: load_vectors(vectors_path(samples_folder, name)) for name in vectors},
        storage={name: table.storage for name, table in settings.vectors.items()},
    )


def without_users(settings: Settings, tables: Tables) -> Tables:
    """Returns the tables without those of users' ids, whichever feature looks something up there."""
    of_users = [f for f in of_side(settings.features, "user") if f.source_column in settings.user_keys]
    vocabularies = {f.vocabulary for f in of_users if not isinstance(f, DenseFeat)}
    vectors = {f.pre_embed for f in of_users if isinstance(f, DenseFeat)}
    return replace(
        tables,
        vocabularies={name: tokens for name, tokens in tables.vocabularies.items() if name not in vocabularies},
        vectors={name: table for name, table in tables.vectors.items() if name not in vectors},
    )


def example_row(features: Sequence[AnyFeature], tables: Tables, inputs: Mapping[str, RawInput]) -> dict[str, Any]:
    """Returns a row of raw inputs: the most frequent ids, the mean of a number; made-up ids of what has no table."""
    row: dict[str, Any] = {}
    for feature in features:
        if isinstance(feature, SparseFeat):
            row[feature.name] = _example_id(feature, tables)
        elif isinstance(feature, TextFeat):
            row[feature.name] = "an example"
        elif isinstance(feature, VarLenSparseFeat):
            ids = _frequent(tables.vocabularies.get(feature.vocabulary))
            parted = feature.weighted and feature.weight_column is None
            row[feature.name] = [f"{token}:{1 / place:g}" for place, token in enumerate(ids, 1)] if parted else ids
            if feature.weight_column is not None:
                row[feature.weight_name] = [1 / place for place in range(1, len(ids) + 1)]
        elif feature.pre_embed is not None:
            vectors = tables.vectors.get(feature.pre_embed)
            ids = _frequent(None if vectors is None else vectors.ids)
            row[feature.name] = ids if inputs[feature.name].is_list else (ids or [""])[0]
        else:
            row[feature.name] = _example_number(feature.name, tables)
    return row


def _example_id(feature: SparseFeat, tables: Tables) -> Any:
    if feature.time is not None:
        return EXAMPLE_HOUR if feature.time == "hour" else EXAMPLE_WEEKDAY
    if feature.is_bucketised:
        return feature.boundaries[0] if feature.boundaries else _example_number(feature.name, tables)
    return (_frequent(tables.vocabularies.get(feature.vocabulary)) or [""])[0]


def _example_number(name: str, tables: Tables) -> float:
    return float(f"{tables.statistics[name].mean:.4g}") if name in tables.statistics else 1.0


def _frequent(tokens: pa.StringArray | None) -> list[str]:
    """Returns the first tokens of a vocabulary, which are the most frequent; made-up ones where there is none."""
    if tokens is None:
        return [f"example{place}" for place in range(1, EXAMPLE_ENTRIES + 1)]
    return tokens.slice(0, EXAMPLE_ENTRIES).to_pylist()
