"""Entry point, without Spark: see `./spark-submit.sh serve --help`."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

from dssm.cli import exit_with, parse_view
from dssm.report.runs import find_run


def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_view(argv, "serve")
    paths = find_run(asked.run, asked.root)
    # NAME follows the newest date; NAME/DATE and a folder stay with theirs.
    follow = posixpath.basename(asked.run.rstrip("/")) != posixpath.basename(paths.folder)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow, which the service imports
    from dssm.serving.serve import serve

    serve(paths, asked.host, asked.port, asked.index, follow)


if __name__ == "__main__":
    exit_with(main)
