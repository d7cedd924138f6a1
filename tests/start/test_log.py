from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dssm.errors import UserError
from dssm.start.log import HOUR_MS, SMALLEST_HASHES, Tally, distinct, tally, unix_ms
from dssm.start.look import look

HOUR = 475_000  # Unix hours of the log's first event
ROWS = 5000  # more than are looked at


def events() -> pd.DataFrame:
    """An event an hour, by 7 users in turn, of which every fourth is a positive, not in the order of time."""
    hours = np.random.default_rng(0).permutation(ROWS)
    return pd.DataFrame(
        {
            "user_id": [f"u{hour % 7}" for hour in hours],
            "item_id": hours % 11,
            "time": (HOUR + hours) * HOUR_MS + 5,
            "click": (hours % 4 == 0).astype(int),
            "note": 'a "quoted", text',
        }
    )


def write_csv(folder: Path) -> Path:
    events().to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


def write_gzip(folder: Path) -> Path:
    events().to_csv(folder / "log.csv.gz", index=False)
    return folder / "log.csv.gz"


def write_json(folder: Path) -> Path:
    events().to_json(folder / "log.jsonl", orient="records", lines=True)
    return folder / "log.jsonl"


def write_parquet(folder: Path) -> Path:
    events().to_parquet(folder / "log.parquet", row_group_size=700)
    return folder / "log.parquet"


def write_folder(folder: Path) -> Path:
    (folder / "log").mkdir()
    for number, part in enumerate(np.array_split(np.arange(ROWS), 5)):
        events().iloc[part].to_csv(folder / "log" / f"part-{number}.csv", index=False)
    return folder / "log"


def tally_of(path: Path, limit: int = 10**9) -> Tally:
    return tally(look("--events", str(path)), "user_id", "time", "ms", "click", limit)


@pytest.mark.parametrize("write", [write_csv, write_gzip, write_json, write_parquet, write_folder])
def test_all_rows_are_tallied(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("dssm.start.log.BLOCK_BYTES", 10_000)  # many blocks
    log = tally_of(write(tmp_path))
    assert (log.first_ms, log.last_ms) == (HOUR * HOUR_MS + 5, (HOUR + ROWS - 1) * HOUR_MS + 5)
    assert log.rows == {HOUR + hour: 1 for hour in range(ROWS)}
    assert log.positives == {HOUR + hour: 1 for hour in range(0, ROWS, 4)}
    assert (log.users, log.scale) == (7, 1)


def test_of_a_large_folder_some_files_are_read_and_scaled(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "part-1.csv").write_text("not,a,log\n" + "x" * (folder / "part-0.csv").stat().st_size)
    log = tally_of(folder, limit=(folder / "part-0.csv").stat().st_size * 3)
    assert sum(log.rows.values()) == ROWS * 3 / 5
    assert log.scale == pytest.approx(5 / 3, rel=0.01)


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ('{"user_id": "u1", "time": 17000', 0),
        ("not JSON", 0),
        ("[1]", 0),
        ('{"user_id": 7, "time": "1700000000000", "click": "1"}', 1),
        ('{"user_id": "u1", "time": 1700000000000.0, "click": true, "note": {"a": 1}}', 1),
        ('{"user_id": "u1", "time": 1700000000000, "click": 1, "note": [3]}', 1),
    ],
    ids=["cut short", "no JSON", "no object", "texts", "other numbers", "another field's type"],
)
def test_a_json_line_that_is_bad_or_of_other_types_ends_nothing(tmp_path: Path, line: str, rows: int) -> None:
    path = write_json(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2500], line, *lines[2500:], line]))
    log = tally_of(path)
    assert (sum(log.rows.values()), sum(log.positives.values())) == (ROWS + 2 * rows, ROWS / 4 + 2 * rows)
    assert log.users == 7 + ("7" in line.split(",")[0])


def test_flags_of_json_may_be_true_and_false(tmp_path: Path) -> None:
    lines = [{"user_id": 2**60, "item_id": 2, "time": 1.7e12 + n, "click": n % 3 == 0} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    log = tally_of(tmp_path / "a.jsonl")
    assert (sum(log.rows.values()), sum(log.positives.values()), log.last_ms) == (30, 10, 1_700_000_000_029)


def test_a_file_without_any_json_line_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    write_json(tmp_path / "log").rename(tmp_path / "log" / "a.jsonl")
    (tmp_path / "log" / "b.jsonl").write_text("user_id,time,click\nu1,1700000000000,1\n")
    with pytest.raises(UserError, match=r"b.jsonl: can't be read as json \(no line is a JSON object\)"):
        tally_of(tmp_path / "log")


def test_files_without_a_byte_are_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for name in ("part-.csv", "part-2a.csv", "part-9.csv"):
        (folder / name).touch()
    seen = look("--events", str(folder))
    assert [Path(file).name for file in seen.files] == [f"part-{number}.csv" for number in range(5)]
    assert list(seen.sizes) == [Path(file).stat().st_size for file in seen.files]
    assert sum(tally_of(folder).rows.values()) == ROWS


def test_an_absent_key_of_a_json_line_is_no_positive(tmp_path: Path) -> None:
    lines = [json.dumps({"user_id": 1, "item_id": 2, "time": 1_700_000_000_000, **more}) for more in ({"click": 1}, {})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    log = tally_of(tmp_path / "a.jsonl")
    assert (sum(log.rows.values()), sum(log.positives.values())) == (2, 1)


def test_a_file_without_the_columns_or_cut_short_is_one_message(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "part-3.csv").write_text("user_id,time\na,1\n")
    with pytest.raises(
        UserError, match=r"^--events .*part-3.csv: can't be read as csv .*click.*; expected rows with us"
    ):
        tally_of(folder)
    (folder / "part-3.csv").unlink()
    whole = gzip.compress(b"user_id,item_id,time,click\n" + b"a,b,1700000000000,1\n" * 9)
    (folder / "part-3.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(UserError, match=r"part-3.csv.gz: can't be read as csv"):
        tally_of(folder)


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["1700000000000", "x", "", "-5", "9e15"], "ms", [1_700_000_000_000, 0, 0, 0, 0]),
        ([1_700_000_000.5, float("nan")], "s", [1_700_000_000_500, 0]),
        (["2023-11-14", "2023-11-14 22:13:20", "2023-11-15T06:13:20+08:00", "soon"], "iso",
         [1_699_920_000_000, 1_700_000_000_000, 1_700_000_000_000, 0]),
    ],
)  # fmt: skip
def test_times(values: list[object], unit, expected: list[int]) -> None:  # type: ignore[no-untyped-def]
    assert unix_ms(pd.Series(values), unit).tolist() == expected


def test_many_users_are_counted_within_some_percent() -> None:
    hashes = np.sort(pd.util.hash_array(np.arange(300_000).astype(str).astype(object)))
    assert distinct(hashes[:SMALLEST_HASHES]) == pytest.approx(300_000, rel=0.05)
    assert distinct(hashes[:50]) == 50
