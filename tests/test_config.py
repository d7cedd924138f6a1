from __future__ import annotations

import copy
import datetime as dt
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import Settings, _packed_width, _rows_that_fit, load_settings, parse_dates
from dssm.errors import UserError
from dssm.features import DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat, embedded, of_side
from dssm.manifest import encoded_columns
from dssm.sections import Catalogue, HardNegatives, PopularityNegatives, ProfileTable, UniformNegatives

PROJECT = Path(__file__).parents[1]

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "date": dt.date(2024, 1, 15),
    "data": "in",
    "sources": {"feed": {"path": "{data}/{date}.csv", "user": "client_id", "item": "post_id", "time": "t"}},
    "profiles": {"clients": {"path": "{data}/clients.csv", "key": "client_id"}},
    "catalogue": {"path": "{data}/posts.csv", "key": "post_id"},
    "vectors": {"post": {"path": "{data}/vectors.jsonl", "width": 4}},
    "histories": {"clicks": {"sources": ["feed"]}},
    "features": {
        "client_id": {"kind": "SparseFeat", "side": "user"},
        "topic_id": {"kind": "SparseFeat", "side": "item"},
        "all_topic_fav_7": {
            "kind": "VarLenSparseFeat",
            "side": "user",
            "weighted": True,
            "share_embedding": "topic_id",
        },
        "clicked": {"kind": "VarLenSparseFeat", "side": "user", "column": "clicks"},
        "post_embed": {"kind": "DenseFeat", "side": "item", "column": "post_id", "pre_embed": "post"},
    },
}
ABSENT = object()


def changed(**changes: Any) -> dict[str, Any]:
    """The minimal settings with some keys changed: section__key=value."""
    values = copy.deepcopy(MINIMAL)
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is ABSENT:
            del section[last]
        else:
            section[last] = value
    return values


def load(folder: Path, values: Any, *overrides: str) -> Settings:
    path = folder / "pipeline.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load_settings(str(path), overrides)


def faults(folder: Path, values: Any, *overrides: str) -> list[str]:
    """Loads faulty settings; returns the lines of the message without the file's name."""
    with pytest.raises(UserError) as caught:
        load(folder, values, *overrides)
    prefix = f"{folder / 'pipeline.yaml'}: "
    lines = str(caught.value).split("\n")
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


# Faults ------------------------------------------------------------------------------------------------

FEATURE = {"kind": "SparseFeat", "side": "user"}
NUMBER = {"kind": "DenseFeat", "side": "user"}
TEXT = {"kind": "TextFeat", "side": "item"}
FAVOURITES = {"kind": "VarLenSparseFeat", "side": "user", "column": "clicks", "of": "topic_id", "weighted": True}
COUNTER = {"side": "user", "sources": ["feed"], "days": 7}
UPLOADED = Catalogue(path="x", key="post_id", upload_time="uploaded").model_dump(mode="json")
BCE = {"train__loss": "weighted_bce"}
NO_TOKENS = "features.topic_id: {}: {} says what the ids are, and no tokens are counted; remove one of the two"

CROSS_CHECKS = {
    "a typo in share_embedding": (
        {"features__all_topic_fav_7__share_embedding": "topicid"},
        "features.all_topic_fav_7.share_embedding: no feature is named 'topicid' (did you mean 'topic_id'?)",
    ),
    "an embedding shared with a DenseFeat": (
        {"features__all_topic_fav_7__share_embedding": "post_embed"},
        "features.all_topic_fav_7.share_embedding: 'post_embed' is a DenseFeat and has no embedding",
    ),
    "a chain of shared embeddings": (
        {"features__clicked__share_embedding": "all_topic_fav_7"},
        "features.clicked.share_embedding: 'all_topic_fav_7' itself shares 'topic_id'; name that one",
    ),
    "an embedding shared with itself": (
        {"features__topic_id__share_embedding": "topic_id"},
        "features.topic_id.share_embedding: names the feature itself; remove it",
    ),
    "another width than the shared table's": (
        {"features__all_topic_fav_7__dim": 8},
        "features.all_topic_fav_7.dim: 8, but the table of 'topic_id' is 16 wide; set it to 16",
    ),
    "unknown vectors": (
        {"features__post_embed__pre_embed": "pots"},
        "features.post_embed.pre_embed: no vectors are named 'pots' (did you mean 'post'?)",
    ),
    "no vectors at all": (
        {"vectors": {}},
        "features.post_embed.pre_embed: no vectors are named 'post'",
    ),
    "a history on the item side": (
        {"features__clicked__side": "item"},
        "features.clicked.side: a history is the user's; expected 'user'",
    ),
    "a history as one id": (
        {"features__clicked": {"kind": "SparseFeat", "side": "user", "column": "clicks"}},
        "features.clicked.column: 'clicks' is a history, a list without weights; expected a VarLenSparseFeat without "
        "weights or with 'of', or a DenseFeat with pre_embed and a reduce_type",
    ),
    "a history with weights": (
        {"features__clicked__weighted": True},
        "features.clicked.column: 'clicks' is a history, a list without weights; expected a VarLenSparseFeat without "
        "weights or with 'of', or a DenseFeat with pre_embed and a reduce_type",
    ),
    "a history of an unknown source": (
        {"histories__clicks__sources": ["fed"]},
        "histories.clicks.sources: no event source is named 'fed' (did you mean 'feed'?)",
    ),
    "a feature's name with two underscores": (
        {"features": {**MINIMAL["features"], "a__b": FEATURE}},
        "features.a__b: not a name; expected letters, digits and single underscores, a letter first "
        "(the log's own column name goes into 'column')",
    ),
    "a feature named row": (
        {"features": {**MINIMAL["features"], "row": FEATURE}},
        "features.row: the name is taken; expected another (the log's own column name goes into 'column')",
    ),
    "features whose names differ by case": (
        {"features": {**MINIMAL["features"], "Topic_ID": FEATURE}},
        "features.Topic_ID: differs from 'topic_id' only by case, which Spark's columns don't know; rename one",
    ),
    "a source's name with a slash": (
        {"sources": {**MINIMAL["sources"], "a/b": MINIMAL["sources"]["feed"]}},
        "sources.a/b: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "a profile's name with a dot": (
        {"profiles": {"a.b": MINIMAL["profiles"]["clients"]}},
        "profiles.a.b: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "vectors whose name starts with a digit": (
        {"vectors": {**MINIMAL["vectors"], "2d": MINIMAL["vectors"]["post"]}},
        "vectors.2d: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "a history's name with an accent": (
        {"histories": {**MINIMAL["histories"], "é": MINIMAL["histories"]["clicks"]}},
        "histories.é: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "histories whose names differ by case": (
        {"histories": {**MINIMAL["histories"], "Clicks": MINIMAL["histories"]["clicks"]}},
        "histories.Clicks: differs from 'clicks' only by case, which Spark's columns don't know; rename one",
    ),
    "a root on an unknown file system": (
        {"root": "foo://x"},
        "root: 'foo://x' is on no known file system (Protocol not known: foo)",
    ),
    "an item table on an unknown file system": (
        {"item_table__location": "foo://x"},
        "item_table.location: 'foo://x' is on no known file system (Protocol not known: foo)",
    ),
    "hosts without horovodrun": (
        {"train__hosts": "a:2,b:2"},
        "train.hosts: 'a:2,b:2' with launch: spark; remove it, or set launch: horovodrun",
    ),
    "no item feature": (
        {"features": {"client_id": FEATURE, "client_type": FEATURE}},
        "features: the item tower has none; give at least one feature with side: item",
    ),
    "no user feature": (
        {"features": {"post_id": {**FEATURE, "side": "item"}, "topic_id": {**FEATURE, "side": "item"}}},
        "features: the user tower has none; give at least one feature with side: user",
    ),
    "no source to train on": (
        {"sources__feed__roles": ["test"]},
        "sources: none has 'train' in its roles; add it to the roles of one source",
    ),
    "no source to test on": (
        {"sources__feed__roles": []},
        "sources: none has 'train' in its roles; add it to the roles of one source",
    ),
    "single with two ranks": (
        {"train__launch": "single", "train__ranks": 2},
        "train.ranks: 2 ranks with launch: single; expected 1, or launch: spark or horovodrun",
    ),
    "weighted_bce without negatives": (
        {"train__loss": "weighted_bce"},
        "samples.train_rows: 'positives' leaves weighted_bce without negatives; expected 'all', "
        "samples.negatives, or train.loss: in_batch_softmax",
    ),
    "hash buckets beside another's table": (
        {"features__liked": {**FEATURE, "kind": "VarLenSparseFeat", "share_embedding": "topic_id", "hash_buckets": 9}},
        "features.liked.hash_buckets: the table of 'topic_id' has its own; remove it",
    ),
    "hash buckets of a text beside another's table": (
        {"features__title": TEXT, "features__tags": {**TEXT, "share_embedding": "title", "hash_buckets": 9}},
        "features.tags.hash_buckets: the table of 'title' has its own; remove it",
    ),
    "an embedding shared with buckets of a number": (
        {"features__topic_id__boundaries": [1, 2]},
        "features.all_topic_fav_7.share_embedding: the ids of 'topic_id' are buckets; name a feature of ids",
    ),
    "an embedding shared with quantiles": (
        {"features__topic_id__quantiles": 10},
        "features.all_topic_fav_7.share_embedding: the ids of 'topic_id' are buckets; name a feature of ids",
    ),
    "an embedding shared with hours": (
        {"features__hour": {**FEATURE, "time": "hour"}, "features__clicked__share_embedding": "hour"},
        "features.clicked.share_embedding: the ids of 'hour' are buckets; name a feature of ids",
    ),
    "trigrams in a table of ids": (
        {"features__title": {**TEXT, "share_embedding": "topic_id"}},
        "features.title.share_embedding: trigrams and ids share no table; name another TextFeat",
    ),
    "ids in a table of trigrams": (
        {"features__title": TEXT, "features__clicked__share_embedding": "title"},
        "features.clicked.share_embedding: trigrams and ids share no table; name another VarLenSparseFeat",
    ),
    "row numbers of a list without a length": (
        {
            "vectors__post__storage": "table",
            "features__seen": {
                **NUMBER,
                "column": "clicks",
                "pre_embed": "post",
                "reduce_type": "mean",
            },
        },
        "features.seen.maxlen: vectors 'post' are of storage: table, so that samples hold lists of row numbers; "
        "expected the entries to keep, such as 50",
    ),
    "a history that keeps its oldest entries": (
        {"features__clicked__keep": "last"},
        "features.clicked.keep: a history is newest first; expected keep: first",
    ),
    "a history as text": (
        {"features__clicked": {"kind": "TextFeat", "side": "user", "column": "clicks"}},
        "features.clicked.column: 'clicks' is a history, a list without weights; expected a VarLenSparseFeat without "
        "weights or with 'of', or a DenseFeat with pre_embed and a reduce_type",
    ),
    "a history of one vector": (
        {"features__clicked": {**NUMBER, "column": "clicks", "pre_embed": "post"}},
        "features.clicked.column: 'clicks' is a history, a list without weights; expected a VarLenSparseFeat without "
        "weights or with 'of', or a DenseFeat with pre_embed and a reduce_type",
    ),
    "favourites of an unknown feature": (
        {"features__favourites": {**FAVOURITES, "of": "topicid"}},
        "features.favourites.of: no item feature is named 'topicid' (did you mean 'topic_id'?)",
    ),
    "favourites of a user's feature": (
        {"features__favourites": {**FAVOURITES, "of": "client_id"}},
        "features.favourites.of: no item feature is named 'client_id' (known: post_embed, topic_id)",
    ),
    "favourites of a number": (
        {"features__favourites": {**FAVOURITES, "of": "post_embed"}},
        "features.favourites.of: 'post_embed' is a DenseFeat and has no ids to list",
    ),
    "favourites of a text": (
        {"features__title": TEXT, "features__favourites": {**FAVOURITES, "of": "title"}},
        "features.favourites.of: 'title' is a TextFeat and has no ids to list",
    ),
    "favourites of a number's buckets": (
        {"features__topic_id__quantiles": 10, "features__favourites": FAVOURITES},
        "features.favourites.of: the ids of 'topic_id' are the buckets of a number, whose table can't be shared; "
        "expected an item feature of ids",
    ),
    "favourites of a number's buckets in their table": (
        {
            "features__topic_id__boundaries": [1, 2],
            "features__favourites": {**FAVOURITES, "share_embedding": "topic_id"},
        },
        "features.favourites.of: the ids of 'topic_id' are the buckets of a number, whose table can't be shared; "
        "expected an item feature of ids",
    ),
    "favourites in a table of their own": (
        {"features__favourites": FAVOURITES},
        "features.favourites.share_embedding: found None, but the ids are those of 'topic_id'; set it to topic_id",
    ),
    "favourites of what is no history": (
        {"features__favourites": {**FAVOURITES, "column": "click", "share_embedding": "topic_id"}},
        "features.favourites.of: goes with a history only, and 'click' is none (did you mean 'clicks'?)",
    ),
    "a counter of an unknown source": (
        {"counters__clicks_7": {**COUNTER, "sources": ["fed"]}},
        "counters.clicks_7.sources: no event source is named 'fed' (did you mean 'feed'?)",
    ),
    "a counter named as a history": (
        {"counters__clicks": COUNTER},
        "counters.clicks: a history has this name; rename one of them",
    ),
    "a counter's name with a dot": (
        {"counters": {"a.b": COUNTER}},
        "counters.a.b: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "a user's counter on the item side": (
        {"counters__clicks_7": COUNTER, "features__clicks_7": {**NUMBER, "side": "item"}},
        "features.clicks_7.side: the counter 'clicks_7' is the user's; set it to that",
    ),
    "a counter as an id": (
        {"counters__clicks_7": COUNTER, "features__clicks_7": FEATURE},
        "features.clicks_7.column: 'clicks_7' is a counter, a number that changes with each event; "
        "expected a DenseFeat with transform raw or log1p",
    ),
    "a counter as a vector": (
        {"counters__clicks_7": COUNTER, "features__clicks_7": {**NUMBER, "pre_embed": "post"}},
        "features.clicks_7.column: 'clicks_7' is a counter, a number that changes with each event; "
        "expected a DenseFeat with transform raw or log1p",
    ),
    "a counter that is standardised": (
        {"counters__clicks_7": COUNTER, "features__clicks_7": {**NUMBER, "transform": "standard"}},
        "features.clicks_7.column: 'clicks_7' is a counter, a number that changes with each event; "
        "expected a DenseFeat with transform raw or log1p",
    ),
    "a null of a counter": (
        {"counters__clicks_7": COUNTER, "features__clicks_7": {**NUMBER, "null": -1}},
        "features.clicks_7.null: found -1, but a counter is 0 or its prior, never null; remove it",
    ),
    "a target that no source has": (
        {"sources__feed__targets": {"like": "liked"}, "targets": {"likes": {}}},
        "targets.likes: no source has it in its targets (did you mean 'like'?)",
    ),
    "a target's name with two underscores": (
        {"sources__feed__targets": {"long__view": "x"}},
        "sources.feed.targets.long__view: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "a share of unclicked rows that are not kept": (
        {"samples__unclicked_share": 0.5},
        "samples.unclicked_share: goes with samples.train_rows: all; set it, or remove the share",
    ),
    "a weight of unclicked rows that are not kept": (
        {"samples__unclicked_weight": 0},
        "samples.unclicked_weight: found 0, but samples.train_rows is positives; set that to all, or remove the weight",
    ),
    "users whose rows of training and test come from different sources": (
        {
            "sources": {
                "feed": {**MINIMAL["sources"]["feed"], "roles": ["train"]},
                "push": {**MINIMAL["sources"]["feed"], "roles": ["test"]},
            },
            "samples__split": {"kind": "leave_last_out"},
        },
        "samples.split.kind: leave_last_out tests on training positives of sources with both roles, and none has both "
        "(found feed [train], push [test]); expected roles: [train, test] of one source, or kind: time",
    ),
    "more vectors in a file than a column can hold": (
        {"samples__rows_per_file": 700_000, "vectors__post__width": 768},
        "samples.rows_per_file: 700000 rows of features.post_embed, 3,072 bytes each, do not fit one column of a file "
        "(2 GiB); expected at most 692393",
    ),
    "more negatives in a file than a column can hold": (
        {**BCE, "samples__rows_per_file": 2_000_000, "samples__negatives": {"any": {"kind": "uniform", "count": 300}}},
        "samples.rows_per_file: 2000000 rows of samples.negatives, 1,200 bytes each, do not fit one column of a file "
        "(2 GiB); expected at most 1778898",
    ),
    "negatives that the loss does not read": (
        {"samples__negatives": {"any": {"kind": "uniform"}}},
        "samples.negatives: train.loss in_batch_softmax does not read them; expected one of weighted_bce, "
        "sampled_softmax, hinge, bpr, a model.scorer, or no negatives",
    ),
    "unclicked negatives of an unknown source": (
        {**BCE, "samples__negatives": {"shown": {"kind": "unclicked", "sources": ["fed"]}}},
        "samples.negatives.shown.sources: no event source is named 'fed' (did you mean 'feed'?)",
    ),
    "the name of negatives": (
        {**BCE, "samples__negatives": {"1st": {"kind": "uniform"}}},
        "samples.negatives.1st: not a name; expected letters, digits and single underscores, a letter first",
    ),
    "negatives whose names differ by case": (
        {**BCE, "samples__negatives": {"any": {"kind": "uniform"}, "Any": {"kind": "uniform"}}},
        "samples.negatives.Any: differs from 'any' only by case, which Spark's columns don't know; rename one",
    ),
    "vocabularies that grow from nothing": (
        {"samples__vocabularies": {"grow": True}},
        "samples.vocabularies.grow: grows another run's; name that in samples.vocabularies.run",
    ),
    "an item's age without its upload": (
        {"features__age": {**NUMBER, "side": "item", "time": "days_since_upload"}},
        "features.age.time: needs catalogue.upload_time; name the column there",
    ),
    "a typo in the gate's metric": (
        {"item_table__gate__metric": "recal@50"},
        "item_table.gate.metric: no metric is named 'recal@50' (did you mean 'recall@50'?)",
    ),
    "a cutoff that is not evaluated": (
        {"evaluate__cutoffs": [10]},
        "item_table.gate.metric: no metric is named 'recall@50' (did you mean 'recall@10'?)",
    ),
    "an unknown placeholder in a path": (
        {"catalogue__path": "{dta}/posts.csv"},
        "catalogue.path: '{dta}/posts.csv' holds an unknown placeholder ('dta'); known: {data}, {date}, {date:%Y%m%d}",
    ),
    "an attribute that a date lacks": (
        {"sources__feed__path": "{date.foo}"},
        "sources.feed.path: '{date.foo}' holds an unknown placeholder ('datetime.date' object has no attribute 'foo'); "
        "known: {data}, {date}, {date:%Y%m%d}",
    ),
    "a brace that is not closed": (
        {"vectors__post__path": "{data/x"},
        "vectors.post.path: '{data/x' holds an unknown placeholder (expected '}' before end of string); "
        "known: {data}, {date}, {date:%Y%m%d}",
    ),
    "an unknown placeholder in the table's location": (
        {"item_table__location": "{rot}/x"},
        "item_table.location: '{rot}/x' holds an unknown placeholder ('rot'); known: {root}, {name}",
    ),
    "an unknown placeholder in the metastore": (
        {"item_table__metastore": "{data}/x"},
        "item_table.metastore: '{data}/x' holds an unknown placeholder ('data'); known: {root}, {name}",
    ),
}


@pytest.mark.parametrize(("changes", "message"), CROSS_CHECKS.values(), ids=CROSS_CHECKS.keys())
def test_parts_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert faults(tmp_path, changed(**changes)) == [message]


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
            "(known: uniform, popularity, suppressed, group, unclicked, hard)"
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
            "spark.conf: 'spark' holds {'ui.enabled': False}; expected a text, a number, true or false, "
            "and Spark's key in one piece, such as spark.sql.ansi.enabled: false"
        ],
    ),
    "sources as a list": ({"sources": ["feed"]}, ["sources: found ['feed']: input should be a valid dictionary"]),
}


@pytest.mark.parametrize(("changes", "messages"), SINGLE_KEYS.values(), ids=SINGLE_KEYS.keys())
def test_faults_of_one_key(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    assert faults(tmp_path, changed(**changes)) == messages


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("act * rand()", "rand"),
        ("if(RandN (3) > 0, 1, 0)", "RandN"),
        ("random()", "random"),
        ("length(uuid())", "uuid"),
        ("element_at(shuffle(tags), 1)", "shuffle"),
        ("unix_millis(now()) - t", "now"),
        ("current_timestamp() > t", "current_timestamp"),
        ("day = CURRENT_DATE", "CURRENT_DATE"),
        ("datediff(current_timestamp, day)", "current_timestamp"),
        ("localtimestamp( ) > t", "localtimestamp"),
        ("curdate() > day", "curdate"),
        ("unix_timestamp( ) - t", "unix_timestamp"),
        ("monotonically_increasing_id() % 2", "monotonically_increasing_id"),
        ("spark_partition_id()", "spark_partition_id"),
        ("channel = 'it\\'s' and rand() < 1 and channel = 'x'", "rand"),
        ("day = date 'today'", "date 'today'"),
        ('DATE" Yesterday " < day', "DATE'Yesterday'"),
        ("t < timestamp 'now Asia/Shanghai'", "timestamp 'now'"),
        ("t < timestamp_ntz R'tomorrow+01:00'", "timestamp_ntz R'tomorrow'"),
    ],
)
def test_sql_that_differs_from_run_to_run(tmp_path: Path, expression: str, found: str) -> None:
    why = (
        f"'{expression}' holds {found}, which differs from run to run; "
        "the samples must be the same in every build: expected the row's own columns"
    )
    for key in ("label", "weight", "where"):
        assert faults(tmp_path, changed(**{f"sources__feed__{key}": expression})) == [f"sources.feed.{key}: {why}"]
    changes = {"sources__feed__targets": {"view": "1", "like": expression}}
    assert faults(tmp_path, changed(**changes)) == [f"sources.feed.targets: like: {why}"]


@pytest.mark.parametrize(
    "expression",
    [
        "brand(x)", "my_rand(x)", "rand", "random + uuid", "now", "renow + knows", "input_file_name()",
        "unix_timestamp(day)", "to_date(t)", "channel in ('rand()', \"now()\")", "`current_date` > 1",
        "current_date_of_user", "channel = 'it\\'s rand()'", "date '2022-05-08' = day", "channel = 'today'",
        "channel = \"date 'today'\"", "update in ('today', 'now current_date')", "date 'epoch' < day",
    ],
)  # fmt: skip
def test_sql_that_only_looks_so(tmp_path: Path, expression: str) -> None:
    keys = {f"sources__feed__{key}": expression for key in ("label", "weight", "where")}
    settings = load(tmp_path, changed(**keys, sources__feed__targets={"like": expression}))
    assert settings.sources["feed"].where == settings.sources["feed"].targets["like"] == expression


@given(row_bytes=st.integers(1, 2**24))
def test_the_rows_of_a_file_fit_its_packed_columns(row_bytes: int) -> None:
    """With room for a file that has more rows than the others, by chance."""
    rows = _rows_that_fit(row_bytes)
    assert (rows + 7 * rows**0.5) * row_bytes < 2**31
    assert (rows + 1 + 8 * (rows + 1) ** 0.5 + 1) * row_bytes >= 2**31 - 1


@pytest.mark.parametrize("storage", ["inline", "table"])
def test_the_packed_widths_are_those_of_the_encoded_columns(tmp_path: Path, storage: str) -> None:
    many = {**NUMBER, "column": "clicks", "pre_embed": "post", "reduce_type": "mean", "maxlen": 7}
    settings = load(
        tmp_path,
        changed(vectors__post__storage=storage, features__title=TEXT, features__age=NUMBER, features__many=many),
    )
    found = {name: _packed_width(f, settings.vectors) for name, f in settings.features.items()}
    assert found == {
        name: max(
            math.prod(spec.shape) if spec.encoding == "packed" else 0
            for spec in encoded_columns(feature, settings.vectors).values()
        )
        for name, feature in settings.features.items()
    }
    assert (found["many"], found["post_embed"]) == ((4, 4) if storage == "inline" else (7, 0))


def test_the_largest_file_of_wide_vectors(tmp_path: Path) -> None:
    largest = {"samples__rows_per_file": 692_393, "vectors__post__width": 768}
    assert load(tmp_path, changed(**largest)).samples.rows_per_file == 692_393
    in_a_table = {**largest, "samples__rows_per_file": 5_000_000, "vectors__post__storage": "table"}
    assert load(tmp_path, changed(**in_a_table)).samples.rows_per_file == 5_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", r"malformed YAML: .*found key 'name' twice.*line 2, column 1"),
        ("train:\n  epochs: 1\n  epochs: 2\n", r"malformed YAML: .*found key 'epochs' twice.*line 3, column 3"),
        ("name: [a\n", r"malformed YAML: .*line 2, column 1"),
        ("\tname: a\n", r"malformed YAML: .*cannot start any token.*line 1, column 1"),
        ("? [a, b]\n: c\n", r"malformed YAML: .*unhashable key.*line 1, column 3"),
        ("name: !!python/object/apply:os.system [true]\n", r"malformed YAML: .*could not determine a constructor"),
        ("name: a\ndate: 2024-02-30\n", r"malformed YAML: '2024-02-30': day .* line 2, column 7"),
        ("- a\n", r"found list, expected a mapping of settings"),
        ("", r"found NoneType, expected a mapping of settings"),
    ],
    ids=[
        "a key twice",
        "a nested key twice",
        "open bracket",
        "tab",
        "a list as key",
        "code",
        "no such day",
        "a list",
        "empty",
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, message: str) -> None:
    (line,) = faults(tmp_path, text)
    assert re.match(message, line), line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_settings("no/such.yaml")
    assert str(caught.value) == (
        "--config no/such.yaml: No such file or directory; expected a YAML file, such as conf/demo.yaml"
    )
    with pytest.raises(UserError, match="Is a directory; expected a YAML file"):
        load_settings(str(tmp_path))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match=r"x\.yaml: not UTF-8 text \(invalid start byte at byte 6\)"):
        load_settings(str(tmp_path / "x.yaml"))


# What is read ------------------------------------------------------------------------------------------


def test_defaults_and_names(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL)
    assert settings.features["topic_id"] == SparseFeat(name="topic_id", side="item", dim=16)
    favourites = settings.features["all_topic_fav_7"]
    assert isinstance(favourites, VarLenSparseFeat)
    assert (favourites.vocabulary, favourites.weight_name) == ("topic_id", "all_topic_fav_7__weight")
    clicked = settings.features["clicked"]
    assert isinstance(clicked, VarLenSparseFeat)
    assert (clicked.vocabulary, clicked.source_column) == ("clicked", "clicks")
    embed = settings.features["post_embed"]
    assert isinstance(embed, DenseFeat)
    assert (embed.pre_embed, embed.reduce_type) == ("post", "none")
    assert settings.sources["feed"].roles == ("train", "test")
    assert (settings.window.train_days, settings.window.test_days) == (30, 1)


def test_everything_that_samples_can_hold_goes_through_json(tmp_path: Path) -> None:
    """As the ranks of a training get their settings."""
    negatives = {
        "any": {"kind": "uniform", "count": 2, "weight": 0.5},
        "popular": {"kind": "popularity"},
        "hard": {"kind": "hard", "items": "x", "ranks": [10, 20]},
        "harder": {"kind": "hard", "items": "x", "users": "y", "user_id": "client"},
    }
    shown = {**MINIMAL["sources"]["feed"], "roles": []}
    values = changed(
        samples__negatives=negatives,
        samples__split={"kind": "leave_last_out", "rows": 2, "drop_cold": ["items"]},
        samples__train_rows="all",
        samples__unclicked_weight=0.5,
        sources__shown=shown,
        profiles__moods={"table": "db.moods", "key": "client_id", "as_of": "taken", "as_of_unit": "s"},
        histories__older={"sources": ["feed"], "then": "read", "separator": "|"},
        counters__rate={**COUNTER, "count": "rate", "prior": 0.2, "strength": 5},
        train__loss={"kind": "weighted_bce", "positive_weight": 2},
        sources__feed__targets={"like": "liked", "watch": "seconds"},
        targets__watch={"low": 0, "high": 60},
        counters__clicks_7=COUNTER,
        catalogue=UPLOADED,
        vectors__post__storage="table",
        features__title=TEXT,
        features__tags={**TEXT, "share_embedding": "title"},
        features__city={**FEATURE, "hash_buckets": 9},
        features__price={**FEATURE, "quantiles": 4},
        features__level={**FEATURE, "boundaries": [1, 2]},
        features__liked={**FEATURE, "share_embedding": "topic_id"},
        features__read={**NUMBER, "pre_embed": "post", "reduce_type": "sum", "maxlen": 5, "separator": "|"},
        features__rare={**FEATURE, "min_count": 2, "max_size": 9},
        features__height={**NUMBER, "null": 170, "transform": "standard"},
        features__favourites={**FAVOURITES, "share_embedding": "topic_id", "keep": "heaviest"},
        features__hour={**FEATURE, "time": "hour"},
        features__clicks_7={**NUMBER, "transform": "log1p"},
        features__age={**NUMBER, "side": "item", "time": "days_since_upload"},
        features__seen={**NUMBER, "column": "clicks", "pre_embed": "post", "reduce_type": "sum", "maxlen": 5},
    )
    settings = load(tmp_path, values)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.target_names == ["like", "watch"]
    any_, popular, hard, harder = settings.samples.negatives.values()
    assert (any_, popular) == (UniformNegatives(count=2, weight=0.5), PopularityNegatives(count=4, exponent=0.75))
    assert isinstance(hard, HardNegatives)
    assert isinstance(harder, HardNegatives)
    assert (hard.ranks, hard.users, harder.user_id) == ((10, 20), None, "client")
    assert [f.name for f in of_side(settings.features, "item")] == ["topic_id", "post_embed", "title", "tags", "age"]
    assert [f.name for f in embedded(settings.features)] == [
        "client_id", "topic_id", "all_topic_fav_7", "clicked", "title", "tags", "city", "price", "level",
        "liked", "rare", "favourites", "hour",
    ]  # fmt: skip
    title = settings.features["title"]
    assert isinstance(title, TextFeat)
    assert (title.weighted, title.combiner, title.hash_buckets, title.weight_name) == (
        True, "sum", 30_000, "title__weight",
    )  # fmt: skip


def test_targets_of_several_sources_are_named_once(tmp_path: Path) -> None:
    feed = MINIMAL["sources"]["feed"]
    sources = {"feed": {**feed, "targets": {"like": "a", "view": "b"}}, "push": {**feed, "targets": {"view": "c"}}}
    assert load(tmp_path, changed(sources=sources)).target_names == ["like", "view"]


def test_weighted_bce_takes_its_negatives_from_the_samples(tmp_path: Path) -> None:
    settings = load(tmp_path, changed(**BCE, samples__negatives={"any": {"kind": "uniform"}}))
    assert settings.samples.train_rows == "positives"
    assert load(tmp_path, changed(**BCE, samples__train_rows="all")).samples.negatives == {}


def test_vectors_of_one_id_need_no_length_in_any_storage(tmp_path: Path) -> None:
    settings = load(tmp_path, changed(vectors__post__storage="table"))
    assert settings.vectors["post"].storage == "table"


def test_snapshots_come_with_a_time_or_a_daily_path() -> None:
    assert ProfileTable(path="x", key="k", as_of="day").has_snapshots
    assert ProfileTable(path="{date:%Y%m%d}.csv", key="k").has_snapshots
    assert not ProfileTable(table="db.clients", key="k").has_snapshots


@pytest.mark.parametrize(
    ("given", "is_bucketised"),
    [({}, False), ({"boundaries": (1.0,)}, True), ({"quantiles": 4}, True), ({"time": "weekday"}, False)],
)
def test_ids_of_a_numbers_buckets(given: dict[str, Any], is_bucketised: bool) -> None:
    assert SparseFeat(name="f", side="user", **given).is_bucketised == is_bucketised


@pytest.mark.parametrize("path", sorted((PROJECT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_settings_are_valid(path: Path) -> None:
    assert load_settings(str(path)).name == path.stem


def test_merged_mappings(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed(features=ABSENT)) + (
        "features:\n  client_id: &id\n    kind: SparseFeat\n    side: user\n    dim: 4\n"
        "  topic_id:\n    <<: *id\n    side: item\n"
    )
    settings = load(tmp_path, text)
    assert settings.features["topic_id"] == SparseFeat(name="topic_id", side="item", dim=4)


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, MINIMAL).seed = 1  # type: ignore[misc]


def test_spark_settings_are_text_as_spark_writes_it(tmp_path: Path) -> None:
    settings = load(tmp_path, changed(spark__conf={"spark.a": True, "spark.b": 2, "spark.c": "x"}))
    assert settings.spark.conf == {"spark.a": "true", "spark.b": "2", "spark.c": "x"}


def test_overrides_go_over_the_file_and_are_yaml(tmp_path: Path) -> None:
    settings = load(
        tmp_path, MINIMAL, "train.epochs=7", "evaluate.cutoffs=[5, 50]", "features.topic_id.dim=16", "data=a=b",
        "item_table.metastore=null", "date=2024-02-01",
    )  # fmt: skip
    assert settings.train.epochs == 7
    assert settings.evaluate.cutoffs == (5, 50)
    assert settings.data == "a=b"
    assert settings.metastore is None
    assert settings.date == dt.date(2024, 2, 1)
    assert settings.features["topic_id"].name == "topic_id"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "--set train.epochs: expected key=value, such as train.epochs=2"),
        ("=2", "--set =2: expected key=value, such as train.epochs=2"),
        ("name.x=2", "--set name.x=2: 'name' is not a section"),
        ("train.epochs=[", "--set train.epochs=[: malformed value: .*"),
        ("date=2024-02-30", "--set date=2024-02-30: malformed value: '2024-02-30': day .*2024-02-30 ^"),
        (
            "catalogue.path={data}/x.csv",
            "--set catalogue.path={data}/x.csv: malformed value: .*; a text with braces or brackets needs quotes: "
            "--set 'catalogue.path=\"{data}/x.csv\"'",
        ),
    ],
)
def test_overrides_that_cannot_be_read(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, MINIMAL, override)
    begin, _, end = message.partition(".*")
    said = str(caught.value)
    assert said.startswith(begin)
    assert said.endswith(end)


def test_an_override_with_braces_in_quotes(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL, 'catalogue.path="{data}/x.csv"')
    assert settings.expand(settings.catalogue.path or "") == ["in/x.csv"]


def test_an_override_of_one_of_sparks_settings(tmp_path: Path) -> None:
    overrides = ["spark.conf.spark.sql.ansi.enabled=true", "spark.conf.spark.a=7", "spark.master=local[1]"]
    settings = load(tmp_path, changed(spark__conf={"spark.a": 1, "spark.b": "x"}), *overrides)
    assert settings.spark.conf == {"spark.a": "7", "spark.b": "x", "spark.sql.ansi.enabled": "true"}
    assert settings.spark.master == "local[1]"


def test_sparks_settings_go_over_those_of_the_session(tmp_path: Path) -> None:
    from dssm.spark import session_conf

    conf = {"spark.sql.shuffle.partitions": 99, "spark.a": 1}
    usual = session_conf(load(tmp_path, MINIMAL))
    assert (usual["spark.sql.shuffle.partitions"], usual["spark.sql.session.timeZone"]) == ("8", "UTC")
    assert session_conf(load(tmp_path, changed(spark__conf=conf))) == usual | {
        "spark.sql.shuffle.partitions": "99",
    }


def test_overrides_are_validated_like_the_file(tmp_path: Path) -> None:
    assert faults(tmp_path, MINIMAL, "train.epoch=2") == ["train: unknown key 'epoch' (did you mean 'epochs'?)"]
    assert faults(tmp_path, MINIMAL, "train.epochs=two") == [
        "train.epochs: found 'two': input should be a valid integer, unable to parse string as an integer"
    ]


def test_an_override_of_an_empty_section(tmp_path: Path) -> None:
    assert load(tmp_path, changed(train=None), "train.epochs=2").train.epochs == 2


# Dates and paths ---------------------------------------------------------------------------------------


def test_dates_of_the_command() -> None:
    day = dt.date(2024, 2, 28)
    assert parse_dates(None, None) is None
    assert parse_dates("2024-02-28", None) == [day]
    assert parse_dates(None, "2024-02-28..2024-03-01") == [day, dt.date(2024, 2, 29), dt.date(2024, 3, 1)]
    assert parse_dates(None, "2024-02-28..2024-02-28") == [day]


@pytest.mark.parametrize(
    ("date", "dates", "message"),
    [
        ("2024-02-30", None, "--date 2024-02-30: not a date; expected YYYY-MM-DD"),
        (None, "2024-02-01", "--dates 2024-02-01: expected A..B, such as 2024-01-01..2024-01-07"),
        (None, "2024-02-01..x", "--dates x: not a date; expected YYYY-MM-DD"),
        (None, "2024-02-02..2024-02-01", "--dates 2024-02-02..2024-02-01: the last day is before the first"),
        ("2024-02-01", "2024-02-01..2024-02-02", "--date and --dates: give one of them"),
    ],
)
def test_dates_that_cannot_be_read(date: str | None, dates: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_dates(date, dates)
    assert str(caught.value) == message


def test_placeholders(tmp_path: Path) -> None:
    settings = load(tmp_path, changed(window={"train_days": 2, "test_days": 1}))
    assert settings.expand("{data}/x.csv", daily=True) == ["in/x.csv"]
    assert settings.expand("{data}/{date}.csv") == ["in/2024-01-15.csv"]
    assert settings.expand("{data}/{date:%Y%m%d}.csv", daily=True) == [
        "in/20240113.csv",
        "in/20240114.csv",
        "in/20240115.csv",
    ]
    assert settings.expand("{{x}}") == ["{x}"]


def test_paths_of_a_run(tmp_path: Path) -> None:
    settings = load(tmp_path, changed(root="out")).for_date(dt.date(2024, 3, 1))
    assert settings.run_folder == "out/tiny/2024-03-01"
    assert settings.table_location == "out/tiny/item_table"
    assert settings.metastore == "out/metastore_db"


def test_days_start_at_midnight_of_the_time_zone(tmp_path: Path) -> None:
    """In New York 2024-03-10 has 23 hours, 2024-11-03 has 25."""
    hour = 3_600_000
    spring = load(tmp_path, changed(timezone="America/New_York")).for_date(dt.date(2024, 3, 10))
    assert spring.day_start_ms(0) == 1_710_046_800_000  # 05:00 UTC
    assert spring.day_start_ms(1) - spring.day_start_ms(0) == 23 * hour
    assert spring.day_start_ms(0) - spring.day_start_ms(-1) == 24 * hour
    autumn = spring.for_date(dt.date(2024, 11, 3))
    assert autumn.day_start_ms(1) - autumn.day_start_ms(0) == 25 * hour


@given(day=st.dates(dt.date(1970, 1, 2), dt.date(2099, 1, 1)), offset=st.integers(-60, 60))
def test_in_utc_every_day_has_24_hours(day: dt.date, offset: int) -> None:
    settings = Settings.model_validate(MINIMAL).for_date(day)
    expected = ((day - dt.date(1970, 1, 1)).days + offset) * 86_400_000
    assert settings.day_start_ms(offset) == expected
