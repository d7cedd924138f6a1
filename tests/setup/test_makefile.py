from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import LONGEST

PROJECT = Path(__file__).resolve().parents[2]


# Marks of tests that a target looks for in one place alone, so as not to collect all others.
PLACES = {
    "horovod": "tests/train",
    "cluster": "tests/cluster",
    "hosts": "tests/cluster",
    "kuairand": "tests/test_kuairand.py",
}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_make_alone_lists_every_target() -> None:
    phony = re.findall(r"^\.PHONY: (\S+)", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    listed = re.findall(r"^  make (\S+)", make().stdout, flags=re.MULTILINE)

    assert sorted(listed) == sorted({*phony, "bench-%"} - {"has-data"})


def test_kuairand_without_its_folder_says_so_before_anything_is_set_up() -> None:
    done = make("kuairand", "DATA=/nowhere")

    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "kuairand: '/nowhere' is no folder; "
        "the public download is run by: make kuairand CONFIG=conf/kuairand_full.yaml DATA=KuaiRand-Pure/data."
    )
    assert done.stdout == ""


def test_kuairand_on_other_files_than_the_config_reads_says_what_reads_the_download(tmp_path: Path) -> None:
    for name in ("log_standard_4_22_to_5_08_pure.csv", "log_standard_4_08_to_4_21_pure.csv"):
        (tmp_path / name).touch()
    extract = make("kuairand", f"DATA={tmp_path}")
    (tmp_path / "user_features_pure.csv").touch()
    download = make("kuairand", f"DATA={tmp_path}", "CONFIG=conf/kuairand_full.yaml")
    assert [done.returncode for done in (extract, download)] == [2, 2]
    assert extract.stderr.splitlines()[0] == (
        f"kuairand: '{tmp_path}' has no events.csv.gz, which conf/kuairand.yaml reads; "
        "the public download is run by: make kuairand CONFIG=conf/kuairand_full.yaml DATA=KuaiRand-Pure/data."
    )
    assert f"'{tmp_path}' has no video_features_basic_pure.csv, which conf/kuairand_full.yaml reads" in download.stderr
    assert (extract.stdout, download.stdout) == ("", "")


def test_what_kuairand_has_been_given_is_enough(tmp_path: Path) -> None:
    paths = re.findall(r'path: "\{data\}/([^"]+)"', (PROJECT / "conf" / "kuairand.yaml").read_text(encoding="utf-8"))
    assert len(paths) == 7
    for path in paths:
        (tmp_path / path).touch()
    assert make("has-data", f"DATA={tmp_path}").returncode == 0


def test_every_target_that_runs_python_sets_the_environment_up_first() -> None:
    rules = re.split(r"\n(?=\S+: )", (PROJECT / "Makefile").read_text())
    python = [rule for rule in rules if re.search(r"\t.*(\.venv/|PYTEST|run_jobs)", rule) and "clean" not in rule]

    assert len(python) >= 9
    assert [rule.splitlines()[0] for rule in python if not re.match(r"\S+: .*\bsetup\b", rule)] == []


def test_tests_of_a_mark_lie_where_its_target_looks_for_them() -> None:
    rules = (PROJECT / "Makefile").read_text()
    for mark, place in PLACES.items():
        marked = [path for path in (PROJECT / "tests").rglob("test_*.py") if _has(path, mark)]
        assert marked
        assert [path for path in marked if not path.is_relative_to(PROJECT / place)] == []
        assert re.search(rf"-m \"?[a-z ]*\b{mark}\b[^\n]* {place}\n", rules)


def _has(path: Path, mark: str) -> bool:
    return re.search(rf"pytest\.mark\.{mark}\b", path.read_text(encoding="utf-8")) is not None


def test_the_longest_files_are_there() -> None:
    assert [name for name in LONGEST if not (PROJECT / "tests" / name).exists()] == []
