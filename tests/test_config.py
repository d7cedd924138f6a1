from __future__ import annotations

import copy
import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import Settings, load_settings, parse_dates
from dssm.errors import UserError
from dssm.features import DenseFeat, SparseFeat, VarLenSparseFeat

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
        "weights, or a DenseFeat with pre_embed and a reduce_type",
    ),
    "a history with weights": (
        {"features__clicked__weighted": True},
        "features.clicked.column: 'clicks' is a history, a list without weights; expected a VarLenSparseFeat without "
        "weights, or a DenseFeat with pre_embed and a reduce_type",
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
        "or train.loss: in_batch_softmax",
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
            "(known: SparseFeat, VarLenSparseFeat, DenseFeat)"
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

    conf = {"spark.sql.shuffle.partitions": 99, "spark.sql.session.timeZone": "Asia/Tokyo", "spark.a": 1}
    usual = session_conf(load(tmp_path, MINIMAL))
    assert (usual["spark.sql.shuffle.partitions"], usual["spark.sql.session.timeZone"]) == ("8", "UTC")
    assert session_conf(load(tmp_path, changed(spark__conf=conf))) == usual | {
        "spark.sql.shuffle.partitions": "99",
        "spark.sql.session.timeZone": "Asia/Tokyo",
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
