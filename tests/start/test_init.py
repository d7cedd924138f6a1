from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm.config import Settings, load_settings
from dssm.errors import UserError
from dssm.features import DenseFeat, SparseFeat, TextFeat, VarLenSparseFeat
from dssm.start.log import tally
from dssm.start.look import look
from dssm.start.write import init, look_at

EVENTS = "client_id,post_id,act,time\nu1,p1,1,1705276800000\nu2,p2,0,1705276900000\n"
POSTS = (
    "post_id,topic_id,title,length_s,blurb,cover size\n"
    "p1,7,first post,3.5,of a b c,1x2\np2,7,second post,9,of d e f,1x3\np3,8,third,2.25,of g h,2x2\n"
)
CLIENTS = (
    "client_id,kind,fav_topic_7,read_post_id,age_days\n"
    'u1,a,"7:0.5,8:0.2","p1,p2",12\nu2,a,7:1,"p2,p3,p1",30\nu3,b,"8:1,7:0.1",p1,31\n'
)


def write_tables(folder: Path) -> None:
    for day in ("2024-01-14", "2024-01-15"):
        (folder / "events" / f"dt={day}").mkdir(parents=True)
        (folder / "events" / f"dt={day}" / "part-0.csv").write_text(EVENTS)
    (folder / "posts.csv").write_text(POSTS)
    (folder / "clients.csv").write_text(CLIENTS)
    lines = [json.dumps({"post_id": f"p{n}", "values": [0.5, n, -1.0]}) for n in (1, 2)]
    (folder / "vectors.jsonl").write_text("\n".join(lines))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Settings, str]:
    write_tables(tmp_path)
    places = [str(tmp_path / name) for name in ("events", "posts.csv", "clients.csv", "vectors.jsonl")]
    text = init("mine", look_at(places[0], places[1], [places[2]], places[3]), str(tmp_path / "conf" / "mine.yaml"))
    return load_settings(str(tmp_path / "conf" / "mine.yaml")), text


def test_the_log_is_found_with_its_days(made: tuple[Settings, str], tmp_path: Path) -> None:
    settings, _ = made
    log = settings.sources["events"]
    assert (log.path, log.format) == (f"{tmp_path}/events/dt={{date}}/*.csv", "csv")
    assert (log.user, log.item, log.time, log.time_unit, log.label) == ("client_id", "post_id", "time", "ms", "act")
    assert settings.date.isoformat() == "2024-01-15"
    assert (settings.catalogue.key, settings.catalogue.title) == ("post_id", "title")
    assert (settings.vectors["item"].key, settings.vectors["item"].width) == ("post_id", 3)


def test_columns_become_the_features_that_they_look_like(made: tuple[Settings, str]) -> None:
    settings, text = made
    kinds = {name: type(feature) for name, feature in settings.features.items()}
    assert kinds == {
        "user_id": SparseFeat, "kind": SparseFeat, "fav_topic_7": VarLenSparseFeat, "read_post_id": VarLenSparseFeat,
        "age_days": DenseFeat, "clicks": VarLenSparseFeat, "clicks_vector": DenseFeat, "item_id": SparseFeat,
        "topic_id": SparseFeat, "length_s": DenseFeat, "blurb": TextFeat, "item_vector": DenseFeat,
    }  # fmt: skip
    favourites, read = settings.features["fav_topic_7"], settings.features["read_post_id"]
    assert isinstance(favourites, VarLenSparseFeat)
    assert isinstance(read, VarLenSparseFeat)
    assert (favourites.weighted, favourites.share_embedding, favourites.maxlen) == (True, "topic_id", 2)
    assert (read.weighted, read.share_embedding, read.maxlen) == (False, "item_id", 3)
    assert "# cover size: left out (no feature can have this name" in text
    assert "fav_topic_7: {kind: VarLenSparseFeat" in text
    assert text.count("# such as") == 10


def test_an_editor_is_told_where_the_schema_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables(tmp_path)

    def told(out: Path) -> str:
        text = init("mine", look_at(f"{tmp_path}/events", f"{tmp_path}/posts.csv", [], None), str(out))
        assert out.read_text(encoding="utf-8") == text
        return text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")

    schema = Path(__file__).parents[2] / "conf" / "schema.json"
    assert told(tmp_path / "elsewhere.yaml") == schema.as_uri()
    monkeypatch.setattr("dssm.start.write.shipped", lambda name: tmp_path / "checkout" / name)
    assert told(tmp_path / "checkout/conf/mine.yaml") == "schema.json"
    assert told(tmp_path / "checkout/conf/of/mine.yaml") == "../schema.json"


def test_parquet_without_days(tmp_path: Path) -> None:
    rows = {"uid": ["a", "b"], "item": [1, 2], "event_time": ["2024-03-01 10:00:00", "2024-03-02 11:00:00"]}
    pq.write_table(pa.table({**rows, "tags": [["x", "y"], ["z"]]}), tmp_path / "log.parquet")
    found = look("--events", str(tmp_path / "log.parquet"))
    assert (found.format, found.days) == ("parquet", None)
    assert {column.name: column.looks for column in found.columns} == {
        "uid": "category", "item": "category", "event_time": "date", "tags": "list",
    }  # fmt: skip
    (tmp_path / "items.csv").write_text("item,colour\n1,red\n2,red\n")
    init("mine", look_at(f"{tmp_path}/log.parquet", f"{tmp_path}/items.csv", [], None), f"{tmp_path}/x.yaml")
    settings = load_settings(f"{tmp_path}/x.yaml")
    assert (settings.date.isoformat(), settings.sources["events"].time_unit) == ("2024-03-02", "iso")
    assert settings.sources["events"].label == "1"


def test_what_can_not_be_told_is_said(tmp_path: Path) -> None:
    write_tables(tmp_path)
    posts = str(tmp_path / "posts.csv")
    with pytest.raises(UserError, match=r"--events .*posts.csv: no column looks like the user id; found post_id, top"):
        init("mine", look_at(posts, posts, [], None), str(tmp_path / "x.yaml"))
    with pytest.raises(UserError, match=r"^--items nowhere.csv: not found; expected a file"):
        look("--items", "nowhere.csv")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"notes: no file ends in .csv"):
        look("--items", str(tmp_path / "notes"))
    (tmp_path / "x.yaml").write_text("")
    events = str(tmp_path / "events")
    with pytest.raises(UserError, match="there is such a file already"):
        init("mine", look_at(events, posts, [], None), str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "user_id;item_id;time\n1;2;3\n",
            r"found one column, 'user_id;item_id;time'; expected commas between columns$",
        ),
        ("user_id|item_id\n1|2\n", r"found one column, 'user_id\|item_id'; expected commas between columns$"),
        ("user_id\titem_id\n1\t2\n", r"found one column, 'user_id\\titem_id'; expected commas between columns$"),
        ("user_id;title\n1;a\n2;b, c\n3;d, e, f\n", r"can't be read as csv .*; expected .* commas between columns$"),
    ],
)
def test_a_table_with_something_else_than_commas_between_its_columns(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=rf"^--events {tmp_path}/log\.csv: {said}"):
        look("--events", str(tmp_path / "log.csv"))


def test_names_in_camel_case_and_columns_that_yaml_reads_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,4.5,1112486027\n2,8,3,1112484676\n")
    (tmp_path / "movies.csv").write_text("movieId,title,on,null\n7,A film,a,b\n8,Another film,a,c\n")
    out = str(tmp_path / "x.yaml")
    text = init("movies", look_at(f"{tmp_path}/ratings.csv", f"{tmp_path}/movies.csv", [], None), out)
    settings = load_settings(out)
    log = settings.sources["events"]
    assert (log.user, log.item, log.time, log.time_unit) == ("userId", "movieId", "timestamp", "s")
    # Both events are of one day: none is left to train on, which the file says.
    assert (settings.date.isoformat(), settings.catalogue.title) == ("2005-04-02", "title")
    assert "# Too short to train and test" in text
    assert "# on: left out" in text
    assert "# null: left out" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"x,y\n"),
        ("a.csv", "x\nf\u00fcr\n".encode("latin-1")),
        ("a.parquet", b"PAR1"),
        ("a.json", b"{"),
    ],
    ids=["empty", "header alone", "latin-1", "damaged Parquet", "half a line"],
)
def test_a_file_that_can_not_be_read_is_one_message(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^--items {tmp_path}/{name}: (can't be read as|has no rows)"):
        look("--items", str(tmp_path / name))


def test_of_a_large_log_in_folders_of_days_the_train_days_positives_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(100):
        day = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC) + dt.timedelta(number)
        rows = [f"u{n % 9},p{n % 3},{n % 2},{day.timestamp() * 1000 + n:.0f}" for n in range(200)]
        (tmp_path / "log" / f"dt={day:%Y-%m-%d}").mkdir(parents=True)
        (tmp_path / "log" / f"dt={day:%Y-%m-%d}" / "a.csv").write_text("\n".join(["user_id,item_id,click,time", *rows]))
    (tmp_path / "items.csv").write_text("item_id,colour\np1,red\np2,red\n")
    tables = look_at(f"{tmp_path}/log", f"{tmp_path}/items.csv", [], None)
    whole = init("x", tables, f"{tmp_path}/whole.yaml")
    limit = sum(tables.events.sizes) // 30  # so that three days are read: the first, one amid and the last
    monkeypatch.setattr("dssm.start.write.tally", lambda *told: tally(*told, limit=limit))
    part = init("x", tables, f"{tmp_path}/part.yaml")
    for text in (whole, part):
        assert "date: 2024-04-07 " in text
        assert "window: {train_days: 30, test_days: 3}" in text
        assert "# sized by the 3,000 positives of the train days" in text
        assert "Too short" not in text
    assert "from all times and labels of the log." in whole
    assert "from the times and labels of some of the log's files." in part
    assert "20,000 events" in capsys.readouterr().out.splitlines()[0]


def test_a_config_that_does_not_hold_leaves_no_file(tmp_path: Path) -> None:
    write_tables(tmp_path)
    tables = look_at(str(tmp_path / "events"), str(tmp_path / "posts.csv"), [], None)
    with pytest.raises(UserError, match=r"^init: a config for these tables does not hold: .*name"):
        init("no name: at all", tables, str(tmp_path / "x.yaml"))
    assert not list(tmp_path.glob("x.yaml*"))
