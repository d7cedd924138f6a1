from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.manifest import EVENT_TIME, ITEM_KEY, LABEL, NEGATIVES, USER_KEY, WEIGHT, Statistics
from dssm.report.dataset import Run
from dssm.report.figures import PartProfile
from dssm.report.measures import PartCounts
from dssm.report.popularity import item_positives, popularity_groups
from tests.report.handmade import STATISTICS, TOKENS, Row, make_settings, moment, sample, write_run


def measured(run: Run, part: str = "train") -> PartProfile:
    return PartCounts(run, part, popularity_groups(item_positives(run))).read().profile()


def of_rows(root: Path, rows: list[Row], files: int = 2) -> PartProfile:
    return measured(write_run(root, [rows[place::files] for place in range(files)]))


def one_feature(root: Path, name: str, values: list[Any], **beside: list[Any]) -> Any:
    """Returns the profile of a feature whose column, and those beside it, hold these values."""
    columns = {name: values, **beside}
    rows = [sample(**{key: of[row] for key, of in columns.items()}) for row in range(len(values))]
    return of_rows(root, rows).features[name]


# Rows --------------------------------------------------------------------------------------------------


def test_rows_positives_users_and_items(tmp_path: Path) -> None:
    rows = [
        sample(**{LABEL: label, WEIGHT: weight, USER_KEY: user, ITEM_KEY: item})
        for label, weight, user, item in ((1, 2.0, 7, 1), (0, 1.0, 7, 2), (3, 0.0, 8, 1), (0, 0.5, -9, 3))
    ]
    found = of_rows(tmp_path, rows)
    assert (found.rows, found.files, found.positives, found.weight) == (4, 2, 2, 3.5)
    assert (found.users, found.items, found.counts_are_exact) == (3, 3, True)


def test_rates_by_day_in_the_settings_time_zone(tmp_path: Path) -> None:
    """Midnight in Shanghai parts the days; a day without rows between two others is told."""
    rows = [
        sample(**{EVENT_TIME: moment(*time), LABEL: label, "row__target_like": like})
        for time, label, like in (
            (("2024-01-05", "00:00:00"), 1, 1.0),
            (("2024-01-05", "23:59:59"), 0, np.nan),
            (("2024-01-07", "00:00:00"), 1, 0.25),
            (("2024-01-07", "12:00:00"), 1, 0.75),
        )
    ]
    days = of_rows(tmp_path, rows).days
    found = [(day.day, day.rows, day.positives, day.known["like"], day.sums["like"]) for day in days]
    assert found == [("2024-01-05", 2, 1, 1, 1.0), ("2024-01-06", 0, 0, 0, 0.0), ("2024-01-07", 2, 2, 2, 1.0)]
    assert [day.known["share"] for day in days] == [0, 0, 0]


def test_a_dataset_without_rows(tmp_path: Path) -> None:
    found = measured(write_run(tmp_path, [[sample()]]), "test")
    assert (found.rows, found.days, found.positives) == (0, [], 0)
    assert found.features["clicks"].lengths == [0] * 6
    assert found.features["height"].numbers is None


def test_samples_of_other_settings(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[sample()]])
    features = {**make_settings(tmp_path).model_dump()["features"], "shoe": {"kind": "DenseFeat", "side": "user"}}
    other = Run(run.paths, make_settings(tmp_path, features=features), run.manifest)
    with pytest.raises(UserError, match=r"samples/train: no column 'shoe'; run build_samples again$"):
        measured(other)


# Features ----------------------------------------------------------------------------------------------


def test_ids(tmp_path: Path) -> None:
    found = one_feature(tmp_path, "user_id", [4, 1, 2, 4, 4, 2])
    assert (found.missing, found.entries, found.unknown) == (None, 6, 1)
    assert found.ids.model_dump() == {"tokens": ["u3", "u1"], "counts": [3, 2], "others": 0, "unknown": 1}


def test_lists(tmp_path: Path) -> None:
    found = one_feature(tmp_path, "topics", [[2, 1], [], [3, 2, 2], []], topics__weight=[[1, 1], [], [1, 1, 1], []])
    assert (found.missing, found.entries, found.unknown) == (2, 5, 1)
    assert found.lengths == [2, 0, 1, 1]
    assert found.ids.tokens == ["sport", "mu\x1bsic"]
    assert found.ids.counts == [3, 1]


def test_only_the_most_frequent_tokens_are_told_by_name(tmp_path: Path) -> None:
    tokens = {**TOKENS, "user_id": [f"u{place:04d}" for place in range(600)]}
    rows = [sample(user_id=place + 2) for place in (*range(600), 599)]
    ids = measured(write_run(tmp_path, [rows], tokens=tokens)).features["user_id"].ids
    assert ids is not None
    assert ids.tokens[:3] == ["u0599", "u0000", "u0001"]
    assert (len(ids.tokens), ids.others, ids.total) == (500, 100, 601)


@pytest.mark.parametrize(
    ("name", "stored", "raw"),
    [
        ("price", [0.0, -1.0, 5.0, -1.0], [0.0, -1.0, 5.0, -1.0]),
        ("height", [0.0, -1.0, 2.0, 0.0], [170.0, 160.0, 190.0, 170.0]),
        ("score", [0.5, 0.0, 1.0, 0.5], [3.0, 1.0, 5.0, 3.0]),
        ("visits", [0.0, np.log(5), np.log(2), 0.0], [0.0, 4.0, 1.0, 0.0]),
    ],
)
def test_numbers_are_told_as_before_the_transform(
    name: str, stored: list[float], raw: list[float], tmp_path: Path
) -> None:
    found = one_feature(tmp_path, name, stored)
    numbers = found.numbers
    told = [numbers.count, numbers.mean, numbers.deviation, numbers.minimum, numbers.maximum, numbers.quantiles[2]]
    assert told == pytest.approx([4, np.mean(raw), np.std(raw), min(raw), max(raw), np.median(raw)], abs=1e-6)
    assert found.missing == 2


def test_vectors(tmp_path: Path) -> None:
    found = one_feature(tmp_path, "taste", [[3, 4, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1], [0] * 6])
    assert found.missing == 2
    assert (found.numbers.mean, found.numbers.maximum) == pytest.approx((1.5, 5.0))
    assert list(found.bins) == ["norm"]


def test_vectors_of_a_frozen_table(tmp_path: Path) -> None:
    found = one_feature(tmp_path, "image", [0, 2, 1, 0, 0])
    assert (found.missing, found.numbers, found.ids) == (3, None, None)


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.integers(1, 5), min_size=1, max_size=30), files=st.integers(1, 4))
def test_files_do_not_change_what_is_found(
    values: list[int], files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [sample(age=value, clicks=[2] * value, price=float(value)) for value in values]
    whole, parted = (of_rows(tmp_path_factory.mktemp("runs"), rows, count) for count in (1, files))
    for name in ("age", "clicks"):
        assert whole.features[name] == parted.features[name]
    assert whole.features["price"].bins == parted.features["price"].bins


# Negatives ---------------------------------------------------------------------------------------------


def test_negatives_are_counted_of_positives_by_kind_and_popularity(tmp_path: Path) -> None:
    """Items 0, 1 and 2 of five have positives: the first is the top one, the next two stand in the upper half."""
    rows = [
        sample(**{NEGATIVES: [0, -1, 4]}),
        sample(**{NEGATIVES: [2, 3, 0]}),
        sample(**{NEGATIVES: [-1, -1, -1], LABEL: 0}),
    ]
    found = of_rows(tmp_path, rows).negatives
    uniform, popular = found["uniform"], found["popular"]
    assert (uniform.asked, uniform.found, uniform.by_popularity) == (4, 3, [1, 0, 1, 0, 1])
    assert (popular.asked, popular.found, popular.by_popularity) == (2, 2, [1, 0, 0, 0, 1])


# Drift -------------------------------------------------------------------------------------------------


def drifts(root: Path, before: list[Row], after: list[Row], **later: Any) -> dict[tuple[str, str], Any]:
    """Returns the drift of train by feature and measure between two dates."""
    earlier = measured(write_run(root, [before]))
    run = write_run(root, [after], settings=make_settings(root, dt.date(2024, 1, 9)), **later)
    counts = PartCounts(run, "train", popularity_groups(item_positives(run))).read()
    return {(drift.feature, drift.measure): drift for drift in counts.drift(earlier)}


def test_every_feature_is_compared(tmp_path: Path) -> None:
    found = drifts(tmp_path, [sample()] * 40, [sample()] * 60)
    assert set(found) == {
        ("user_id", "ids"), ("city", "ids"), ("age", "bucket"), ("income", "bucket"), ("hour", "ids"),
        ("clicks", "ids"), ("clicks", "length"), ("topics", "ids"), ("topics", "length"), ("height", "number"),
        ("score", "number"), ("visits", "number"), ("taste", "norm"), ("item_id", "ids"), ("topic", "ids"),
        ("title", "ids"), ("title", "length"), ("price", "number"), ("ctr", "number"), ("image", "missing"),
    }  # fmt: skip
    assert max(drift.psi for drift in found.values()) < 0.001


def test_a_vocabulary_that_is_numbered_anew_is_no_drift(tmp_path: Path) -> None:
    before = [sample(user_id=2), sample(user_id=3), sample(user_id=3)] * 50
    after = [sample(user_id=3), sample(user_id=2), sample(user_id=2)] * 50
    same = drifts(tmp_path / "a", before, after, tokens={**TOKENS, "user_id": ["u2", "u1"]})
    assert same["user_id", "ids"].verdict == "within chance"
    moved = drifts(tmp_path / "b", before, after)
    assert moved["user_id", "ids"].verdict == "large"


def test_a_transform_by_other_statistics_is_no_drift(tmp_path: Path) -> None:
    """170 is stored as 0 on one date and as 1 on the next."""
    other = {**STATISTICS, "height": Statistics(events=9, mean=160, deviation=10, minimum=150, maximum=200)}
    random = np.random.default_rng(0)
    stored = random.normal(size=300)
    before, after = [sample(height=value) for value in stored], [sample(height=value + 1) for value in stored]
    assert drifts(tmp_path / "a", before, after, statistics=other)["height", "number"].psi < 0.01
    assert drifts(tmp_path / "b", before, after)["height", "number"].verdict == "large"


def test_vectors_of_a_frozen_table_that_go_missing(tmp_path: Path) -> None:
    before, after = ([sample(image=int(row >= none)) for row in range(100)] for none in (10, 60))
    drift = drifts(tmp_path, before, after)["image", "missing"]
    q, p = np.array([90.5, 10.5]) / 101, np.array([40.5, 60.5]) / 101
    assert drift.psi == pytest.approx(((p - q) * np.log(p / q)).sum())
    assert (drift.verdict, drift.moved) == ("large", "no vector: 10.0 % → 60.0 %")


def test_lists_that_grow(tmp_path: Path) -> None:
    found = drifts(tmp_path, [sample(clicks=[2])] * 100, [sample(clicks=[2, 2, 2])] * 100)
    assert found["clicks", "length"].verdict == "large"
    assert found["clicks", "ids"].verdict == "within chance"
