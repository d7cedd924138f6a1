"""The process that Spark forks its Python workers from where all run on one machine.

`python -m dssm.workers` is `python -m pyspark.daemon` without three costs: 0.08 s of processor time at every task
(measured, Python 3.11), and a second at every worker's first. PySpark comes from its package instead of Spark's zip,
whose directory `importlib.invalidate_caches` would read again for each of its packages (CPython issue 103200); what
the tasks import is imported once, before the fork; and `gc.collect`, which a worker calls behind each task, leaves
that alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

IMPORTS = "DSSM_WORKER_IMPORTS"  # names of modules, with commas between them


def without_zips(paths: list[str]) -> list[str]:
    """Returns the places of modules without the archives that Spark puts before the installed PySpark and py4j."""
    return [path for path in paths if not (path.endswith(".zip") and "/python/lib/" in path.replace(os.sep, "/"))]


def main() -> None:
    left = set(without_zips(paths := [*sys.path, *sys.path_importer_cache]))
    sys.path[:] = [path for path in sys.path if path in left]
    for path in set(paths) - left:  # what has been searched once would be read again whether it is searched or not
        sys.path_importer_cache.pop(path, None)
    for name in filter(None, os.environ.get(IMPORTS, "").split(",")):
        importlib.import_module(name)
    daemon = importlib.import_module("pyspark.daemon")
    gc.freeze()
    daemon.manager()


if __name__ == "__main__":
    main()
