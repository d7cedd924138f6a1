"""What is sent to a cluster: this environment, packed once, and the code of `dssm` and of the user's plugins."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from dssm import storage
from dssm.console import step
from dssm.errors import UserError
from dssm.sections.spark import Environment

PROJECT = Path(__file__).resolve().parents[2]
CLASS_ARCHIVE = "spark-classes.jsa"  # in the environment's folder: scripts/spark_classes.sh
UNUSED_DAYS = 30  # after which an environment, a code archive or a driver's settings go
_MADE = r"(environment-DIGEST(\.tar\.gz)?|dssm-DIGEST\.zip|[\w-]+-DIGEST\.yaml)".replace("DIGEST", "[0-9a-f]{16}")
OWN_NAMES = re.compile(rf"{_MADE}|\.{_MADE}\.\w+(\.tmp)?")  # whole, or unfinished; the folder may hold others' files

# What executors never open: headers, Spark's own jars (a cluster has them), build tools; tests and checks.
PACKED_LAYERS = ("build", "core", "horovod", "engines")
LEFT_OUT_LAYERS = ("dev", "java")
LEFT_OUT_PACKAGES = ("cmake", "pip", "libclang", "milvus-lite")
LEFT_OUT_FILES = (
    "tensorflow/include/*", "pyspark/jars/*", "pyspark/examples/*", "pyspark/data/*", "pandas/tests/*", "__editable__*",
)  # fmt: skip
# How archives are unpacked that are our own, and whose python is a link out of them: Python has filters from 3.11.4 on.
AS_THEY_ARE: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


class Packed:
    """This environment as a file that is sent, or a folder that all hosts see, named by a digest of what it holds."""

    def __init__(self, environment: Environment) -> None:
        self._settings = environment
        self._name = f"environment-{_digest(environment)}"
        self._folder = Path(environment.folder).expanduser().absolute()

    @property
    def archive(self) -> Path:
        return self._folder / f"{self._name}.tar.gz"

    @property
    def unpacked(self) -> Path:
        return self._folder / self._name

    @property
    def used(self) -> Path:
        """What executors run, or are sent."""
        return self.unpacked if self._settings.unpacked else self.archive

    def make(self) -> None:
        """Packs the environment, and unpacks it where that is asked for, unless it is there.

        Raises: UserError where this Python is in no virtual environment.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._settings.unpacked and (self.unpacked / "bin" / "python").is_symlink():
            _mark_used(self.unpacked)
            return
        if not self.archive.exists():
            with step("environment packed, once") as remarks:
                self._pack()
                remarks.append(f"{self.archive}, {self.archive.stat().st_size / 1e6:,.0f} MB")
        _mark_used(self.archive)
        if self._settings.unpacked:
            with step("environment unpacked for all hosts, once") as remarks:
                self._unpack()
                remarks.append(str(self.unpacked))

    def _pack(self) -> None:
        try:
            from venv_pack import Env
        except ModuleNotFoundError as error:
            raise UserError(
                "spark.environment: venv-pack is not installed; install dssm[cluster], or name a Python that every "
                "host has: spark.environment.python"
            ) from error
        if sys.prefix == sys.base_prefix:
            raise UserError(
                f"spark.environment: {sys.executable} is in no virtual environment, so there is none to pack; "
                "name a Python that every host has: spark.environment.python"
            )
        packed = Env(sys.prefix)
        for pattern in _left_out():
            packed = packed.exclude(pattern)
        with _temporary(self.archive) as made, _links_to(self._settings.python_prefix):
            prefix = self._settings.python_prefix
            packed.pack(str(made), format="tar.gz", compress_level=1, force=True, python_prefix=prefix)

    def _unpack(self) -> None:
        made = Path(tempfile.mkdtemp(prefix=f".{self._name}.", dir=self._folder))
        try:
            made.chmod(0o755)
            with tarfile.open(self.archive) as held:
                held.extractall(made, **AS_THEY_ARE)
            made.rename(self.unpacked)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            if not self.unpacked.is_dir():  # another submitter has been faster
                raise


class Code:
    """The modules of `dssm` and of the user's plugins, as a zip file that Python imports from."""

    def __init__(self, plugins: Sequence[str], environment: Environment) -> None:
        self._files = dict(sorted(_modules(plugins)))
        digest = storage.digest(*(part for name, file in self._files.items() for part in (name, file.read_bytes())))
        self.archive = Path(environment.folder).expanduser().absolute() / f"dssm-{digest}.zip"

    def make(self) -> None:
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        if not self.archive.exists():
            with _temporary(self.archive) as made, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, file in self._files.items():
                    archive.write(file, name)
        _mark_used(self.archive)


def _digest(environment: Environment) -> str:
    """Returns a digest of the lock files, of what is installed, and of how it is packed."""
    files = [PROJECT / "requirements" / f"{layer}.lock" for layer in PACKED_LAYERS]
    locks = [file.read_text(encoding="utf-8") for file in files if file.exists()]  # none beside an installed package
    # RECORD has a digest of each file: Horovod built anew, with NCCL, keeps its version. Name and version stand
    # in one of the other two, and need not be understood, which would take most of a command's time.
    installed = sorted(
        storage.digest(*(held.read_text(name) or "" for name in ("METADATA", "PKG-INFO", "RECORD")))
        for held in importlib.metadata.distributions()
    )
    how = [sys.version, sys.base_prefix, str(environment.python_prefix), *LEFT_OUT_LAYERS, *LEFT_OUT_PACKAGES]
    return storage.digest(*locks, "\n".join(installed), "\n".join([*how, *LEFT_OUT_FILES]))


def _left_out() -> Iterator[str]:
    """Yields venv-pack's patterns of the files that stay behind."""
    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    yield from (f"{site}/{pattern}" for pattern in LEFT_OUT_FILES)
    yield from ("setup.*", "stamps/*", CLASS_ARCHIVE)
    unwanted = {_canonical(name) for name in LEFT_OUT_PACKAGES} | {"dssm"}
    for layer in LEFT_OUT_LAYERS:
        lock = PROJECT / "requirements" / f"{layer}.lock"
        lines = lock.read_text(encoding="utf-8").splitlines() if lock.exists() else []
        unwanted |= {_canonical(line.partition("==")[0]) for line in lines if line[:1] != "#"}
    kept: set[str] = set()
    going: set[str] = set()
    for held in importlib.metadata.distributions():
        files = held.files or ()
        places = {f"{site}/{file.parts[0]}" for file in files if file.parts[0] != ".."}
        places |= {f"bin/{file.name}" for file in files if file.parts[0] == ".." and file.parent.name == "bin"}
        (going if _canonical(held.name) in unwanted else kept).update(places)
    for place in sorted(going - kept - {f"{site}/__pycache__"}):
        yield from (place, f"{place}/*")


@contextlib.contextmanager
def _links_to(prefix: str | None) -> Iterator[None]:
    """Has the packed environment's Python be a link to the one below a prefix.

    venv-pack 0.2.0 takes `python` for the beginning of `python3.11`, and would link to python3.113.11.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"

    def pairs(asked: str | None, context: Any) -> tuple[str | None, list[tuple[str, str]]]:
        if asked is None:
            return None, []
        names = (version, f"python{sys.version_info[0]}", "python")
        return asked, [(f"{context.orig_prefix}/bin/{name}", f"{asked}/bin/{version}") for name in names]

    if prefix is None:
        yield
        return
    with mock.patch("venv_pack.core.check_python_prefix", pairs):
        yield


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _modules(plugins: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yields a name in the archive and a file, for each module of dssm and of the plugins' packages.

    A plugin that is installed in the environment is packed with it.
    """
    for name in sorted({"dssm", *(plugin.partition(".")[0] for plugin in plugins)}):
        file = Path(str(sys.modules[name].__file__)).resolve()
        if name != "dssm" and file.is_relative_to(Path(sys.prefix).resolve()):
            continue
        if file.name != "__init__.py":
            yield file.name, file
            continue
        package = file.parent
        for module in sorted(package.rglob("*.py")):
            yield f"{name}/{module.relative_to(package).as_posix()}", module


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yields a file of another name beside a target, which is renamed to it at the end, or removed."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    made = Path(name)
    try:
        yield made
        made.chmod(0o644)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


def _mark_used(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # in a folder of several users: another has packed it
        os.utime(path)


def drop_unused(folder: Path, keep: set[Path]) -> None:
    """Removes what was used last more than UNUSED_DAYS ago, and what killed submitters have left.

    Each use marks what it uses. What another user owns, or another submitter has just removed, is passed over.

    Args: keep: what is used now; where another user owns that, it can't be marked.
    """
    limit = time.time() - UNUSED_DAYS * 24 * 3600
    for path in folder.iterdir():
        if path in keep or path.is_symlink() or not OWN_NAMES.fullmatch(path.name):
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if path.stat().st_mtime < limit:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
