"""What a checkout has beside `dssm`, and an installed package in it: entry points, Spark's settings, the schema."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Returns a file or folder by its path in the checkout; setup.py packs it under the same one."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
