from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from dssm.errors import UserError
from dssm.sections.spark import Environment
from dssm.submitting import archives
from dssm.submitting.archives import UNUSED_DAYS, Code, Packed
from tests.submitting.test_command import REMOTE, submission

SITE = "lib/python3.11/site-packages"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment of a few files, in which this process seems to be. Returns: its folder."""
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    own = tmp_path / "small"
    subprocess.run([base, "-m", "venv", "--without-pip", own], check=True)
    files = {
        "kept/__init__.py": "", "kept-1.dist-info/METADATA": "Name: kept\nVersion: 1\n",
        "kept-1.dist-info/RECORD": "kept/__init__.py,,\n../../../bin/kept,,\n../../../bin/both,,\n",
        "ruff/__init__.py": "",
        "ruff-1.dist-info/METADATA": "Name: ruff\nVersion: 1\n",
        "ruff-1.dist-info/RECORD": "ruff/__init__.py,,\n../../../bin/ruff,,\n../../../bin/both,,\n",
        "../../../bin/ruff": "", "../../../bin/kept": "", "../../../bin/both": "",
        "pandas/tests/test_a.py": "",
        "__editable__.dssm-0.1.0.pth": "import __editable___dssm_finder", "tensorflow/include/a.h": "",
        "tensorflow/a.py": "",
    }  # fmt: skip
    for name, text in files.items():
        (own / SITE / name).parent.mkdir(parents=True, exist_ok=True)
        (own / SITE / name).write_text(text)
    monkeypatch.setattr(sys, "prefix", str(own))
    as_before = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: as_before(path=[str(own / SITE)]))
    return own


def packed_names(archive: Path) -> set[str]:
    with tarfile.open(archive) as held:
        return {name.removeprefix(f"{SITE}/") for name in held.getnames()}


@pytest.mark.usefixtures("small")
def test_an_environment_is_packed_once_without_what_executors_do_not_need(tmp_path: Path) -> None:
    packed = Packed(Environment(folder=f"{tmp_path}/cache"))
    packed.make()
    names = packed_names(packed.archive)
    assert {"kept/__init__.py", "tensorflow/a.py", "bin/python", "bin/kept", "bin/both", "pyvenv.cfg"} <= names
    left_out = {"tensorflow/include/a.h", "pandas/tests/test_a.py", "__editable__.dssm-0.1.0.pth"}
    assert not names & {"ruff/__init__.py", "bin/ruff", *left_out}
    made = packed.archive.stat()
    Packed(Environment(folder=f"{tmp_path}/cache")).make()
    assert packed.archive.stat().st_ino == made.st_ino
    assert [path.name for path in packed.archive.parent.iterdir()] == [packed.archive.name]
    assert not packed.unpacked.exists()


@pytest.mark.usefixtures("small")
def test_an_environment_is_unpacked_where_all_hosts_see_it(tmp_path: Path) -> None:
    packed = Packed(Environment(folder=f"{tmp_path}/cache", unpacked=True))
    packed.make()
    ran = [packed.unpacked / "bin/python", "-c", "import kept, sys; print(kept.__file__, sys.prefix)"]
    shown = subprocess.run(ran, capture_output=True, text=True, check=True).stdout.split()
    assert shown == [f"{packed.unpacked}/{SITE}/kept/__init__.py", str(packed.unpacked)]
    packed.archive.unlink()
    packed.make()  # nothing is packed for what is unpacked
    assert not packed.archive.exists()
    assert sorted(path.name for path in packed.unpacked.parent.iterdir()) == [packed.unpacked.name]


@pytest.mark.usefixtures("small")
def test_the_hosts_may_have_python_elsewhere(tmp_path: Path) -> None:
    packed = Packed(Environment(folder=f"{tmp_path}/cache", python_prefix="/usr"))
    packed.make()
    with tarfile.open(packed.archive) as held:
        assert held.getmember("bin/python3.11").linkname == "/usr/bin/python3.11"
        assert held.getmember("bin/python").linkname == "python3.11"


def test_what_is_installed_how_and_from_which_locks_names_the_archive(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Environment(folder=f"{tmp_path}/cache")
    names = [Packed(here).archive.name]
    assert Packed(here).archive.name == names[0]
    names.append(Packed(here.model_copy(update={"python_prefix": "/usr"})).archive.name)
    (small / SITE / "kept-1.dist-info/METADATA").write_text("Name: kept\nVersion: 2\n")
    names.append(Packed(here).archive.name)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/core.lock").write_text("kept==2\n")
    monkeypatch.setattr(archives, "PROJECT", tmp_path)
    names.append(Packed(here).archive.name)
    (small / SITE / "kept-1.dist-info/RECORD").write_text("kept/__init__.py,sha256=built-anew,9\n")
    names.append(Packed(here).archive.name)
    assert len(set(names)) == 5


def test_a_packing_that_fails_leaves_nothing(small: Path, tmp_path: Path) -> None:
    (small / SITE / "broken.py").symlink_to("/no/such/file")
    (small / "bin/broken").write_text("x")
    (small / "bin/broken").chmod(0)
    packed = Packed(Environment(folder=f"{tmp_path}/cache"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("venv_pack.core.Packer.finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            packed.make()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_python_of_no_virtual_environment_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(UserError, match=r"^spark\.environment: .* is in no virtual environment"):
        Packed(Environment(folder=f"{tmp_path}/cache")).make()


OLD, NEW = "0123456789abcdef", "fedcba9876543210"
LINK = "dssm-0000000000000000.zip"
MADE = ("environment-{}.tar.gz", "dssm-{}.zip", "demo-{}.yaml")
UNFINISHED = (".environment-{}.tar.gz.ab_1", ".dssm-{}.zip.ab_1", ".demo-{}.yaml.0ab1.tmp")
OF_OTHERS = ("environment-mine.tar.gz", "dssm-1.zip", "demo.yaml", f"demo-{OLD}.yaml.bak", f"notes-{OLD}.txt", OLD)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["unpacked: false", "unpacked: true", "python: /opt/bin/python"])
def test_what_nobody_has_used_for_a_month_goes(tmp_path: Path, kind: str) -> None:
    """At each submission, also at one that packs nothing. Files that are not made here stay."""
    cache = tmp_path / "cache"
    made = submission("yarn", "evaluate", *REMOTE, f"spark.environment={{folder: {cache}, {kind}}}")
    made.prepare()
    used = {path.name for path in cache.iterdir()}
    if kind == "unpacked: true":
        used -= {name for name in used if name.endswith(".tar.gz")}  # the folder is run
    for folder in (f"environment-{OLD}", f".environment-{OLD}.ab_1", f"environment-{NEW}", "environment-mine"):
        (cache / folder).mkdir()
        (cache / folder / "file").touch()
    for name in (*OF_OTHERS, *(name.format(digest) for name in (*MADE, *UNFINISHED) for digest in (OLD, NEW))):
        (cache / name).touch()
    (cache / LINK).symlink_to(cache / OLD)
    for path in cache.iterdir():
        if NEW not in path.name:
            long_ago = time.time() - (UNUSED_DAYS + 1) * 24 * 3600
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    made.prepare()
    new = {name.format(NEW) for name in (*MADE, *UNFINISHED, "environment-{}")}
    left = {path.name for path in cache.iterdir()}
    assert left == {*used, *new, *OF_OTHERS, "environment-mine", LINK}


def test_code_is_dssm_and_the_plugins_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_ours/deep").mkdir(parents=True)
    for name in ("of_ours/__init__.py", "of_ours/deep/__init__.py", "of_ours/deep/kinds.py", "alone.py"):
        (tmp_path / name).write_text("FOUND = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("of_ours.deep.kinds", "alone"):
        importlib.import_module(name)
    code = Code(("of_ours.deep.kinds", "alone", "rich.text"), Environment(folder=f"{tmp_path}/cache"))
    code.make()
    with zipfile.ZipFile(code.archive) as held:
        names = set(held.namelist())
    assert {
        "of_ours/__init__.py",
        "of_ours/deep/kinds.py",
        "alone.py",
        "dssm/spark.py",
        "dssm/train/worker.py",
    } <= names
    assert not [name for name in names if name.startswith("rich")]  # it is in the environment
    script = "import sys; sys.path.insert(0, sys.argv[1]); import dssm.config, of_ours.deep.kinds; print(dssm.__file__)"
    ran = [sys.executable, "-c", script, str(code.archive)]
    shown = subprocess.run(ran, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    assert shown == f"{code.archive}/dssm/__init__.py"
    (tmp_path / "alone.py").write_text("FOUND = 2\n")
    assert Code(("of_ours.deep.kinds", "alone"), Environment(folder=f"{tmp_path}/cache")).archive != code.archive
