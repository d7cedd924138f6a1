"""Faults of one key, and files that are no settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dssm.sections import Negatives
from dssm.strict import kinds_of
from tests.settings_files import (
    ABSENT,
    BCE,
    COUNTER,
    FAVOURITES,
    FEATURE,
    MINIMAL,
    NO_TOKENS,
    NUMBER,
    TEXT,
    changed,
    faults,
)

SINGLE_KEYS = {
    "an unknown key": ({"train__epoch": 2}, ["train: unknown key 'epoch' (did you mean 'epochs'?)"]),
    "an unknown section": ({"smaples": {}}, ["settings: unknown key 'smaples' (did you mean 'samples'?)"]),
    "an unknown key of a feature": (
        {"features__topic_id__dims": 8},
        ["features.topic_id: unknown key 'dims' (did you mean 'dim'?)"],
    ),
    "an unknown kind": (
        {"features__topic_id__kind": "SparsFeat"},
        ["features.topic_id.kind: found 'SparsFeat', expected the kind of the feature (did you mean 'SparseFeat'?)"],
    ),
    "no kind": (
        {"features__topic_id__kind": ABSENT},
        [
            "features.topic_id.kind: found None, expected the kind of the feature "
            "(known: SparseFeat, VarLenSparseFeat, TextFeat, DenseFeat)"
        ],
    ),
    "a feature without a side": (
        {"features__topic_id__side": ABSENT},
        ["features.topic_id.side: required, but not given"],
    ),
    "reduce_type without vectors": (
        {"features__age": {"kind": "DenseFeat", "side": "user", "reduce_type": "sum"}},
        ["features.age: reduce_type goes with pre_embed only; remove it, or name the vectors in pre_embed"],
    ),
    "transform of vectors": (
        {"features__post_embed__transform": "log1p"},
        ["features.post_embed: transform goes with plain numbers only; remove it, or remove pre_embed"],
    ),
    "two kinds of id": (
        {"features__topic_id": {**FEATURE, "side": "item", "hash_buckets": 9, "quantiles": 5}},
        ["features.topic_id: hash_buckets and quantiles: give one of them; each says by itself what the ids are"],
    ),
    "buckets in another's table": (
        {"features__price": {**FEATURE, "side": "item", "boundaries": [1], "share_embedding": "topic_id"}},
        ["features.price: boundaries and share_embedding: give one of them; each says by itself what the ids are"],
    ),
    "hours in another's table": (
        {"features__hour": {**FEATURE, "time": "hour", "share_embedding": "client_id"}},
        ["features.hour: time and share_embedding: give one of them; each says by itself what the ids are"],
    ),
    "a penalty of another's table": (
        {"features__all_topic_fav_7__l2": 0.5},
        ["features.all_topic_fav_7: l2: 0.5: the table is of 'topic_id'; expected there, not here"],
    ),
    "limits of another's vocabulary": (
        {"features__all_topic_fav_7__min_count": 2, "features__all_topic_fav_7__max_size": 9},
        [
            "features.all_topic_fav_7: min_count: 2 and max_size: 9: the vocabulary is that of 'topic_id'; "
            "expected there, not here"
        ],
    ),
    "a limit of hashed ids": (
        {"features__topic_id": {**FEATURE, "side": "item", "hash_buckets": 9, "min_count": 2}},
        [NO_TOKENS.format("min_count: 2", "hash_buckets")],
    ),
    "a limit of hashed trigrams": (
        {"features__topic_id": {**TEXT, "max_size": 100}, "features__all_topic_fav_7": ABSENT},
        [NO_TOKENS.format("max_size: 100", "hash_buckets")],
    ),
    "a limit of a number's buckets": (
        {"features__topic_id": {**FEATURE, "side": "item", "boundaries": [1], "max_size": 2}},
        [NO_TOKENS.format("max_size: 2", "boundaries")],
    ),
    "a limit of quantiles": (
        {"features__topic_id": {**FEATURE, "side": "item", "quantiles": 4, "min_count": 3}},
        [NO_TOKENS.format("min_count: 3", "quantiles")],
    ),
    "a limit of hours": (
        {"features__topic_id": {**FEATURE, "time": "hour", "min_count": 3}},
        [NO_TOKENS.format("min_count: 3", "time")],
    ),
    "a column of the hour": (
        {"features__hour": {**FEATURE, "time": "hour", "column": "t"}},
        ["features.hour: column: 't' is not read, as time: hour is the event's; remove it"],
    ),
    "a column of an item's age": (
        {"features__age": {**NUMBER, "side": "item", "time": "days_since_upload", "column": "t"}},
        ["features.age: column: 't' is not read, as time: days_since_upload is from catalogue.upload_time; remove it"],
    ),
    "a null of vectors": (
        {"features__post_embed__null": 0},
        [
            "features.post_embed: null: found 0, but an id without a vector counts as the zero vector; "
            "null goes with plain numbers only: remove it"
        ],
    ),
    "a length of one vector": (
        {"features__post_embed__maxlen": 5},
        [
            "features.post_embed: maxlen: 5: the column holds one value a row; "
            "remove it, or set pre_embed and reduce_type: mean or sum"
        ],
    ),
    "a length and a separator of a number": (
        {"features__age": {**NUMBER, "maxlen": 5, "separator": ";"}},
        [
            "features.age: maxlen: 5 and separator: ';': the column holds one value a row; "
            "remove it, or set pre_embed and reduce_type: mean or sum"
        ],
    ),
    "a separator of words": (
        {"features__title": {**TEXT, "separator": ";"}},
        ["features.title: separator: found ';', but words are parted by white space; remove it"],
    ),
    "boundaries that descend": (
        {"features__topic_id__boundaries": [2, 1]},
        ["features.topic_id: boundaries: expected ascending numbers, each once"],
    ),
    "a boundary twice": (
        {"features__topic_id__boundaries": [1, 2, 2]},
        ["features.topic_id: boundaries: expected ascending numbers, each once"],
    ),
    "no boundary": (
        {"features__topic_id__boundaries": []},
        ["features.topic_id.boundaries: found []: tuple should have at least 1 item after validation, not 0"],
    ),
    "a single quantile": (
        {"features__topic_id__quantiles": 1},
        ["features.topic_id.quantiles: found 1: input should be greater than or equal to 2"],
    ),
    "the item's hour": (
        {"features__hour": {**FEATURE, "side": "item", "time": "hour"}},
        ["features.hour: time: the hour and weekday are the request's; expected side: user"],
    ),
    "weights of a list that has none": (
        {"features__clicked__weight_column": "scores"},
        ["features.clicked: weight_column goes with weighted: true; set it"],
    ),
    "the heaviest of entries without weights": (
        {"features__clicked__keep": "heaviest"},
        ["features.clicked: keep: heaviest goes with weighted: true; set it, or keep: first"],
    ),
    "weights of a history's favourites": (
        {"features__favourites": {**FAVOURITES, "weight_column": "scores"}},
        ["features.favourites: of counts a history's ids itself; remove weight_column"],
    ),
    "a separator of two characters": (
        {"features__clicked__separator": ", "},
        ["features.clicked.separator: found ', ': string should have at most 1 character"],
    ),
    "a text without weights": (
        {"features__title": {**TEXT, "weighted": False}},
        ["features.title.weighted: found False: input should be True"],
    ),
    "the age of a user": (
        {"features__age": {**NUMBER, "time": "days_since_upload"}},
        ["features.age: time: days_since_upload is a plain number of the item; expected side: item, no pre_embed"],
    ),
    "an age as a vector": (
        {"features__post_embed__time": "days_since_upload"},
        [
            "features.post_embed: time: days_since_upload is a plain number of the item; "
            "expected side: item, no pre_embed"
        ],
    ),
    "an age that is standardised": (
        {"features__age": {**NUMBER, "side": "item", "time": "days_since_upload", "transform": "minmax"}},
        ["features.age: transform: minmax needs statistics, which the event's time has not; expected raw or log1p"],
    ),
    "a null that is no number": (
        {"features__age": {**NUMBER, "null": float("nan")}},
        ["features.age.null: found nan: input should be a finite number"],
    ),
    "a format of a table": (
        {"catalogue": {"table": "db.posts", "format": "parquet", "key": "post_id"}},
        ["catalogue: format: parquet goes with path; the metastore knows the format of a table: remove it"],
    ),
    "weights of rows that are no samples": (
        {"sources__shown": {**MINIMAL["sources"]["feed"], "roles": [], "weight": "2", "targets": {"like": "liked"}}},
        [
            "sources.shown: weight and targets: found with roles: [], of which no row becomes a sample; "
            "remove it, or add train or test to the roles"
        ],
    ),
    "a unit of no time of a snapshot": (
        {"profiles__clients__as_of_unit": "ms"},
        ["profiles.clients: as_of_unit: ms is of the column as_of; name that, or remove the unit"],
    ),
    "a unit of no upload": (
        {"catalogue__upload_unit": "s"},
        ["catalogue: upload_unit: s is of the column upload_time; name that, or remove the unit"],
    ),
    "a separator of no older list": (
        {"histories__clicks__separator": "|"},
        ["histories.clicks: separator: '|' is of the list in 'then'; name that, or remove it"],
    ),
    "a prior of what is no rate": (
        {"counters__clicks_7": {**COUNTER, "prior": 0.2}},
        ["counters.clicks_7: prior: found with count: positives; remove it, or set count: rate"],
    ),
    "a prior and its strength of a number of events": (
        {"counters__clicks_7": {**COUNTER, "count": "events", "prior": 0, "strength": 0}},
        ["counters.clicks_7: prior and strength: found with count: events; remove it, or set count: rate"],
    ),
    "a column of no user vectors": (
        {**BCE, "samples__negatives": {"hard": {"kind": "hard", "items": "x", "user_id": "client"}}},
        ["samples.negatives.hard: user_id: 'client' is a column of 'users'; name that table, or remove user_id"],
    ),
    "rows that the split does not leave out": (
        {"samples__split": {"rows": 2}},
        ["samples.split: rows: 2 goes with kind: leave_last_out; set it, or remove rows"],
    ),
    "another time zone for Spark": (
        {"spark__conf": {"spark.sql.session.timeZone": "Asia/Tokyo"}},
        [
            "spark.conf: 'spark.sql.session.timeZone' holds 'Asia/Tokyo', but the days are cut in the settings' "
            "timezone; remove it, and set timezone instead"
        ],
    ),
    "a target without a width": (
        {"sources__feed__targets": {"like": "x"}, "targets": {"like": {"low": 2, "high": 2}}},
        ["targets.like: low is 2 and high 2; expected low below high"],
    ),
    "snapshots that are available later": (
        {"profiles__clients": {"path": "x", "key": "k", "as_of": "day", "available_from": "2024-01-01"}},
        ["profiles.clients: available_from goes with a table without snapshots; remove it, or as_of and {date}"],
    ),
    "daily snapshots that are available later": (
        {"profiles__clients": {"path": "{date}.csv", "key": "k", "available_from": "2024-01-01"}},
        ["profiles.clients: available_from goes with a table without snapshots; remove it, or as_of and {date}"],
    ),
    "a history of no days": (
        {"histories__clicks__days": 0},
        ["histories.clicks.days: found 0: input should be greater than or equal to 1"],
    ),
    "a counter over more than a year": (
        {"counters__clicks_7": {**COUNTER, "days": 367}},
        ["counters.clicks_7.days: found 367: input should be less than or equal to 366"],
    ),
    "a counter of an unknown number": (
        {"counters__clicks_7": {**COUNTER, "count": "clicks"}},
        ["counters.clicks_7.count: found 'clicks': input should be 'events', 'positives' or 'rate'"],
    ),
    "an unknown kind of negatives": (
        {**BCE, "samples__negatives": {"any": {"kind": "unifrom"}}},
        ["samples.negatives.any.kind: found 'unifrom', expected the kind of the negatives (did you mean 'uniform'?)"],
    ),
    "negatives of no kind": (
        {**BCE, "samples__negatives": {"any": {"count": 4}}},
        [
            "samples.negatives.any.kind: found None, expected the kind of the negatives "
            f"(known: {', '.join(kinds_of(Negatives))})"
        ],
    ),
    "an unknown key of negatives": (
        {**BCE, "samples__negatives": {"any": {"kind": "popularity", "exponnt": 1}}},
        ["samples.negatives.any: unknown key 'exponnt' (did you mean 'exponent'?)"],
    ),
    "no negative of a kind": (
        {**BCE, "samples__negatives": {"any": {"kind": "uniform", "count": 0}}},
        ["samples.negatives.any.count: found 0: input should be greater than or equal to 1"],
    ),
    "negatives of a group without a column": (
        {**BCE, "samples__negatives": {"near": {"kind": "group"}}},
        ["samples.negatives.near.column: required, but not given"],
    ),
    "ranks that descend": (
        {**BCE, "samples__negatives": {"hard": {"kind": "hard", "items": "x", "ranks": [500, 101]}}},
        ["samples.negatives.hard: ranks: 500 is above 101; expected [first, last]"],
    ),
    "a threshold of zero": (
        {"samples__popular_threshold": 0},
        ["samples.popular_threshold: found 0: input should be greater than 0"],
    ),
    "an unknown split": (
        {"samples__split": {"kind": "random"}},
        ["samples.split.kind: found 'random': input should be 'time' or 'leave_last_out'"],
    ),
    "cold rows of an unknown kind": (
        {"samples__split": {"drop_cold": ["user"]}},
        ["samples.split.drop_cold.0: found 'user': input should be 'users' or 'items'"],
    ),
    "vectors in an unknown storage": (
        {"vectors__post__storage": "tables"},
        ["vectors.post.storage: found 'tables': input should be 'inline' or 'table'"],
    ),
    "no place": ({"catalogue__path": ABSENT}, ["catalogue: give one of 'path' and 'table'"]),
    "two places": ({"catalogue__table": "db.posts"}, ["catalogue: give one of 'path' and 'table'"]),
    "two faults": (
        {"train__epochs": 0, "model__temperature": "hot"},
        [
            "model.temperature: found 'hot': input should be a valid number, unable to parse string as a number",
            "train.epochs: found 0: input should be greater than or equal to 1",
        ],
    ),
    "a required key": ({"catalogue": ABSENT}, ["catalogue: required, but not given"]),
    "an unknown time zone": (
        {"timezone": "Mars/Olympus"},
        ["timezone: 'Mars/Olympus' is no time zone; expected a name such as UTC or Asia/Shanghai"],
    ),
    "a folder of time zones": (
        {"timezone": "America"},
        ["timezone: 'America' is no time zone; expected a name such as UTC or Asia/Shanghai"],
    ),
    "a name with a slash": (
        {"name": "a/b"},
        ["name: found 'a/b': string should match pattern '^[A-Za-z0-9_-]+$'"],
    ),
    "not a date": (
        {"date": "someday"},
        ["date: found 'someday': input should be a valid date or datetime, input is too short"],
    ),
    "a day that is not in the calendar, as text": (
        {"date": "2024-02-30"},
        ["date: found '2024-02-30': input should be a valid date or datetime, day value is outside expected range"],
    ),
    "a negative seed": ({"seed": -1}, ["seed: found -1: input should be greater than or equal to 0"]),
    "a cutoff of zero": (
        {"evaluate__cutoffs": [0, 50]},
        ["evaluate.cutoffs.0: found 0: input should be greater than 0"],
    ),
    "a layer of no width": (
        {"model__user_tower": {"layers": [64, 0]}},
        ["model.user_tower.layers.1: found 0: input should be greater than 0"],
    ),
    "an infinite learning rate": (
        {"train__learning_rate": float("inf")},
        ["train.learning_rate: found inf: input should be a finite number"],
    ),
    "a temperature that is no number": (
        {"model__temperature": float("nan")},
        ["model.temperature: found nan: input should be a finite number"],
    ),
    "a history of no source": (
        {"histories__clicks__sources": []},
        ["histories.clicks.sources: found []: tuple should have at least 1 item after validation, not 0"],
    ),
    "windows longer than ten years": (
        {"window": {"train_days": 3661, "test_days": 3661}},
        [
            f"window.{key}: found 3661: input should be less than or equal to 3660"
            for key in ("train_days", "test_days")
        ],
    ),
    "Spark's settings as sections": (
        {"spark__conf": {"spark": {"ui.enabled": False}}},
        [
            "spark.conf: 'spark' holds a mapping; expected a text, a number, true or false, "
            "and Spark's key in one piece, such as spark.sql.ansi.enabled: false"
        ],
    ),
    "sources as a list": ({"sources": ["feed"]}, ["sources: found ['feed']: input should be a valid dictionary"]),
}


@pytest.mark.parametrize(("changes", "messages"), SINGLE_KEYS.values(), ids=SINGLE_KEYS.keys())
def test_faults_of_one_key(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    assert faults(tmp_path, changed(**changes)) == messages
