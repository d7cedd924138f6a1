from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.setup.tree import Tree, new_tree


@pytest.fixture
def fresh(tmp_path: Path) -> Tree:
    """A checkout in which nothing was run."""
    return new_tree(tmp_path / "tree")


class Made(NamedTuple):
    """A tree with its environment, where it belongs (it cannot move), a copy, and what was said in its making."""

    folder: Path
    copy: Path
    said: str


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    code, out, error = new_tree(folder / "tree").run()
    assert (code, out) == (0, ""), error
    shutil.copytree(folder / "tree", folder / "copy", symlinks=True)
    return Made(folder / "tree", folder / "copy", error)


@pytest.fixture
def made(made_once: Made) -> Tree:
    """A checkout with its environment made."""
    shutil.rmtree(made_once.folder)
    shutil.copytree(made_once.copy, made_once.folder, symlinks=True)
    return Tree(made_once.folder)
