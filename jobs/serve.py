"""Entry point, without Spark: see `./spark-submit.sh serve --help`."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.imports import uncollected
from dssm.report.runs import find_run, published_table

# A request is one query and one row: with threads of their own, faiss and TensorFlow only get in each other's way.
# On two busy cores 8 clients had a p99 of 13 and 16 ms with one thread each, of 33 and 103 without, in two rounds.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "serve")
    paths = find_run(asked.run, asked.root, need=published_table("items"))
    # NAME follows the newest date; NAME/DATE and a folder stay with theirs.
    follow = posixpath.basename(asked.run.rstrip("/")) != posixpath.basename(paths.folder)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow, which the service imports
    for threads in THREADS:
        os.environ.setdefault(threads, "1")
    with uncollected():
        from dssm.serving.serve import serve

    serve(paths, asked.host, asked.port, asked.index, follow)


if __name__ == "__main__":
    exit_with(main)
