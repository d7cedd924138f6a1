"""A plugin that every Python of an executor imports: it notes which Python that is, and what it sees.

As Spark's `spark.python.daemon.module` it stands before PySpark's own; the ranks of a training import it with the
settings.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

# Environment of the executors: the checkout's folder; a host's address and a file: tasks there make the file and never
# end, tasks elsewhere begin when it is there.
CHECKOUT = "DSSM_TEST_CHECKOUT"
HELD = "DSSM_TEST_HELD"


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
        "environment": dict(os.environ),
        "is_rank": "HOROVOD_RANK" in os.environ,
    }
    made = Path(f".python-{os.getpid()}")
    made.write_text(json.dumps(noted))
    made.rename(f"python-{os.getpid()}.json")
    if HELD in os.environ:
        address, _, mark = os.environ[HELD].partition(" ")
        held = os.environ["SPARK_LOCAL_IP"] == address
        if held:
            Path(mark).touch()
        while held or not Path(mark).exists():
            time.sleep(0.2)


note()

if __name__ == "__main__":
    from pyspark.daemon import manager

    manager()
