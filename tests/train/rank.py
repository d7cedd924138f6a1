"""Runs a module in a rank as `dssm.train.rank` runs a training: python -m tests.train.rank MODULE ARGUMENTS."""

from __future__ import annotations

import runpy
import sys

from dssm.imports import uncollected

with uncollected():
    import dssm.train.worker  # noqa: F401

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
