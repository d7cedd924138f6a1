from __future__ import annotations

import re
from collections import Counter

import pytest

from scripts import lock

CHAINS = [[*below, layer] for layer, below in lock.LAYERS.items() if (lock.REQUIREMENTS / f"{layer}.lock").exists()]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[-1])
def test_a_package_is_pinned_once_among_the_layers_of_an_environment(chain: list[str]) -> None:
    pinned = Counter(name for layer in chain for name in lock.read_lock(layer))

    assert {name: count for name, count in pinned.items() if count > 1} == {}


@pytest.mark.parametrize("layer", [chain[-1] for chain in CHAINS])
def test_a_lock_says_how_it_was_made_and_holds_what_was_asked_for(layer: str) -> None:
    lines = (lock.REQUIREMENTS / f"{layer}.lock").read_text().splitlines()
    asked = (lock.REQUIREMENTS / f"{layer}.in").read_text().splitlines()
    names = {lock.canonical(re.split(r"[<>=\[;! ]", line)[0]) for line in asked if line and line[0] != "#"}

    assert "make lock" in lines[0]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+", line) for line in lines[1:])
    assert lines[1:] == sorted(lines[1:], key=lambda line: line.split("=="))
    assert names - {name for base in (*lock.LAYERS[layer], layer) for name in lock.read_lock(base)} == set()


def test_a_lock_leaves_out_what_the_layers_below_hold() -> None:
    resolved = {"torch-not": "1", "numpy": "1.26.4", "pip": "26"}

    assert lock.lock_text("core", resolved, below={"pip": "26"}) == (
        "# Made by `make lock` from requirements/core.in, on top of build.lock; every package is pinned. Do not edit.\n"
        "numpy==1.26.4\n"
        "torch-not==1\n"
    )


@pytest.mark.parametrize("name", ["PyYAML", "typing_extensions", "ruamel.yaml", "a--b"])
def test_names_are_compared_as_the_index_does(name: str) -> None:
    expected = {
        "PyYAML": "pyyaml",
        "typing_extensions": "typing-extensions",
        "ruamel.yaml": "ruamel-yaml",
        "a--b": "a-b",
    }

    assert lock.canonical(name) == expected[name]
