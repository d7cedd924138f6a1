"""Settings whose parts do not fit each other: one line a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dssm.encoders import Encoder
from tests.settings_files import BCE, COUNTER, FAVOURITES, FEATURE, MINIMAL, NUMBER, TEXT, changed, faults, load

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
    "a history read from its newest entry": (
        {"features__clicked__encoder": {"kind": "cnn", "order": "newest_last"}},
        "features.clicked.encoder.order: found newest_last, but a history is newest first; remove it",
    ),
    "a history with a separator": (
        {"features__clicked__separator": "|"},
        "features.clicked.separator: found '|', but a history is a list of items, and no text that it parts; remove it",
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
        {"samples__unclicked_weight": 2},
        "samples.unclicked_weight: found 2, but samples.train_rows is positives; set that to all, or remove the weight",
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


NEWEST_LAST = {"kind": "lstm", "order": "newest_last"}
BY_SHARE = {**FAVOURITES, "share_embedding": "topic_id"}


@pytest.mark.parametrize(
    ("feature", "given", "encoder"),
    [
        ("all_topic_fav_7", {"keep": "last"}, NEWEST_LAST),
        ("all_topic_fav_7", {"keep": "last"}, "attention"),
        ("all_topic_fav_7", {}, NEWEST_LAST),  # lists that are no longer than maxlen
        ("clicked", {}, "lstm"),
        ("favourites", BY_SHARE, NEWEST_LAST),  # the largest share first, whenever that was
    ],
)
def test_orders_that_fit_their_list(tmp_path: Path, feature: str, given: dict[str, Any], encoder: Any) -> None:
    described = {**MINIMAL["features"].get(feature, {}), **given, "encoder": encoder}
    read = load(tmp_path, changed(**{f"features__{feature}": described})).features[feature].encoder
    assert read == TypeAdapter(Encoder).validate_python(encoder)
