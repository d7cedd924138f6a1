"""Entry point, without Spark: see `./spark-submit.sh recommend --help`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.console import out
from dssm.imports import uncollected
from dssm.report.runs import find_run, published_table


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "recommend")
    paths = find_run(asked.run, asked.root, need=published_table("items"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow, which the view imports
    with uncollected():
        from dssm.serving.view import recommend

    recommend(paths, asked, out)


if __name__ == "__main__":
    exit_with(main)
