"""Settings hold no secrets; one that is written there all the same is refused, and not printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dssm.errors import UserError
from tests.settings_files import MINIMAL, changed, faults, load

KEY = "spark.hadoop.fs.s3a.secret.key"
REFUSED = f"spark.conf: '{KEY}' is a secret by its name; name its place in spark.secrets: {{{KEY}: {{env: …}}}}"


def test_a_setting_of_sparks_that_is_a_secret_by_its_name(tmp_path: Path) -> None:
    assert faults(tmp_path, changed(spark__conf={"spark.a": "x", KEY: "hush"})) == [REFUSED]
    for override in (f"spark.conf.{KEY}=hush", f"spark.conf={{{KEY}: hush}}", f"spark.conf.{KEY}={{a: hush}}"):
        assert faults(tmp_path, MINIMAL, override) == [REFUSED]


def test_the_place_of_one_is_read_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY", "hush")
    settings = load(tmp_path, changed(spark__conf={"spark.a": "x"}), f"spark.secrets={{{KEY}: {{env: S3_KEY}}}}")
    assert settings.spark.read_secrets() == {KEY: "hush"}
    assert "hush" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("spark.secrets={spark.some.thing: hush}", "spark.secrets.spark.some.thing: found '(not shown)': input should"),
        ("spark.secrets={spark.some.thing: {env: 'hush!'}}", "spark.secrets.spark.some.thing.env: found '(not shown)'"),
        ("spark.secrets=hush", "spark.secrets: found '(not shown)': input should be a valid dictionary"),
        ("spark.security.secret=hush", "spark.security.secret: found '(not shown)': input should"),
        (
            "spark.conf={spark.hadoop: {fs.s3a.secret.key: hush}}",
            "spark.conf: 'spark.hadoop' holds a mapping; expected a text",
        ),
        (f"spark.conf.{KEY}={{hush", f"--set spark.conf.{KEY}=(not shown): malformed value"),
        (f"spark.master.{KEY}=hush", f"--set spark.master.{KEY}=(not shown): 'spark.master' is not a section"),
    ],
)
def test_a_fault_does_not_show_the_secret_in_it(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load(tmp_path, changed(spark={"master": "local"}), override)
    assert message in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_file_that_is_no_yaml_does_not_show_one_either(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, f"name: a\nspark: {{{KEY}: hush, ]\n")
    assert line.startswith("malformed YAML: while parsing")
    assert "hush" not in line
