"""The process that Spark forks its Python workers from where all run on one machine.

`python -m dssm.workers` is `python -m pyspark.daemon` without three costs: 0.08 s of processor time at every task
(measured, Python 3.11), and a second at every worker's first. PySpark comes from its package instead of Spark's
archives, whose directories `importlib.invalidate_caches` would read again (CPython issue 103200); what the tasks import
is imported once, before the fork; and `gc.collect`, which a worker calls behind each task, leaves that alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys

IMPORTS = "DSSM_WORKER_IMPORTS"  # names of modules, with commas between them
SPARKS = re.compile(r"/python/lib/[^/]*\.zip$|/jars/spark-core_[^/]*\.jar$")


def is_sparks(path: str) -> bool:
    """Whether Spark has put an archive before the installed PySpark and py4j: theirs, or that of its own classes."""
    return SPARKS.search(path.replace(os.sep, "/")) is not None


def main() -> None:
    sys.path[:] = [path for path in sys.path if not is_sparks(path)]
    for path in [*filter(is_sparks, sys.path_importer_cache)]:  # it has been searched, and would be read on and on
        del sys.path_importer_cache[path]
    for name in filter(None, os.environ.get(IMPORTS, "").split(",")):
        importlib.import_module(name)
    daemon = importlib.import_module("pyspark.daemon")
    gc.freeze()
    daemon.manager()


if __name__ == "__main__":
    main()
