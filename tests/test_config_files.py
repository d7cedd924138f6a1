"""SQL, sizes of files, files that are no settings, and files that extend others."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dssm.config import load_settings
from dssm.errors import UserError
from dssm.feature_checks import packed_width, rows_that_fit
from dssm.manifest import encoded_columns
from tests.settings_files import NUMBER, TEXT, changed, faults, load


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
    rows = rows_that_fit(row_bytes)
    assert (rows + 7 * rows**0.5) * row_bytes < 2**31
    assert (rows + 1 + 8 * (rows + 1) ** 0.5 + 1) * row_bytes >= 2**31 - 1


@pytest.mark.parametrize("storage", ["inline", "table"])
def test_the_packed_widths_are_those_of_the_encoded_columns(tmp_path: Path, storage: str) -> None:
    many = {**NUMBER, "column": "clicks", "pre_embed": "post", "reduce_type": "mean", "maxlen": 7}
    settings = load(
        tmp_path,
        changed(vectors__post__storage=storage, features__title=TEXT, features__age=NUMBER, features__many=many),
    )
    found = {name: packed_width(f, settings.vectors) for name, f in settings.features.items()}
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


# Files that extend others -------------------------------------------------------------------------------


def _write(path: Path, values: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


def test_a_file_extends_another(tmp_path: Path):
    _write(tmp_path / "base.yaml", changed(train__loss={"logq": "batch"}, model__vector_dim=8))
    above = {
        "extends": "../base.yaml",
        "name": "other",
        "features": {"clicked": None, "topic_id": {"dim": 5}, "all_topic_fav_7": {"dim": 5}},
        "train": {"loss": {"kind": "bpr", "negatives": "batch"}},
    }
    settings = load_settings(_write(tmp_path / "recipes" / "other.yaml", above))
    assert settings.name == "other"
    assert "clicked" not in settings.features
    assert settings.features["topic_id"].dim == 5  # type: ignore[union-attr]
    assert settings.features["topic_id"].side == "item"
    assert settings.model.vector_dim == 8
    assert settings.train.loss.kind == "bpr"


def test_null_takes_an_entry_away_on_the_command_line_too(tmp_path: Path):
    values = changed(train__recent={"days": 2})
    settings = load(tmp_path, values, "features.clicked=null", "train.recent=null")
    assert "clicked" not in settings.features
    assert settings.train.recent is None


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("pipeline.yaml", "extends itself"),
        ("none.yaml", "none.yaml is no file; expected a YAML file's path relative to this one"),
        (3, "extends: found 3, expected the path of a YAML file"),
    ],
)
def test_what_can_not_be_extended(tmp_path: Path, extends: Any, message: str):
    with pytest.raises(UserError, match=message):
        load(tmp_path, changed(extends=extends))
