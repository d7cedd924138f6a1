"""What is read from a file of settings: defaults, names, overrides, dates and paths."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import Settings, load_settings, parse_dates
from dssm.errors import UserError
from dssm.features import DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat, embedded, of_side
from dssm.sections import HardNegatives, PopularityNegatives, ProfileTable, UniformNegatives
from tests.settings_files import (
    ABSENT,
    BCE,
    COUNTER,
    FAVOURITES,
    FEATURE,
    MINIMAL,
    NUMBER,
    TEXT,
    UPLOADED,
    changed,
    faults,
    load,
)

PROJECT = Path(__file__).parents[1]


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
