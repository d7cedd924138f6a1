from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pytest

from dssm.cli import init_parser
from dssm.config import Settings, load_settings
from dssm.features import SparseFeat, VarLenSparseFeat
from dssm.start.guess import Zone, upload_time, zone
from dssm.start.look import Looked, look
from dssm.start.write import init, look_at
from tests.documents import PROJECT, fences

MARK = re.compile(r"^ *\w+:.*# \?(.*)$", re.MULTILINE)
FIRST = dt.datetime(2024, 3, 1, 17, tzinfo=dt.UTC)  # 1 a.m. of the second, eight hours ahead


def looked(folder: Path, rows: list[str]) -> Looked:
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return look("--events", str(folder / "table.csv"))


def log_of(hours: int, ahead: float) -> list[str]:
    """A log of two events an hour, by two users, as (user_id, item_id, date, hourmin, time_ms, is_click, is_like)."""
    rows = ["user_id,item_id,date,hourmin,time_ms,is_click,is_like,watched_s"]
    for half_hour in range(2 * hours):
        utc = FIRST + dt.timedelta(minutes=30 * half_hour + 7, seconds=40)
        local = utc + dt.timedelta(hours=ahead)
        flags = f"{half_hour % 3 % 2},{half_hour % 2},{half_hour % 9}"
        times = f"{local:%Y%m%d},{int(f'{local:%H%M}')},{utc.timestamp() * 1000:.0f}"
        rows.append(f"u{half_hour % 2},i{half_hour % 5},{times},{flags}")
    return rows


@pytest.fixture
def made(tmp_path: Path) -> tuple[Settings, str]:
    (tmp_path / "log.csv").write_text("\n".join(log_of(24 * 29 + 5, 8)) + "\n")
    (tmp_path / "items.csv").write_text(
        "item_id,tag,tags,age_group,upload_dt\n"
        'i0,39,a|b,"(0,10]",2024-02-01\ni1,"20,43",c,"(10,20]",2024-02-02\ni2,7,a,500+,\n'
        "i3,39,b,500+,2024-02-01\ni4,7,c,500+,2024-02-02\n"
    )
    feats = [f"u{n},{n % 2},{n % 3},{n * 7 % 700},{-n}" for n in range(900)]
    (tmp_path / "users.csv").write_text("user_id,feat0,feat1,feat2,balance\n" + "\n".join(feats))
    tables = look_at(f"{tmp_path}/log.csv", f"{tmp_path}/items.csv", [f"{tmp_path}/users.csv"], None)
    text = init("mine", tables, f"{tmp_path}/x.yaml")
    return load_settings(f"{tmp_path}/x.yaml"), text


def test_windows_are_of_all_the_log_in_the_zone_that_its_days_are_of(made: tuple[Settings, str]) -> None:
    settings, text = made
    assert settings.timezone == "Asia/Shanghai"
    assert "days begin at midnight there; date and hourmin are 8 h ahead of UTC" in text
    # From 1 a.m. of 2 March, for 29 days and five hours: to 6 a.m. of the 31st, which is beyond the rows looked at.
    assert (settings.date.isoformat(), settings.window.train_days, settings.window.test_days) == ("2024-03-29", 27, 3)
    assert "The log runs from 2024-03-01 17:07 to 2024-03-30 21:37 UTC: 1,402 events, 467 positives, 2 users." in text


def test_the_tutorial_shows_the_marks_as_they_are_written(made: tuple[Settings, str]) -> None:
    (shown,) = (fence.text for fence in fences(PROJECT / "docs" / "tutorial.md") if "# ? D:" in fence.text)
    marks = [[mark.strip() for mark in MARK.findall(text)] for text in (shown, made[1])]
    assert marks[0] == marks[1]
    assert len(marks[0]) == 5


def test_a_small_log_has_one_rank_small_batches_and_known_users(made: tuple[Settings, str]) -> None:
    train = made[0].train
    assert (train.launch, train.ranks, train.batch_size, train.epochs) == ("single", 1, 32, 20)
    user = made[0].features["user_id"]
    assert isinstance(user, SparseFeat)
    assert user.min_count == 5  # two users of some 200 clicks each


def test_lists_ids_and_upload_times_are_told_by_values(made: tuple[Settings, str]) -> None:
    settings, _ = made
    tag, tags = settings.features["tag"], settings.features["tags"]
    assert isinstance(tag, VarLenSparseFeat)
    assert isinstance(tags, VarLenSparseFeat)
    assert (tag.separator, tag.maxlen, tags.separator, tags.maxlen) == (",", 2, "|", 2)
    assert isinstance(settings.features["age_group"], SparseFeat)
    assert isinstance(settings.features["feat2"], SparseFeat)  # 700 ids beside feat0 and feat1
    assert settings.features["balance"].kind == "DenseFeat"
    assert (settings.catalogue.upload_time, settings.catalogue.upload_unit) == ("upload_dt", "iso")
    assert "upload_dt" not in settings.features


def test_only_what_decides_the_meaning_is_marked(made: tuple[Settings, str]) -> None:
    marked = [line.split(":")[0].strip() for line in made[1].splitlines() if "# ?" in line]
    assert marked == ["date", "window", "timezone", "label", "upload_time"]
    assert "which may be the label: is_like." in made[1]
    assert "a second log is another entry beside events" in made[1]
    assert "another entry under sources" in " ".join(init_parser().format_help().split())


def test_an_id_with_a_rival_is_marked(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,member_id,item_id,time\na,b,i,1700000000\na,b,i,1700100000\n")
    (tmp_path / "items.csv").write_text("item_id,published_at\ni,1600000000\n")
    text = init("x", look_at(f"{tmp_path}/log.csv", f"{tmp_path}/items.csv", [], None), f"{tmp_path}/x.yaml")
    assert 'user: "user_id"    # ? or member_id' in text
    assert load_settings(f"{tmp_path}/x.yaml").catalogue.upload_unit == "s"


@pytest.mark.parametrize(
    ("ahead", "name", "minutes"),
    [
        (8, "Asia/Shanghai", 480),
        (5.5, "Asia/Kolkata", 330),
        (0, "UTC", 0),
        (-5, "Etc/GMT+5", -300),
        (2, "Etc/GMT-2", 120),
        (14, "Etc/GMT-14", 840),
        (-12, "Etc/GMT+12", -720),
        (-13, "UTC", 0),  # there is no Etc/GMT+13
    ],
)
def test_the_zone_of_a_day_and_a_time_beside_a_unix_time(tmp_path: Path, ahead: float, name: str, minutes: int) -> None:
    log = looked(tmp_path, log_of(30, ahead))
    time = log.named("time_ms")
    assert time is not None
    found = zone(log, time)
    assert (found.name, found.offset_min) == (name, minutes)


def test_a_zone_is_told_by_a_time_in_words_and_by_nothing_else(tmp_path: Path) -> None:
    log = looked(tmp_path, ["ts,seen_at", "1700000000,2023-11-15 06:13:20", "1700000060,2023-11-15 06:14:20"])
    assert zone(log, log.columns[0]).name == "Asia/Shanghai"
    apart = looked(tmp_path, ["ts,seen_at", "1700000000,2023-11-15 06:13:20", "1700000060,2021-01-15 01:14:20"])
    assert zone(apart, apart.columns[0]) == Zone("UTC", 0, "seen_at beside ts tell no other")
    empty = looked(tmp_path, ["ts,date,hour", "1700000000,20231115,"])
    assert zone(empty, empty.columns[0]).name == "UTC"


def test_numbers_of_json_lines_stay_numbers_whatever_their_column_is_called(tmp_path: Path) -> None:
    """Pandas would make dates of a timestamp and of created_at, after which nothing tells their unit."""
    ms = [1_700_000_000_000 + 40_000_000 * number for number in range(9)]
    rows = [{"user_id": n % 2, "item_id": n % 3, "timestamp": time, "click": 1} for n, time in enumerate(ms)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = [{"item_id": number, "created_at": 1_600_000_000 + number} for number in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    init("x", look_at(f"{tmp_path}/log.jsonl", f"{tmp_path}/items.jsonl", [], None), f"{tmp_path}/x.yaml")
    settings = load_settings(f"{tmp_path}/x.yaml")
    assert settings.sources["events"].time_unit == "ms"
    assert (settings.catalogue.upload_time, settings.catalogue.upload_unit) == ("created_at", "s")


def test_an_upload_time_has_the_name_and_the_values_of_one(tmp_path: Path) -> None:
    rows = ["id,upload_type,updated_at,created", "1,5,2024-01-01,2024-01-01T10:00:00Z", "2,6,2024-01-01,2024-01-02"]
    column = upload_time(looked(tmp_path, rows))
    assert column is not None
    assert column.name == "created"
    assert upload_time(looked(tmp_path, ["id,uploads,release", "1,5,1990", "2,6,2001"])) is None
