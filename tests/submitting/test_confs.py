from __future__ import annotations

from pathlib import Path

import pytest

from dssm.errors import UserError
from dssm.submitting.confs import CONF, address_of, read_conf
from dssm.submitting.masters import PREFIXES, kind_of


def test_a_file_holds_a_key_and_its_value_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text("# a comment\n\nspark.a    1 2  3 \n  spark.b\ttrue\nspark.c x=#y\n")
    assert read_conf(file) == {"spark.a": "1 2  3", "spark.b": "true", "spark.c": "x=#y"}


@pytest.mark.parametrize("line", ["spark.a", "a.b 1", "spark.executor.memory="])
def test_a_line_that_is_no_setting(line: str, tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text(f"spark.a 1\n{line}\n")
    with pytest.raises(UserError) as raised:
        read_conf(file)
    assert str(raised.value) == f"{file}:2: found '{line}', expected a key of Spark's and its value"


def test_each_kind_of_cluster_has_its_file() -> None:
    assert {file.stem for file in CONF.glob("*.conf")} == set(PREFIXES.values())


@pytest.mark.parametrize(
    ("master", "kind"),
    [
        ("local", "local"), ("local[*]", "local"), ("local[2,4]", "local"), ("spark://a:1,b:2", "standalone"),
        ("yarn", "yarn"), ("k8s://https://a:6443", "kubernetes"),
    ],
)  # fmt: skip
def test_kinds_of_masters(master: str, kind: str) -> None:
    assert kind_of(master) == kind


def test_the_address_of_the_first_interface_that_the_host_has() -> None:
    assert address_of("nope0, lo") == "127.0.0.1"
