"""A plugin that every Python of an executor imports: it notes which Python that is, and what it sees.

As Spark's `spark.python.daemon.module` it stands before PySpark's own; the ranks of a training import it with the
settings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CHECKOUT = "DSSM_TEST_CHECKOUT"  # environment of the executors


def note() -> None:
    checkout = os.environ.get(CHECKOUT)
    if checkout is None:  # the submitting process, or the driver
        return
    import dssm

    noted = {
        "prefix": sys.prefix,
        "path": [place for place in sys.path if place],
        "dssm": dssm.__file__,
        "checkout": sorted(path.name for path in Path(checkout).iterdir()),
        "is_rank": "HOROVOD_RANK" in os.environ,
    }
    Path(f"python-{os.getpid()}.json").write_text(json.dumps(noted))


note()

if __name__ == "__main__":
    from pyspark.daemon import manager

    manager()
