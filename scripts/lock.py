"""Regenerates requirements/*.lock from requirements/*.in: `make lock`.

Each layer is resolved on top of the layers it is installed on, which pin what they already hold. pip resolves in a
throw-away environment and installs nothing there but the build layer, which source distributions need
to tell their dependencies.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"

# Layer → the layers it is installed on, in order.
LAYERS = {
    "build": (),
    "core": ("build",),
    "horovod": ("build", "core"),
    "engines": ("build", "core", "horovod"),
    "dev": ("build", "core", "horovod", "engines"),
    "java": ("build", "core", "horovod", "engines", "dev"),
    "airflow": ("build",),
    "deepmatch": ("build",),
}


def canonical(name: str) -> str:
    """Returns the package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_text(layer: str, resolved: dict[str, str], below: dict[str, str]) -> str:
    """Returns a lock file: what the layer adds to the layers below it.

    Args:
      layer: its name.
      resolved: canonical name → version of everything that the layer and those below it need.
      below: the same of the layers below, as locked.
    """
    base = "".join(f", on top of {name}.lock" for name in LAYERS[layer][-1:])
    lines = [f"# Made by `make lock` from requirements/{layer}.in{base}; every package is pinned. Do not edit."]
    lines += [f"{name}=={version}" for name, version in sorted(resolved.items()) if name not in below]
    return "\n".join(lines) + "\n"


def read_lock(layer: str) -> dict[str, str]:
    """Returns canonical name → version of a lock file."""
    lines = (REQUIREMENTS / f"{layer}.lock").read_text().splitlines()
    return {canonical(n): v for n, v in (line.split("==") for line in lines if line and line[0] != "#")}


def resolve(python: Path, layer: str) -> dict[str, str]:
    """Returns canonical name → version of everything that the layer and those below it need."""
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--no-build-isolation",
    ]
    for name in LAYERS[layer]:
        command += ["-r", str(REQUIREMENTS / f"{name}.in"), "-c", str(REQUIREMENTS / f"{name}.lock")]
    command += ["-r", str(REQUIREMENTS / f"{layer}.in"), "--report", "-"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = (package["metadata"] for package in report["install"])
    return {canonical(package["name"]): package["version"] for package in found}


def main() -> None:
    if sys.version_info[:2] != (3, 11):
        raise SystemExit(f"lock: Python 3.11 makes the locks, found {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(prefix="lock-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        for layer in LAYERS:
            if not (REQUIREMENTS / f"{layer}.in").exists():
                continue
            below = {name: version for base in LAYERS[layer] for name, version in read_lock(base).items()}
            text = lock_text(layer, resolve(python, layer), below)
            (REQUIREMENTS / f"{layer}.lock").write_text(text)
            print(f"lock: requirements/{layer}.lock, {text.count('==')} packages")
            if layer == "build":
                lock = str(REQUIREMENTS / "build.lock")
                subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", lock], check=True)


if __name__ == "__main__":
    main()
