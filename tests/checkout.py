"""A copy of the checkout, in which commands of the documents run as they are written, on little data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from tests.documents import PROJECT

SMALL_DEMO = "--events 40000 --clients 800 --posts 400"  # what `make demo DEMO=…` takes


def copy_of_project(folder: Path) -> Path:
    """Copies the checkout below a folder, with this one's environment."""
    copy = folder / "dssm"
    left_out = shutil.ignore_patterns(".*", "runs", "data", "build", "dist", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(PROJECT, copy, ignore=left_out)
    (copy / ".venv").symlink_to(PROJECT / ".venv")
    (copy / "scripts" / "setup_env.sh").write_text("#!/bin/sh\n")
    return copy


def shrink(config: Path, **changes: object) -> None:
    """Puts changes over a config of the copy, so that it fits little data; commands name it as before."""
    whole = config.with_name(f"{config.stem}_whole.yaml")
    config.rename(whole)
    config.write_text(yaml.safe_dump({"extends": whole.name, **changes}), encoding="utf-8")


def of_no_make() -> dict[str, str]:
    """Returns this environment without what the `make` that runs the tests tells those below it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
