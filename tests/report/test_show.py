from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dssm.cli import PARTS
from dssm.errors import UserError
from dssm.manifest import CLICKED, EVENT_TIME, LABEL, UPLOAD_TIME, USER_ID, USER_KEY, WARM
from dssm.report.dataset import Run
from dssm.report.show import SIDES, Negative, Sample, decode, places_of_user, show
from tests.report.handmade import item, moment, sample, user, write_run


def shown(run: Run, part: str = "train", rows: int = 3, width: int = 120, **asked: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(run, console, part, rows, **asked)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def decoded(root: Path, part: str = "train", entries: int | None = None, **given: object) -> Sample:
    """Writes one row of a dataset and returns it in words."""
    rows = {"train": ([[sample(**given)]],), "test": ([()], [[sample(**given)]])}.get(part, ([()],))
    named = {"users": {"users": [user(**given)]}, "items": {"items": [item(0, 4, **given)]}}.get(part, {})
    run = write_run(root, *rows, **named)  # type: ignore[arg-type]
    (found,) = decode(run, part, run.part(part).take(np.array([0]), list(run.part(part).manifest.columns)), entries)
    return found


# One row in words --------------------------------------------------------------------------------------


def test_a_training_row(tmp_path: Path) -> None:
    assert decoded(tmp_path) == Sample(
        facts={
            "user": "u1",
            "item": "i1",
            "time": "Sat 2024-01-06 12:00:00 Asia/Shanghai",
            "source": "feed",
            "label": "1",
            "weight": "1",
            "like": "0",
            "share": "unknown",
            "item's share of train rows": "0.25",
        },
        features={
            "user": {
                "user_id": "u1",
                "city": "#3",
                "age": "[18, 30)",
                "income": "≥ 25",
                "hour": "12:00",
                "clicks": "i2, i1",
                "topics": "sport (0.5)",
                "height": "180 (stored 1)",
                "score": "3 (stored 0.5)",
                "visits": "7 (stored 2.079442)",
                "taste": "norm 5 [3, 4, 0, 0, … 6 numbers]",
            },
            "item": {
                "item_id": "i1",
                "topic": r"mu\x1bsic",
                "title": "#7 (2), #2 (1)",
                "price": "19.5",
                "ctr": "0.1",
                "image": "vector of i2",
            },
        },
        negatives=[
            Negative("uniform", "i2", {"probability": "0.2", "ctr": "0.3"}),
            Negative("uniform", "i3", {"probability": "0.2", "ctr": "0.2"}),
            Negative("popular", "i4", {"probability": "0.5", "ctr": "0.1"}),
        ],
    )


def test_what_is_unknown_or_missing(tmp_path: Path) -> None:
    found = decoded(tmp_path, user_id=1, clicks=[], topics=[1, 2], topics__weight=[0.25, 1], taste=[0] * 6, image=0)
    assert found.features["user"]["user_id"] == "unknown"
    assert found.features["user"]["clicks"] == "empty"
    assert found.features["user"]["topics"] == "unknown (0.25), sport (1)"
    assert found.features["user"]["taste"] == "no vector"
    assert found.features["item"]["image"] == "no vector"


def test_negatives_that_were_not_found_are_left_out(tmp_path: Path) -> None:
    found = decoded(tmp_path, row__negatives=[-1, 4, -1])
    assert [(negative.kind, negative.item) for negative in found.negatives] == [("uniform", "i5")]


def test_a_row_of_the_test(tmp_path: Path) -> None:
    found = decoded(tmp_path, part="test", row__target_share=0.125)
    assert found.negatives == []
    assert found.facts["share"] == "0.125"


def test_a_user(tmp_path: Path) -> None:
    found = decoded(tmp_path, part="users", entries=2, **{CLICKED: [0, 2, 4], WARM: 0})
    assert found.facts == {"user": "u1", "seen before the test": "no", "clicked in the test": "i1, i3, … 1 more"}
    assert list(found.features) == ["user"]


def test_an_item(tmp_path: Path) -> None:
    found = decoded(tmp_path, part="items")
    assert found.facts == {"item": "i1", "item's share of train rows": "0.5", "training positives": "4", "index": "0"}
    assert list(found.features) == ["item"]


def test_an_item_that_was_uploaded_later(tmp_path: Path) -> None:
    found = decoded(tmp_path, part="items", **{UPLOAD_TIME: moment("2024-01-03", "08:00:00")})
    assert found.facts["exists since"] == "Wed 2024-01-03 08:00:00 Asia/Shanghai"


def test_long_lists_are_cut_unless_all_is_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[sample(clicks=[2, 3, 4, 5, 6])]])
    table = run.part("train").take(np.array([0]), list(run.part("train").manifest.columns))
    cut, whole = (decode(run, "train", table, entries)[0].features["user"]["clicks"] for entries in (2, None))
    assert cut == "i1, i2, … 3 more"
    assert whole == "i1, i2, i3, i4, i5"


# What is printed ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = [
        sample(**{USER_ID: name, USER_KEY: ord(name), EVENT_TIME: moment("2024-01-06", clock), LABEL: label})
        for name, clock, label in (
            ("a", "09:00:00", 0),
            ("b", "10:00:00", 1),
            ("a", "12:00:00", 2),
            ("a", "11:00:00", 3),
        )
    ]
    late = sample(**{USER_ID: "z", EVENT_TIME: moment("2024-01-08")})
    return write_run(tmp_path, [rows[:2], rows[2:]], [[late]], users=[user(**{USER_ID: "z"})])


def test_the_first_rows(run: Run) -> None:
    text = shown(run, rows=3)
    assert text.startswith(f"tiny 2024-01-08 · train, 4 rows · {run.paths.folder}\n")
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("user ") and "  item " in line] == [
        "user a",
        "user b",
        "user a",
    ]
    assert "train 3 of 3 ─" in text


def test_more_rows_than_there_are(run: Run) -> None:
    text = shown(run, rows=9)
    assert "train 4 of 4 ─" in text
    assert "of 9" not in text


def test_a_users_rows_newest_first(run: Run) -> None:
    text = shown(run, rows=2, user="a")
    assert [line.split("label ")[1][0] for line in text.splitlines() if "label " in line] == ["2", "3"]
    assert "train 2 of 2 ─" in text


def test_a_user_of_the_table_of_users(run: Run) -> None:
    assert "clicked in the test i1, i3" in shown(run, part="users", user="z")


def test_the_towers_stand_side_by_side_where_there_is_room(run: Run) -> None:
    def has_both(text: str) -> bool:
        return any("user feature" in line and "item feature" in line for line in text.splitlines())

    assert has_both(shown(run, width=120))
    narrow = shown(run, width=60)
    assert not has_both(narrow)
    assert max(map(len, narrow.splitlines()[1:])) <= 60


@pytest.mark.parametrize(
    ("part", "user", "message"),
    [
        (
            "train",
            "q\x1b",
            r"--user q\x1b: no row of train is of this user. Users in it: 2, such as 'a', 'b'. "
            "Users are named as in the logs; without --user the first rows are shown",
        ),
        (
            "train",
            "z",
            "--user z: no row of train is of this user. Users in it: 2, such as 'a', 'b'. "
            "test has the user: add --part test",
        ),
        (
            "users",
            "a",
            "--user a: no row of users is of this user. Users in it: 1, such as 'z'. "
            "train has the user: add --part train",
        ),
        ("items", "a", "--user a: items has no users; expected --part train, test or users"),
    ],
)
def test_a_user_that_is_not_there(run: Run, part: str, user: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        shown(run, part=part, user=user)
    assert str(raised.value) == message


def test_a_user_of_a_dataset_without_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--user a: test has no rows$"):
        shown(write_run(tmp_path, [[sample()]]), part="test", user="a")


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=12).filter(
        lambda rows: any(mine for mine, _ in rows)
    ),
    rows=st.integers(1, 5),
    cut=st.integers(0, 12),
)
def test_the_newest_rows_of_a_user_are_found_wherever_they_stand(
    times: list[tuple[bool, int]], rows: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    every = [sample(**{USER_ID: "me" if mine else "you", EVENT_TIME: time}) for mine, time in times]
    run = write_run(tmp_path_factory.mktemp("runs"), [every[:cut], every[cut:]])
    mine = sorted((-time, place) for place, (is_mine, time) in enumerate(times) if is_mine)
    assert places_of_user(run, "train", "me", rows).tolist() == [place for _, place in mine[:rows]]


def test_the_command_knows_the_parts() -> None:
    assert tuple(SIDES) == PARTS
